"""The scheduler that asks a policy: keeps the mirror, makes proposals of decisions, copes when a policy fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from queen.core.model import Action, Job, Proposal, Verdict
from queen.core.ports import ClusterView
from queen.core.suspension import Suspension
from queen.core.versions import PLATFORM
from queen.policy.failure import PolicyFailed, Source
from queen.policy.language import Outcome
from queen.policy.mirror import Mirror
from queen.policy.rows import Rows
from queen.scheduler.proposals import Round

log = logging.getLogger(__name__)

SPARE_DECISIONS: Final = 100
"""Decisions of a cycle beyond one for each job: evictions and preloads."""

LINES_PER_S: Final = 20
"""Lines of a policy that are logged each second; the rest is left out."""

PAUSE_S: Final = 1.0
"""When the platform policy is asked again after it failed, which only a defect or a machine out of memory can cause."""


class Decider(Protocol):
    """What runs policies: the sandbox in a queen, a Lua state in a simulation. All of it may raise `PolicyFailed`."""

    rows: Rows

    async def load(self, policy: Source | None) -> frozenset[str]:
        """Loads a policy in place of the one before, None for the platform policy alone; returns its entry points."""
        ...

    async def decide(self, now_ms: int, seed: int, *, most: int) -> Outcome:
        """Returns what the loaded policy decides about the queue."""
        ...

    async def decide_platform(self, now_ms: int, seed: int, *, most: int) -> Outcome:
        """Returns what the platform policy decides about the queue."""
        ...

    async def call(
        self, name: str, now_ms: int, seed: int, *, job_id: str = "", attempt: int = 0, error: str = ""
    ) -> Outcome:
        """Returns what should_admit, should_retry or on_idle says."""
        ...


class TenantRows(Protocol):
    """What policies see of the tenants."""

    def changed_rows(self, now: float) -> dict[str, dict[str, object]]:
        """Returns the rows of the tenants that have changed since the last call, by id."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyStanding:
    """How the active policy fares, for `rbee status`. `last_failure` is "" when it never failed."""

    name: str
    version: str
    failures: int
    last_failure: str
    suspended: bool


class PolicyScheduler:
    """Proposes what the active policy decides; where it fails, what the platform policy decides, in the same cycle.

    `name` and `version` are those of the policy that decided last; `fallback`: why it was not the active one, else "".
    `new_id` names workers to start. `explains` False:
    proposals come without the candidates. `on_suspended` is told name, version and why when a policy is taken out of
    service. `tenants`: None where there is but one.
    """

    def __init__(
        self,
        decider: Decider,
        new_id: Callable[[str], str],
        *,
        tenants: TenantRows | None = None,
        explains: bool = True,
        on_suspended: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        self._decider = decider
        self._tenants = tenants
        self._on_suspended = on_suspended
        self._explains = explains
        self._new_id = new_id
        self._cluster: ClusterView | None = None
        self._mirror: Mirror | None = None
        self._active, self._active_version = PLATFORM, ""
        self._entry_points: frozenset[str] = frozenset()
        self._suspension = Suspension()
        self._last_failure = ""
        self._told_since, self._told = 0.0, 0
        # What is asked sees the rows as they were written for it, whoever else asks meanwhile.
        self._one_at_a_time = asyncio.Lock()
        self.name, self.version, self.fallback = PLATFORM, "", ""

    @property
    def standing(self) -> PolicyStanding:
        """How the active policy fares."""
        counted = self._suspension
        return PolicyStanding(
            self._active, self._active_version, counted.failures, self._last_failure, counted.suspended
        )

    async def activate(self, policy: Source | None, version: str = "", *, suspended: bool = False) -> None:
        """Puts a policy in charge, None for the platform policy. Raises `PolicyFailed`; the one before stays then.

        `suspended`: it is the active one, and the platform policy decides until it is activated again.
        """
        self._entry_points = await self._decider.load(policy)
        self._active, self._active_version = (policy.name, version) if policy else (PLATFORM, "")
        self._suspension.clear()
        if suspended:
            self._suspension.suspend()
        self._last_failure = ""

    async def decide(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns one proposal per job of `queue`, and evictions and preloads that are about no job."""
        async with self._one_at_a_time:
            self._mirrored(cluster, now).sync(queue, now)
            self.fallback = "suspended" if self._suspension.suspended else ""
            if self._active != PLATFORM and not self._suspension.suspended:
                try:
                    outcome = await self._ask(queue, now, self._decider.decide)
                    proposals = Round(queue, cluster, self._new_id, outcome, explains=self._explains).proposals()
                except PolicyFailed as failure:
                    self._note(failure, now)
                    self.fallback = failure.cause
                else:
                    return self._decided(proposals, queue, self._active, self._active_version)
            try:
                outcome = await self._ask(queue, now, self._decider.decide_platform)
                proposals = Round(queue, cluster, self._new_id, outcome, explains=self._explains).proposals()
            except PolicyFailed as failure:
                log.error("the platform policy failed (%s), jobs wait: %s", failure.cause, failure.message)
                self.fallback = failure.cause
                reason = "the platform policy failed; see the queen's log"
                proposals = [Proposal(job.id, Action.WAIT, reason, retry_after_s=PAUSE_S) for job in queue]
            return self._decided(proposals, queue, PLATFORM, "")

    def answers(self, entry_point: str) -> bool:
        """Returns whether the active policy has an entry point, and is in service."""
        return entry_point in self._entry_points and not self._suspension.suspended

    async def should_admit(self, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float) -> Verdict:
        """Returns whether the policy lets a job in, and why not. A policy that fails or does not say lets it in."""
        return await self._verdict("should_admit", job, queue, cluster, now)

    async def should_retry(
        self, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float, error: str
    ) -> Verdict:
        """Returns whether the policy lets a job be tried again after `error`, and why not."""
        return await self._verdict("should_retry", job, queue, cluster, now, error)

    async def on_idle(self, queue: Sequence[Job], cluster: ClusterView, now: float) -> list[Proposal]:
        """Returns evictions and preloads for a time when nothing of `queue` can be given to a worker."""
        async with self._one_at_a_time:
            if not self.answers("on_idle"):
                return []
            self._mirrored(cluster, now).sync(queue, now)
            try:
                outcome = await self._decider.call("on_idle", _ms(now), _ms(now))
                self._tell(outcome, now)
                proposals = Round(queue, cluster, self._new_id, outcome, explains=self._explains).unasked()
            except PolicyFailed as failure:
                self._note(failure, now)
                return []
            self.name, self.version = self._active, self._active_version
            return proposals

    async def _ask(self, queue: Sequence[Job], now: float, decide: Callable[..., Awaitable[Outcome]]) -> Outcome:
        # The seed is the time: chance differs between cycles, and the same state gives the same decisions.
        outcome = await decide(_ms(now), _ms(now), most=len(queue) + SPARE_DECISIONS)
        self._tell(outcome, now)
        return outcome

    def _tell(self, outcome: Outcome, now: float) -> None:
        """Logs what a policy logged, so much a second and no more."""
        if now - self._told_since >= 1.0:
            self._told_since, self._told = now, 0
        for line in outcome.logs[: LINES_PER_S - self._told]:
            # One line each: a policy must not be able to write what looks like the queen's own.
            log.info("policy %s: %s: %s", self._active, line.level, line.message.replace("\n", " | "))
        self._told = min(LINES_PER_S, self._told + len(outcome.logs))

    def _decided(self, proposals: list[Proposal], queue: Sequence[Job], name: str, version: str) -> list[Proposal]:
        assert self._mirror is not None, "it was brought up to date"
        self.name, self.version = name, version
        jobs = {job.id: job for job in queue}
        for proposal in proposals:
            if proposal.action is Action.DISPATCH:
                self._mirror.note_dispatch(jobs[proposal.job_id], proposal.worker_id)
        return proposals

    async def _verdict(
        self, name: str, job: Job, queue: Sequence[Job], cluster: ClusterView, now: float, error: str = ""
    ) -> Verdict:
        async with self._one_at_a_time:
            if not self.answers(name):  # any more: others were asked before
                return Verdict()
            by = self._active, self._active_version
            mirror = self._mirrored(cluster, now)
            mirror.sync(queue, now)
            mirror.write_job(job)
            try:
                outcome = await self._decider.call(
                    name, _ms(now), _ms(now), job_id=job.id, attempt=len(job.attempts), error=error
                )
                self._tell(outcome, now)
            except PolicyFailed as failure:
                self._note(failure, now)
                return Verdict()
            finally:
                mirror.drop_job(job.id)
            return Verdict(outcome.answer is not False, outcome.answer_reason or "", *by)

    def _mirrored(self, cluster: ClusterView, now: float) -> Mirror:
        for tenant_id, row in self._tenants.changed_rows(now).items() if self._tenants else ():
            self._decider.rows.put("tenants", tenant_id, row)
        if self._mirror is None or cluster is not self._cluster:
            self._cluster, self._mirror = cluster, Mirror(cluster, self._decider.rows)
        return self._mirror

    def _note(self, failure: PolicyFailed, now: float) -> None:
        if self._active == PLATFORM:
            log.error("the platform policy failed (%s): %s", failure.cause, failure.message)
            return
        self._last_failure = f"{failure.cause}: {failure.message}"
        suspends = self._suspension.failed(now)
        log.warning(
            "policy %s failed (%s); the platform policy decides: %s", self._active, failure.cause, failure.message
        )
        if suspends:
            log.error(
                "policy %s is suspended: it failed three times within five minutes. The platform policy decides until "
                "it is saved or activated again: rbee policy activate %s", self._active, self._active,
            )  # fmt: skip
            self._on_suspended(self._active, self._active_version, self._last_failure)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
