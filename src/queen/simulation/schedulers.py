"""The schedulers a simulation can be run with: the queen's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from queen.core.model import Job, Proposal, Verdict
from queen.core.ports import ClusterView, JobScheduler
from queen.policy.failure import PolicyFailed, Source
from queen.policy.in_process import InProcessDecider
from queen.scheduler.policy import PolicyScheduler, PolicyStanding
from queen.scheduler.simple import SimpleScheduler
from queen.simulation.immediate import immediate
from queen.simulation.stage import SchedulerMaker, Stage
from wire import errors
from wire.errors import FieldFault

DEADLINE_MS: Final = 2000.0
"""Processor time of one decision. Much more than the 50 ms a queen allows, so that a slow machine changes no result."""

HEARTBEAT_S: Final = 1.0
"""How old what machines say may get: hives report once a second."""


def simple(stage: Stage) -> JobScheduler:
    """Makes the scheduler without a policy."""
    return SimpleScheduler(stage.new_id)


def lua(
    platform: str, policy: Source | None = None, before_decision: Callable[[], None] = lambda: None
) -> SchedulerMaker:
    """Returns what makes a scheduler that runs a Lua policy, None for the platform policy, whose source is `platform`.

    Making it raises `Invalid` when the policy does not load. `before_decision` is called before each decision.
    """

    def make(stage: Stage) -> JobScheduler:
        return StagedPolicy(stage, platform, policy, before_decision)

    return make


class StagedPolicy:
    """A `PolicyScheduler` in this process, told of a simulation's heartbeats."""

    def __init__(self, stage: Stage, platform: str, policy: Source | None, before_decision: Callable[[], None]) -> None:
        self._before_decision = before_decision
        self._stage = stage
        self._heard = 0.0
        self.name, self.version = (policy.name if policy else "platform"), ""
        self.fallback = ""
        try:
            self._decider = InProcessDecider(platform, deadline_ms=DEADLINE_MS, explains=False)
            self._scheduler = PolicyScheduler(self._decider, stage.new_id, tenants=stage.tenants, explains=False)
            immediate(self._scheduler.activate(policy))
        except PolicyFailed as failure:
            raise errors.invalid([FieldFault(self.name, failure.message)], "policy") from None

    @property
    def standing(self) -> PolicyStanding:
        """How the policy fares."""
        return self._scheduler.standing

    async def decide(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns what the policy proposes."""
        self._update(now)
        return await self._scheduler.decide(queue, cluster, now)

    def answers(self, entry_point: str) -> bool:
        """Returns whether the policy has an entry point, and is in service."""
        return self._scheduler.answers(entry_point)

    async def should_admit(self, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float) -> Verdict:
        """Returns whether the policy lets a job in, and why not."""
        self._update(now)
        return await self._scheduler.should_admit(job, queue, cluster, now)

    async def should_retry(
        self, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float, error: str
    ) -> Verdict:
        """Returns whether the policy lets a job be tried again. Attempts do not fail in a simulation."""
        self._update(now)
        return await self._scheduler.should_retry(job, queue, cluster, now, error)

    async def on_idle(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns what the policy starts and evicts when nothing can be given to a worker."""
        self._update(now)
        return await self._scheduler.on_idle(queue, cluster, now)

    def _update(self, now: float) -> None:
        self._before_decision()
        rows = self._decider.rows
        if now - self._heard >= HEARTBEAT_S:
            # Only the row: a report through the registry would have everything about the machine written anew.
            self._heard = now
            for machine in self._stage.plan.machines:
                if rows.has("pools", machine.name):
                    rows.patch("pools", machine.name, {"last_report_ms": round(now * 1000)})
