"""What a scheduler may know of a simulation beside the queue, and what has changed since it was last asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from queen.core.ports import JobScheduler
from queen.core.shares import ServiceCounters
from queen.registry.cluster import Cluster
from queen.simulation.cluster_file import ClusterPlan
from queen.simulation.workload import Request


@dataclass(slots=True)
class Changes:
    """Names of workers, machines and tenants that have changed, in that order; who changes something notes it here."""

    workers: dict[str, None] = field(default_factory=dict)
    machines: dict[str, None] = field(default_factory=dict)
    tenants: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts of a simulation as they stand. `requests` by job, `running` jobs by tenant, `last_worker` by session.

    `new_id` gives the names of workers to start.
    """

    plan: ClusterPlan
    cluster: Cluster
    weights: Mapping[str, float]
    shares: ServiceCounters
    new_id: Callable[[str], str]
    changes: Changes = field(default_factory=Changes)
    requests: dict[str, Request] = field(default_factory=dict)
    running: Counter[str] = field(default_factory=Counter)
    last_worker: dict[str, str] = field(default_factory=dict)


SchedulerMaker = Callable[[Stage], JobScheduler]
"""Makes the scheduler of a simulation."""
