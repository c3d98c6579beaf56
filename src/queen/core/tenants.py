"""Who shares the cluster, and what each may have of it: admission and applier ask here."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from queen.core.limits import model_key
from queen.core.model import Job
from wire import errors
from wire.errors import FieldFault

DEFAULT: Final = "default"
"""Whose a job is that names no tenant. It is always there."""

DAY_S: Final = 86_400
_ID: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LARGEST: Final = 2**53
"""The largest number policies read exactly."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a tenant; None and no models: no limit.

    `max_tokens_daily`: tokens in and out a day (UTC). `max_vram_mb`: memory of the workers it makes busy, MB.
    `allowed_models`: by name or reference.
    """

    max_concurrent_jobs: int | None = None
    max_tokens_daily: int | None = None
    max_vram_mb: int | None = None
    allowed_models: tuple[str, ...] = ()

    @property
    def bounds_running(self) -> bool:
        """Whether it limits what runs at once or today."""
        return (self.max_concurrent_jobs, self.max_tokens_daily, self.max_vram_mb) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Somebody who shares the cluster. `weight` is its share relative to others. `request_id` is who created it."""

    id: str
    name: str = ""
    weight: float = 1.0
    quota: Quota = field(default_factory=Quota)
    create_time: float = 0.0
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """Tokens and jobs at rest in a span of time. `served`: the counter of fair shares at its end, 0 where not known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    jobs: int = 0
    served: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Load:
    """What a tenant has now: jobs on workers, the memory of these workers, and tokens of today (UTC).

    `tokens`: those counted today and those its running jobs may take, as far as these say. `vram_mb` is by worker.
    """

    jobs: int = 0
    vram_mb: dict[str, int] = field(default_factory=dict)
    tokens: int = 0


def day_of(now: float) -> int:
    """Returns the days between 1970 and a time, UTC."""
    return int(now // DAY_S)


def faults(tenant: Tenant) -> list[FieldFault]:
    """Returns every bad field of a tenant somebody hands in."""
    found = []
    if not _ID.fullmatch(tenant.id):
        found.append(FieldFault("tenant.id", "1 to 63 lower-case letters, digits and '-', such as 'lab-2'"))
    if len(tenant.name) > 256:
        found.append(FieldFault("tenant.display_name", "at most 256 characters"))
    if not 0.001 <= tenant.weight <= 1_000_000:
        found.append(FieldFault("tenant.weight", f"0.001 to 1,000,000, not {tenant.weight:g}"))
    limits = ("max_concurrent_jobs", "max_tokens_daily", "max_vram_mb")
    found.extend(
        FieldFault(f"tenant.quota.{name}", f"at most {_LARGEST:,}, or absent for no limit")
        for name in limits
        if (getattr(tenant.quota, name) or 0) > _LARGEST
    )
    if len(tenant.quota.allowed_models) > 1000:
        found.append(FieldFault("tenant.quota.allowed_models", "at most 1,000 models, or none for all"))
    return found


def tokens_of(job: Job) -> int:
    """Returns the tokens a job may take: its prompt's, as estimated, and the longest answer it asks for.

    One that does not limit its answer counts with its prompt alone until it has ended.
    """
    return (job.asks.prompt_tokens or 0) + (job.asks.max_tokens or 0)


def admission_refusal(
    job: Job, model_name: str, tenant: Tenant, promised_tokens: int, now: float
) -> errors.RbeeError | None:
    """Returns why a tenant's job is not let in; None when it is.

    `promised_tokens`: counted today, and what its jobs that wait or run may take. MODEL_NOT_ALLOWED names what is
    allowed. QUOTA_EXCEEDED says when the day (UTC) is over, but for a job that is larger than the whole quota.
    """
    allowed = tenant.quota.allowed_models
    if allowed and not _is_allowed(job, model_name, allowed):
        return errors.Denied(
            f"tenant {tenant.id} may not use {job.model}, only {', '.join(allowed)}; see: rbee tenant show {tenant.id}",
            "MODEL_NOT_ALLOWED",
            metadata={"allowed": ",".join(allowed)},
        )
    daily, asked = tenant.quota.max_tokens_daily, tokens_of(job)
    if daily is None or promised_tokens + max(asked, 1) <= daily:
        return None
    if asked > daily:
        return errors.NoCapacity(
            f"the job may take {asked:,} tokens, tenant {tenant.id} has {daily:,} a day; ask for fewer with "
            f"--max-tokens, or see: rbee tenant show {tenant.id}",
            "QUOTA_EXCEEDED",
        )
    midnight_s = DAY_S - now % DAY_S
    return errors.NoCapacity(
        f"tenant {tenant.id} has used, or its jobs may take, {promised_tokens:,} of {daily:,} tokens of today, "
        f"and this one may take {asked:,}; a new day begins in {midnight_s / 3600:.1f} h (UTC). "
        f"See: rbee tenant show {tenant.id}",
        "QUOTA_EXCEEDED",
        retry_after_s=midnight_s,
    )


def _is_allowed(job: Job, model_name: str, allowed: Collection[str]) -> bool:
    keys = {model_key(one) for one in allowed}
    return job.model_ref in allowed or not keys.isdisjoint({model_key(job.model_ref), model_key(model_name)})


def dispatch_refusal(job: Job, tenant: Tenant, load: Load, worker_id: str, memory_mb: int) -> str:
    """Returns why a tenant's job may not be given to a worker of that much memory now; "" when it may."""
    if reason := waits_for_others(tenant, load):
        return reason
    daily, asked = tenant.quota.max_tokens_daily, tokens_of(job)
    if daily is not None and load.tokens + max(asked, 1) > daily:
        return f"tenant {tenant.id} has {load.tokens:,} of {daily:,} tokens of today, the job may take {asked:,}"
    return "" if worker_id in load.vram_mb else vram_refusal(tenant, load, memory_mb)


def waits_for_others(tenant: Tenant, load: Load) -> str:
    """Returns why a tenant's jobs have to wait for others of it to end, wherever they go; "" when they need not."""
    most = tenant.quota.max_concurrent_jobs
    return f"tenant {tenant.id} runs {load.jobs:,} of {most:,} jobs" if most is not None and load.jobs >= most else ""


def vram_refusal(tenant: Tenant, load: Load, memory_mb: int) -> str:
    """Returns why a tenant may not make a worker busy, or have one started, that it has no job on; "" when it may."""
    most, used = tenant.quota.max_vram_mb, sum(load.vram_mb.values())
    if most is None or used + memory_mb <= most:
        return ""
    return f"tenant {tenant.id} uses {used:,} of {most:,} MB, the worker has {memory_mb:,} MB"
