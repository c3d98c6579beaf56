"""The tenants, in RAM: what each may have, has now and had today."""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from queen.core.model import Job, Usage, Worker
from queen.core.shares import ServiceCounters
from queen.core.tenants import DEFAULT, Load, Tenant, TenantUsage, day_of, tokens_of
from wire import errors


class TenantJournal(Protocol):
    """Where tenants and what they used are written. Writes return when they are accepted."""

    def save_tenant(self, tenant: Tenant) -> None:
        """Writes a tenant."""
        ...

    def save_usage(self, tenant_id: str, day: int, usage: TenantUsage) -> None:
        """Writes what a tenant used on a day, replacing what was known of it."""
        ...


@dataclass(slots=True)
class _Running:
    """What a tenant has on workers, added up as it changes: each cycle asks, and must not count thousands of jobs."""

    jobs: dict[str, tuple[str, int]] = field(default_factory=dict)  # job -> (worker, tokens it may take)
    on: Counter[str] = field(default_factory=Counter)  # worker -> jobs
    memory_mb: dict[str, int] = field(default_factory=dict)  # by worker
    vram_mb: int = 0
    tokens: int = 0

    def add(self, job_id: str, worker_id: str, memory_mb: int, tokens: int) -> None:
        self.jobs[job_id] = worker_id, tokens
        self.tokens += tokens
        self.on[worker_id] += 1
        if worker_id not in self.memory_mb:
            self.memory_mb[worker_id] = memory_mb
            self.vram_mb += memory_mb

    def remove(self, job_id: str) -> None:
        if job_id not in self.jobs:
            return
        worker_id, tokens = self.jobs.pop(job_id)
        self.tokens -= tokens
        self.on[worker_id] -= 1
        if not self.on[worker_id]:
            del self.on[worker_id]
            self.vram_mb -= self.memory_mb.pop(worker_id)


class TenantTable:
    """All tenants, and the jobs each has that are not at rest. `get_worker` finds a worker by its id.

    `touched` are those of whom policies see something that has changed; whoever has told them empties it.
    """

    def __init__(self, journal: TenantJournal, get_worker: Callable[[str], Worker | None]) -> None:
        self._journal = journal
        self._get_worker = get_worker
        self._tenants: dict[str, Tenant] = {DEFAULT: Tenant(DEFAULT, "default")}
        self._running: defaultdict[str, _Running] = defaultdict(_Running)
        self._promised: Counter[str] = Counter()  # tokens of all jobs not at rest
        self._used: dict[str, tuple[int, TenantUsage]] = {}  # (day, what was used on it)
        self._weights: dict[str, float] = {}
        self._shares = ServiceCounters(self._weights)
        self._told_day = 0
        self.touched: dict[str, None] = {DEFAULT: None}

    def restore(
        self, tenants: Iterable[Tenant], used: Mapping[str, TenantUsage], day: int, served: Mapping[str, int]
    ) -> None:
        """Takes in what the store has: the tenants, what they used on a day, and their counters of fair shares."""
        for tenant in tenants:
            self._set(tenant)
        for tenant_id, usage in used.items():
            self._used[tenant_id] = (day, usage)
        self._shares.restore(served)

    def put(self, tenant: Tenant) -> None:
        """Adds or changes a tenant; it is saved."""
        self._set(tenant)
        self._journal.save_tenant(tenant)

    def _set(self, tenant: Tenant) -> None:
        self._tenants[tenant.id] = tenant
        self._weights[tenant.id] = tenant.weight
        self.touched[tenant.id] = None

    def find(self, tenant_id: str) -> Tenant | None:
        """Returns a tenant by its id."""
        return self._tenants.get(tenant_id)

    def get(self, tenant_id: str) -> Tenant:
        """Returns a tenant by its id; raises `NotFound` TENANT_NOT_FOUND with the nearest ids."""
        tenant = self._tenants.get(tenant_id)
        if tenant is not None:
            return tenant
        nearest = difflib.get_close_matches(tenant_id, self._tenants, n=3)
        hint = f"did you mean {' or '.join(nearest)}? See" if nearest else "see"
        raise errors.NotFound(
            f"there is no tenant {tenant_id[:64]}; {hint}: rbee tenant list",
            "TENANT_NOT_FOUND",
            metadata={"nearest": ",".join(nearest)},
        )

    def list(self) -> list[Tenant]:
        """Returns all tenants by id."""
        return [self._tenants[tenant_id] for tenant_id in sorted(self._tenants)]

    def load(self, tenant_id: str, now: float) -> Load:
        """Returns what a tenant has now."""
        running = self._running[tenant_id]
        used = self._used_on(tenant_id, day_of(now)).tokens
        return Load(len(running.jobs), dict(running.memory_mb), used + running.tokens)

    def promised_tokens(self, tenant_id: str, now: float) -> int:
        """Returns the tokens of today that a tenant has used or that its jobs may take."""
        return self._used_on(tenant_id, day_of(now)).tokens + self._promised[tenant_id]

    def _used_on(self, tenant_id: str, day: int) -> TenantUsage:
        known, usage = self._used.get(tenant_id, (day, TenantUsage()))
        return usage if known == day else TenantUsage()

    # What happens to their jobs.

    def joined(self, job: Job, *, stayed: bool = False) -> None:
        """A job is in the queue for the first time; `stayed`: an earlier queen had accepted it."""
        self._shares.joined(job.tenant_id, stayed=stayed)
        self._promised[job.tenant_id] += tokens_of(job)
        self.touched[job.tenant_id] = None

    def given(self, job: Job) -> None:
        """A worker was given a job."""
        worker = self._get_worker(job.attempt.worker_id)
        memory_mb = 0 if worker is None else worker.spec.memory_mb
        self._running[job.tenant_id].add(job.id, job.attempt.worker_id, memory_mb, tokens_of(job))
        if len(job.attempts) == 1:
            self._shares.read(job.tenant_id, job.asks.prompt_tokens or 0)
        self.touched[job.tenant_id] = None

    def returned(self, job: Job) -> None:
        """A job is in the queue again."""
        self._running[job.tenant_id].remove(job.id)
        self.touched[job.tenant_id] = None

    def ended(self, job: Job, now: float) -> None:
        """A job is at rest: what it used is counted, and saved with it."""
        tenant_id, usage = job.tenant_id, job.usage or Usage()
        self.returned(job)
        self._promised[tenant_id] -= tokens_of(job)
        self._shares.generated(tenant_id, usage.completion_tokens)
        self._shares.left(tenant_id)
        day = day_of(now)
        before = self._used_on(tenant_id, day)
        used = TenantUsage(
            before.prompt_tokens + usage.prompt_tokens,
            before.completion_tokens + usage.completion_tokens,
            before.jobs + 1,
            self._shares.served(tenant_id),
        )
        self._used[tenant_id] = (day, used)
        self._journal.save_usage(tenant_id, day, used)

    # What policies see.

    def changed_rows(self, now: float) -> dict[str, dict[str, object]]:
        """Returns the rows of the tenants that have changed since the last call, as policies see them, by id."""
        if (day := day_of(now)) != self._told_day:
            self._told_day = day
            self.touched.update(dict.fromkeys(self._tenants))
        rows = {tenant_id: self._row(tenant_id, now) for tenant_id in self.touched}
        self.touched.clear()
        return rows

    def _row(self, tenant_id: str, now: float) -> dict[str, object]:
        tenant = self._tenants.get(tenant_id) or Tenant(tenant_id, tenant_id)
        running, quota = self._running[tenant_id], tenant.quota
        return {
            "name": tenant.name or tenant_id,
            "weight": self._weights.get(tenant_id, tenant.weight),
            "concurrent_jobs": len(running.jobs),
            "quota_max_concurrent_jobs": quota.max_concurrent_jobs,
            "tokens_used_today": self._used_on(tenant_id, day_of(now)).tokens + running.tokens,
            "quota_tokens_daily": quota.max_tokens_daily,
            "quota_used": running.vram_mb,
            "worker_ids": None if quota.max_vram_mb is None else sorted(running.memory_mb),
            "quota_vram": quota.max_vram_mb,
            "tokens_counter": self._shares.served(tenant_id),
        }
