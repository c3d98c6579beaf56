"""What a condition can ask about: the objects of the policy language and their fields, each with its kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a value is; decides which operators and literals fit."""

    TEXT = "text"
    NUMBER = "number"
    SIZE_MB = "size in megabytes"
    SIZE_BYTES = "size in bytes"
    DURATION_MS = "duration in milliseconds"
    DURATION_S = "duration in seconds"
    FLAG = "true or false"
    TEXTS = "list of texts"
    NOTHING = "nothing"
    JOB = "job"
    WORKER = "worker"
    POOL = "pool"
    GPU = "gpu"
    TENANT = "tenant"
    MODEL = "model"
    METRICS = "metrics"
    USER = "user"
    GEO = "place"
    LABELS = "labels"
    WORKERS = "list of workers"
    POOLS = "list of pools"
    GPUS = "list of gpus"


NUMERIC: Final = frozenset({Kind.NUMBER, Kind.SIZE_MB, Kind.SIZE_BYTES, Kind.DURATION_MS, Kind.DURATION_S})
COMPARABLE: Final = NUMERIC | {Kind.TEXT, Kind.FLAG, Kind.TEXTS}
"""Kinds that stand at the left side of a YAML condition; the others are reached through their fields."""

ELEMENT: Final = {Kind.WORKERS: Kind.WORKER, Kind.POOLS: Kind.POOL, Kind.GPUS: Kind.GPU, Kind.TEXTS: Kind.TEXT}


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its kind, what it holds, the only values it can have, and whether it is always there."""

    kind: Kind
    about: str
    choices: tuple[str, ...] = ()
    always: bool = False


def _text(about: str, *choices: str, always: bool = False) -> Field:
    return Field(Kind.TEXT, about, choices, always)


def _number(about: str, *, always: bool = False) -> Field:
    return Field(Kind.NUMBER, about, always=always)


def _size(about: str) -> Field:
    return Field(Kind.SIZE_MB, about)


def _span(about: str) -> Field:
    return Field(Kind.DURATION_MS, about)


_GEO: Final = Field(Kind.GEO, "where it stands", always=True)
_LABELS: Final = Field(Kind.LABELS, "labels by name", always=True)
_MODEL: Final = _text("reference of its model", always=True)
_WORKER_STATES: Final = ("loading", "ready", "busy", "draining", "failed")
_WORKER_STATUS: Final = _text("its state", *_WORKER_STATES, always=True)

OBJECTS: Final[dict[Kind, dict[str, Field]]] = {
    Kind.JOB: {
        "id": _text("its id", always=True),
        "tenant_id": _text("who it is for"),
        "session_id": _text("the conversation it belongs to"),
        "model": _MODEL,
        "model_ref": _MODEL,
        "type": _text("what is asked: text-gen, embedding, image-gen, ..."),
        "priority": _text("its class", "interactive", "batch", always=True),
        "seed": _number("seed of its sampling; absent when the caller set none"),
        "max_tokens": _number("most tokens to generate"),
        "temperature": _number("sampling temperature"),
        "prompt_hash": _text("hash of its prompt"),
        "prompt_tokens": _number("tokens of its prompt"),
        "deadline": _span("time left until its deadline"),
        "queued_at": _number("when it was queued, milliseconds since 1970"),
        "wait_time_ms": _span("time it has waited"),
        "retry_count": _number("attempts that failed"),
        "estimated_vram_mb": _size("memory its model needs"),
        "estimated_duration_ms": _span("how long it will run"),
        "user": Field(Kind.USER, "who asks", always=True),
        "labels": _LABELS,
    },
    Kind.USER: {"geo": _GEO},
    Kind.GEO: {
        "latitude": _number("degrees north"),
        "longitude": _number("degrees east"),
        "region": _text("region, such as eu-west"),
    },
    Kind.WORKER: {
        "id": _text("its id", always=True),
        "pool_id": _text("the pool (hive) it runs on", always=True),
        "hive_id": _text("the hive it runs on", always=True),
        "status": _WORKER_STATUS,
        "state": _WORKER_STATUS,
        "model": _MODEL,
        "model_ref": _MODEL,
        "backend": _text("what it computes with", "cpu", "cuda", "rocm", "metal"),
        "device": _text("its device"),
        "gpus": _number("how many GPUs it spans", always=True),
        "gpu_ids": Field(Kind.TEXTS, "ids of its GPUs", always=True),
        "capability": _text("what it can do"),
        "pid": _number("its process"),
        "group": _text("its group"),
        "instance": _text("its instance"),
        "cpu_pct": _number("processor use in percent"),
        "rss_mb": _size("main memory in use"),
        "gpu_util_pct": _number("GPU use in percent"),
        "vram_mb": _size("GPU memory in use"),
        "total_vram_mb": _size("GPU memory in all"),
        "vram_free": _size("GPU memory free"),
        "uptime_s": Field(Kind.DURATION_S, "how long it has run"),
        "slots_total": _number("jobs it can run at once"),
        "slots_available": _number("slots free now"),
        "in_flight": _number("jobs it runs now"),
        "jobs_completed": _number("jobs it has completed"),
        "avg_tokens_per_sec": _number("tokens it generates a second"),
        "estimated_time": _span("how long the job at hand would take on it"),
        "idle_ms": _span("how long it has been idle; absent while it is busy"),
        "pinned": Field(Kind.FLAG, "whether it is never to be evicted", always=True),
        "cost_per_token": _number("what a token costs on it"),
        "geo": _GEO,
        "labels": _LABELS,
    },
    Kind.POOL: {
        "id": _text("its id", always=True),
        "status": _text("its health", "healthy", "degraded", "offline", always=True),
        "heartbeat_age_ms": _span("age of its last report"),
        "workers": Field(Kind.WORKERS, "its workers", always=True),
        "gpus": Field(Kind.GPUS, "its GPUs", always=True),
        "cached_models": Field(Kind.TEXTS, "models on its disk", always=True),
        "disk_free_mb": _size("disk free"),
        "ram_free_mb": _size("main memory free"),
        "geo": _GEO,
        "labels": _LABELS,
    },
    Kind.GPU: {
        "id": _text("its id", always=True),
        "device_name": _text("what it is called"),
        "compute_capability": _text("what it can compute"),
        "vram_total": _size("memory in all"),
        "vram_allocated": _size("memory claimed"),
        "vram_free": _size("memory free, as measured"),
        "vram_foreign": _size("memory other programs use"),
        "utilization_percent": _number("use in percent"),
        "temperature_celsius": _number("temperature"),
        "power_draw_watts": _number("power drawn"),
    },
    Kind.TENANT: {
        "id": _text("its id"),
        "name": _text("its name"),
        "quota_vram": _size("GPU memory it may use"),
        "quota_used": _size("GPU memory it uses"),
        "quota_max_concurrent_jobs": _number("jobs it may run at once"),
        "concurrent_jobs": _number("jobs it runs now"),
        "quota_tokens_daily": _number("tokens it may use a day"),
        "tokens_used_today": _number("tokens used today"),
        "weight": _number("its share against other tenants"),
    },
    Kind.MODEL: {
        "model_ref": _text("its reference"),
        "family": _text("its family, such as llama"),
        "size": _text("its size, such as 70b"),
        "quantization": _text("its quantization, such as Q4_K_M"),
        "vram_required_mb": _size("memory it needs"),
        "context_length": _number("tokens of its context"),
        "file_size_bytes": Field(Kind.SIZE_BYTES, "size of its file"),
    },
    Kind.METRICS: {
        "queue_depth": _number("jobs queued", always=True),
        "queue_depth_interactive": _number("interactive jobs queued", always=True),
        "queue_depth_batch": _number("batch jobs queued", always=True),
        "avg_wait_time_ms": _span("time the queued jobs have waited, on average"),
        "total_workers": _number("workers", always=True),
        "ready_workers": _number("workers that are ready", always=True),
        "busy_workers": _number("workers with every slot taken", always=True),
        "failed_workers": _number("workers that failed", always=True),
        "total_pools": _number("pools", always=True),
        "healthy_pools": _number("pools that are healthy", always=True),
        "total_gpus": _number("GPUs", always=True),
        "total_vram_mb": _size("GPU memory in all"),
        "free_vram_mb": _size("GPU memory free"),
        "avg_gpu_utilization": _number("GPU use in percent, on average"),
        "jobs_completed_last_minute": _number("jobs completed in the last minute"),
    },
}
"""The fields of policy.md, by object."""

ROOTS: Final[dict[str, tuple[Kind, str]]] = {
    "job": (Kind.JOB, "the job to be placed"),
    "worker": (Kind.WORKER, "each worker: the rule holds where some worker fulfils this, and acts on those"),
    "pool": (Kind.POOL, "each pool (hive): the rule holds where some pool fulfils this, and acts there"),
    "tenant": (Kind.TENANT, "who the job is for"),
    "model": (Kind.MODEL, "the job's model"),
    "metrics": (Kind.METRICS, "the cluster as a whole"),
}
"""Where a path can begin."""


def paths(kind: Kind, prefix: str) -> dict[str, Field]:
    """Returns every comparable field under an object by its dotted path; `labels.*` stands for any label."""
    found: dict[str, Field] = {}
    for name, field in OBJECTS[kind].items():
        path = f"{prefix}.{name}"
        if field.kind is Kind.LABELS:
            found[f"{path}.*"] = Field(Kind.TEXT, "the label of this name")
        elif field.kind in OBJECTS:
            found |= paths(field.kind, path)
        elif field.kind in COMPARABLE:
            found[path] = field
    return found


LEFT_SIDES: Final[dict[str, Field]] = {
    path: field for root, (kind, _) in ROOTS.items() for path, field in paths(kind, root).items()
}
"""Every left side of a YAML condition."""


def left_side(path: str) -> Field | None:
    """Returns the field a dotted path names, or None when there is none."""
    if path in LEFT_SIDES:
        return LEFT_SIDES[path]
    owner, found, label = path.partition(".labels.")
    return LEFT_SIDES.get(f"{owner}.labels.*") if found and label else None


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A short name for a field and an operator."""

    path: str
    operator: str
    about: str


SHORTCUTS: Final = {
    "model": Shortcut("job.model", "eq", "the job's model is this one, or one of these"),
    "model_contains": Shortcut("job.model", "contains", "the job's model has this in its name"),
    "model_starts_with": Shortcut("job.model", "starts_with", "the job's model begins with this"),
    "model_matches": Shortcut("job.model", "matches", "the job's model matches this pattern (* stands for anything)"),
    "task_type": Shortcut("job.type", "eq", "what is asked is this, or one of these"),
    "priority": Shortcut("job.priority", "eq", "the job's class: interactive or batch"),
    "tenant": Shortcut("job.tenant_id", "eq", "the job is for this tenant, or one of these"),
    "region": Shortcut("job.user.geo.region", "eq", "the caller is in this region, or one of these"),
}
"""Conditions in one word."""
