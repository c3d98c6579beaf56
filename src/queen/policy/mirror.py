"""The queen's state as the rows policies read, brought up to date at each cycle by a look at what was touched."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Final

from queen.core import feasibility
from queen.core.model import Device, Hive, HiveState, Job, ModelFile, Worker, WorkerState
from queen.core.ports import ClusterView
from queen.policy.rows import Row, Rows

AFFINITIES_KEPT: Final = 10_000
"""Sessions and prompt beginnings whose last worker is remembered, the newest."""

MINUTE_S: Final = 60.0

_POOL_STATUS: Final = {HiveState.HEALTHY: "healthy", HiveState.DEGRADED: "degraded"}
_LOADED: Final = frozenset(WorkerState) - {WorkerState.FAILED}


class Mirror:
    """Writes hives, workers, models and the queue of one cluster into `rows`, replacing what was there."""

    def __init__(self, cluster: ClusterView, rows: Rows) -> None:
        self._cluster = cluster
        self._rows = rows
        self._touched = cluster.watch()
        self._models_revision = -1
        self._held: dict[str, list[str]] = {}  # hive -> models in its folders
        self._workers: dict[str, dict[str, Worker]] = {}  # hive -> its workers as written
        self._home: dict[str, str] = {}  # worker -> its hive
        self._jobs: dict[str, Job] = {}  # as written
        self._affinity: OrderedDict[tuple[str, str, str], str] = OrderedDict()
        self._counted: dict[str, int] = {}  # worker -> jobs it had completed when it was written
        self._completions: deque[tuple[float, int]] = deque()  # (time, jobs) of the last minute, as they were seen
        self._recent = 0  # the jobs of these
        for kind in ("models", "pools", "workers", "jobs"):
            for row_id in rows.ids(kind):
                rows.remove(kind, row_id)

    def sync(self, queue: Sequence[Job], now: float) -> None:
        """Brings the rows up to date; `queue` is in queue order, and its jobs are all that policies see."""
        if self._models_revision != self._cluster.models.revision:
            self._write_models()
        touched = sorted(self._touched)
        self._touched.clear()
        hives = {name for kind, name in touched if kind == "hive"}
        for kind, name in touched:
            if kind == "worker":
                hives |= self._write_worker(name)
                self._count_completions(name, now)
        for hive_id in sorted(hives):
            self._write_hive(hive_id)
        waiting = {job.id for job in queue}
        for job_id in [job_id for job_id in self._jobs if job_id not in waiting]:
            self.drop_job(job_id)
        for job in queue:
            if self._jobs.get(job.id) is not job:
                self.write_job(job)
        self._rows.queue([job.id for job in queue])
        while self._completions and self._completions[0][0] <= now - MINUTE_S:
            self._recent -= self._completions.popleft()[1]
        self._rows.put("metrics", "", {"jobs_completed_last_minute": self._recent})

    def write_job(self, job: Job) -> None:
        """Writes a job that is waiting, or that an entry point is to be asked about."""
        if job.model_ref.startswith("synthetic:") and not self._rows.has("models", job.model_ref):
            self._rows.put("models", job.model_ref, _model_row(job.model_ref, ModelFile(job.model_ref, job.model_ref)))
        self._jobs[job.id] = job
        asks = job.asks
        self._rows.put(
            "jobs",
            job.id,
            {
                "tenant_id": job.tenant_id,
                "session_id": job.session_id or None,
                "model": job.model_ref,
                "type": job.type.value,
                "priority": job.priority.value,
                "order": job.order,
                "submit_ms": _ms(job.submit_time),
                "deadline_at_ms": _ms(job.submit_time + job.timeout_s),
                "retry_count": len(job.attempts),
                "labels": dict(job.labels) or None,
                "seed": asks.seed,
                "max_tokens": asks.max_tokens,
                "temperature": asks.temperature,
                "prompt_hash": asks.prompt_hash or None,
                "prompt_tokens": asks.prompt_tokens,
                "user_geo": dict(asks.user_geo) or None,
                "session_last_worker": self._affinity.get(("session", job.tenant_id, job.session_id)),
                "prefix_last_worker": self._affinity.get(("prefix", job.tenant_id, asks.prefix_hash)),
            },
        )

    def drop_job(self, job_id: str) -> None:
        """Forgets a job; safe to repeat."""
        self._jobs.pop(job_id, None)
        self._rows.remove("jobs", job_id)

    def note_dispatch(self, job: Job, worker_id: str) -> None:
        """Remembers where a session, and a prompt's beginning, was served last."""
        for kind, what in (("session", job.session_id), ("prefix", job.asks.prefix_hash)):
            if what:
                key = (kind, job.tenant_id, what)
                self._affinity[key] = worker_id
                self._affinity.move_to_end(key)
        while len(self._affinity) > AFFINITIES_KEPT:
            self._affinity.popitem(last=False)

    def _write_models(self) -> None:
        self._models_revision = self._cluster.models.revision
        models = self._cluster.models.list_models()
        refs = {ref for ref, _ in models}
        for ref in self._rows.ids("models"):
            if ref not in refs and not ref.startswith("synthetic:"):
                self._rows.remove("models", ref)
        held: dict[str, list[str]] = {}
        for ref, files in models:
            self._rows.put("models", ref, _model_row(ref, next(iter(files.values()))))
            for hive_id in files:
                held.setdefault(hive_id, []).append(ref)
        for hive_id in held.keys() | self._held.keys():
            if held.get(hive_id) != self._held.get(hive_id):
                self._touched.add(("hive", hive_id))
        self._held = held

    def _write_worker(self, worker_id: str) -> set[str]:
        """Writes or removes a worker; returns the hives of which it has booked more or less than before."""
        worker = self._cluster.get_worker(worker_id)
        home = self._home.pop(worker_id, None)
        before = self._workers[home].pop(worker_id) if home is not None else None
        if worker is None:
            self._rows.remove("workers", worker_id)
        else:
            self._home[worker_id] = worker.hive_id
            self._workers.setdefault(worker.hive_id, {})[worker_id] = worker
            self._rows.put("workers", worker_id, self._worker_row(worker))
        if _claim(before) == _claim(worker):
            return set()
        return {one.hive_id for one in (before, worker) if one is not None}

    def _count_completions(self, worker_id: str, now: float) -> None:
        completed = self._cluster.jobs_completed(worker_id)
        if (news := completed - self._counted.pop(worker_id, 0)) > 0:  # below: it is gone
            self._completions.append((now, news))
            self._recent += news
        if worker_id in self._home:
            self._counted[worker_id] = completed

    def _write_hive(self, hive_id: str) -> None:
        hive = self._cluster.get_hive(hive_id)
        if hive is None:
            self._rows.remove("pools", hive_id)
            return
        claims: dict[str, int] = {}
        for worker in self._workers.get(hive_id, {}).values():
            for device_id, memory_mb in _claim(worker):
                claims[device_id] = claims.get(device_id, 0) + memory_mb
        self._rows.put("pools", hive_id, _pool_row(hive, self._held.get(hive_id, []), claims))

    def _worker_row(self, worker: Worker) -> Row:
        cluster, spec = self._cluster, worker.spec
        hive = cluster.get_hive(worker.hive_id)
        free = cluster.slots_available(worker.id)
        idle = free == worker.slots_total and worker.state is WorkerState.READY
        return {
            "pool_id": worker.hive_id,
            "model": worker.model_ref,
            "status": WorkerState.FAILED.value if worker.doubtful else worker.state.value,
            "backend": worker.backend or None,
            "device": spec.device_ids[0] if spec.device_ids else None,
            "gpu_ids": [name for name in spec.device_ids if name != "cpu"],
            "pid": worker.pid or None,
            "cpu_pct": _rounded(worker.cpu_pct),
            "rss_mb": worker.rss_mb,
            "gpu_util_pct": _rounded(worker.gpu_util_pct),
            "vram_mb": worker.vram_mb,
            "total_vram_mb": worker.total_vram_mb,
            "slots_total": worker.slots_total,
            "slots_available": free,
            "jobs_completed": cluster.jobs_completed(worker.id),
            "avg_tokens_per_sec": _rounded(cluster.avg_tokens_per_sec(worker.id)),
            "pinned": cluster.is_pinned(worker.id),
            "start_ms": _ms(worker.start_time) if worker.start_time else None,
            "idle_since_ms": _ms(cluster.idle_since(worker.id) or worker.start_time) if idle else None,
            "memory_claimed_mb": spec.memory_mb or None,
            "labels": (dict(hive.labels) or None) if hive is not None else None,
            "geo": (dict(hive.geo) or None) if hive is not None else None,
            "cost_per_token": hive.cost_per_token if hive is not None else None,
            "min_residency_until_ms": _ms(worker.start_time + cluster.min_residency_s) if worker.start_time else None,
        }


def _pool_row(hive: Hive, held: list[str], claims: Mapping[str, int]) -> Row:
    cpu = next((device for device in hive.devices if device.id == "cpu"), None)
    return {
        "status": _POOL_STATUS.get(hive.state, "offline"),
        "last_report_ms": _ms(hive.last_report_time) if hive.last_report_time is not None else None,
        "cached_models": held,
        "disk_free_mb": hive.disk_free_bytes // 2**20 if hive.disk_free_bytes is not None else None,
        "ram_free_mb": hive.ram_free_mb if hive.ram_free_mb is not None else cpu and cpu.memory_free_mb,
        "ram_total_mb": cpu and cpu.memory_total_mb,
        "labels": dict(hive.labels) or None,
        "geo": dict(hive.geo) or None,
        "gpus": [_gpu_row(device, claims.get(device.id, 0)) for device in hive.devices if device.id != "cpu"],
    }


def _gpu_row(device: Device, claimed_mb: int) -> Row:
    row = {
        "id": device.id,
        "device_name": device.name,
        "backend": device.backend or None,
        "uuid": device.uuid or None,
        "compute_capability": device.compute_capability or None,
        "vram_total": device.memory_total_mb,
        "vram_allocated": claimed_mb,
        "vram_free": device.memory_free_mb,
        "vram_foreign": device.memory_foreign_mb,
        "utilization_percent": _rounded(device.utilization_percent),
        "temperature_celsius": _rounded(device.temperature_celsius),
        "power_draw_watts": _rounded(device.power_draw_watts),
    }
    return {name: value for name, value in row.items() if value is not None}


def _model_row(model_ref: str, file: ModelFile) -> Row:
    return {
        "model_ref": model_ref,
        "name": file.name,
        "family": file.family or None,
        "size": f"{file.parameter_count / 1e9:.1f}B" if file.parameter_count else None,
        "quantization": file.quantization or None,
        "vram_required_mb": feasibility.memory_required_mb(file),
        "context_length": file.context_length or None,
        "file_size_bytes": file.file_size_bytes,
    }


def _claim(worker: Worker | None) -> tuple[tuple[str, int], ...]:
    """Returns what a worker has booked, MB by device."""
    if worker is None or worker.state not in _LOADED:
        return ()
    return tuple((device_id, worker.spec.memory_mb) for device_id in worker.spec.device_ids)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _rounded(value: float | None) -> float | None:
    """Returns a measurement without the digits that only noise changes."""
    return None if value is None else round(value, 1)
