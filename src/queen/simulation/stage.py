"""What a scheduler may know of a simulation beside the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from queen.core.ports import JobScheduler
from queen.registry.cluster import Cluster
from queen.registry.tenants import TenantTable
from queen.simulation.cluster_file import ClusterPlan
from queen.simulation.workload import Request


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts of a simulation as they stand. `requests` is by job; `new_id` gives the names of workers to start."""

    plan: ClusterPlan
    cluster: Cluster
    tenants: TenantTable
    new_id: Callable[[str], str]
    requests: dict[str, Request] = field(default_factory=dict)


SchedulerMaker = Callable[[Stage], JobScheduler]
"""Makes the scheduler of a simulation."""
