"""What a scheduler may know of a simulation beside the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from queen.core.model import Job
from queen.core.ports import JobScheduler
from queen.core.shares import ServiceCounters
from queen.registry.cluster import Cluster
from queen.simulation.cluster_file import ClusterPlan
from queen.simulation.workload import Request


class Tenants:
    """What each tenant has and had. `touched` are those of whom something changed; whoever has seen it empties it."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = weights
        self.touched: dict[str, None] = {}
        self._running: Counter[str] = Counter()
        self._shares = ServiceCounters(weights)

    def joined(self, job: Job) -> None:
        """A job was accepted."""
        self._shares.joined(job.tenant_id)
        self.touched[job.tenant_id] = None

    def given(self, job: Job, prompt_tokens: int) -> None:
        """A worker was given a job."""
        self._running[job.tenant_id] += 1
        self._shares.read(job.tenant_id, prompt_tokens)
        self.touched[job.tenant_id] = None

    def ended(self, job: Job, generated_tokens: int) -> None:
        """A job that a worker had has ended."""
        self._running[job.tenant_id] -= 1
        self._shares.generated(job.tenant_id, generated_tokens)
        self.left(job)

    def left(self, job: Job) -> None:
        """A job has ended, whether a worker had it or not."""
        self._shares.left(job.tenant_id)
        self.touched[job.tenant_id] = None

    def row(self, tenant_id: str) -> dict[str, object]:
        """Returns a tenant as policies see it."""
        return {
            "name": tenant_id,
            "weight": self.weights.get(tenant_id, 1.0),
            "concurrent_jobs": self._running[tenant_id],
            "tokens_counter": self._shares.served(tenant_id),
        }


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts of a simulation as they stand. `requests` is by job; `new_id` gives the names of workers to start."""

    plan: ClusterPlan
    cluster: Cluster
    tenants: Tenants
    new_id: Callable[[str], str]
    requests: dict[str, Request] = field(default_factory=dict)


SchedulerMaker = Callable[[Stage], JobScheduler]
"""Makes the scheduler of a simulation."""
