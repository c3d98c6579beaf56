"""The scheduling cycle: woken by what happens, never by a poll; many wakes before a turn make one cycle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from queen.core import applier
from queen.core.model import Action, Decision, Job, Proposal
from queen.core.ports import Dispatcher, JobScheduler, Journal, PolicyInCharge, WorkerStarter
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from wire.clock import Clock

log = logging.getLogger(__name__)

WINDOW: Final = 1000
"""Jobs looked at in one cycle, from the head of the queue. More would make a long queue slow to move."""

AT_ONCE: Final = 64
"""Proposals applied before streams get their turn: some milliseconds when each starts a job."""

REFUSED_KEPT: Final = 1000
"""Refused decisions about no job that are remembered, so that each is stored once."""

SOONEST_AGAIN_S: Final = 0.1
"""The least a policy can have the queue wait before it is asked again without anything having happened."""

IDLE_SPACING_S: Final = 1.0
"""The least between two calls of on_idle: a queue that runs empty hundreds of times a second is no idle time."""


class SchedulingCycle:
    """Asks the scheduler about the queue, holds each proposal against the applier's rules, and lets it take effect.

    `policy` is asked what to do when nothing can be given to a worker; None: nobody is.
    `decided` gets each job with the decision about it, and why the active policy did not make it.
    """

    def __init__(
        self,
        *,
        scheduler: JobScheduler,
        jobs: JobTable,
        cluster: Cluster,
        dispatcher: Dispatcher,
        starter: WorkerStarter,
        reject: Callable[[LiveJob, Proposal], None],
        store: Journal,
        clock: Clock,
        new_id: Callable[[str], str],
        woken: asyncio.Event,
        window: int = WINDOW,
        tenants: TenantTable | None = None,
        policy: PolicyInCharge | None = None,
        decided: Callable[[LiveJob, Decision, str], None] = lambda *_: None,
    ) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._starter = starter
        self._reject = reject
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._woken = woken
        self._refused: set[tuple[Action, str, str]] = set()
        self._window = window
        self._tenants = tenants
        self._policy = policy
        self._idle_at = float("-inf")
        self._decided = decided

    async def run(self) -> None:
        """Runs cycles until cancelled."""
        again_s: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(again_s):
                    await self._woken.wait()
            self._woken.clear()
            again_s = await self.turn()

    async def turn(self) -> float | None:
        """Runs one cycle: every waiting job within the window is decided about once.

        Returns after how many seconds to run another, whatever happens; None when there is no need.
        """
        now = self._clock.now()
        queue = [live.job for live in islice(self._jobs.queued(now), self._window)]
        proposals: list[Proposal] = []
        again: list[float] = []
        if queue:
            begun = self._clock.monotonic()
            proposals = await self._scheduler.decide(queue, self._cluster, now)
            await self._apply_all(proposals, now, (self._clock.monotonic() - begun) / len(queue))
            again += _asks_again(proposals, SOONEST_AGAIN_S)
        waits = [one for one in proposals if one.action is Action.WAIT]
        idles = len(waits) == len(proposals) and self._policy is not None and self._policy.answers("on_idle")
        if idles:
            again += await self._idle(queue)
        if waits or idles:
            again += self._residency_ends(now)
        return min(again, default=None)

    async def _idle(self, queue: Sequence[Job]) -> list[float]:
        """Does what the policy wants while nothing can be given to a worker; returns when to ask it again, seconds."""
        assert self._policy is not None, "it has been seen"
        now, begun = self._clock.now(), self._clock.monotonic()
        if (left := self._idle_at + IDLE_SPACING_S - begun) > 0:
            return [left]
        self._idle_at = begun
        proposals = await self._policy.on_idle(queue, self._cluster, now)
        wanted = [one for one in proposals if one.job_id or one.action is not Action.WAIT]
        await self._apply_all(wanted, now, self._clock.monotonic() - begun)
        return _asks_again(proposals, IDLE_SPACING_S)

    def _residency_ends(self, now: float) -> list[float]:
        """Returns after how many seconds the next worker may be evicted that may not yet; empty when there is none."""
        if not self._cluster.min_residency_s:
            return []
        starts = (worker.start_time for worker in self._cluster.list_online_workers() if worker.start_time)
        left = (start + self._cluster.min_residency_s - now for start in starts)
        return [min(future)] if (future := [one for one in left if one > 0]) else []

    async def _apply_all(self, proposals: Sequence[Proposal], now: float, duration_s: float) -> None:
        for number, proposal in enumerate(filter(self._is_news, proposals), start=1):
            self._apply(proposal, now, duration_s)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # what changes meanwhile the applier sees

    def _is_news(self, proposal: Proposal) -> bool:
        """Whether a proposal is more than to wait on for the same reason, as most are in a long queue."""
        live = self._jobs.get(proposal.job_id)
        if proposal.action is not Action.WAIT or live is None or live.decision is None:
            return True
        before = live.decision.proposal
        return not (before is proposal or (before.action is Action.WAIT and before.reason == proposal.reason))

    def _apply(self, proposal: Proposal, now: float, duration_s: float) -> None:
        live = self._jobs.get(proposal.job_id)
        refusal = applier.refusal(proposal, live.job if live else None, self._cluster, self._tenants, now)
        decision = Decision(
            id=self._new_id("dec"),
            proposal=proposal,
            policy=self._scheduler.name,
            policy_version=self._scheduler.version,
            decide_time=now,
            duration_s=duration_s,
            refusal=refusal,
        )
        if live is not None:
            self._record(live, decision)
        elif not proposal.job_id and self._is_new_refusal(proposal, refusal):
            self._store.save_decision(decision)
        if refusal:
            log.info(
                "refused: %s %s: %s",
                proposal.action,
                proposal.worker_id or proposal.hive_id,
                refusal,
                extra=live.job.facts if live is not None else None,
            )
        elif proposal.action is Action.START_WORKER:
            self._starter.start_for(proposal)
        elif proposal.action is Action.EVICT:
            self._starter.evict(proposal)
        elif live is not None:
            self._effect(live, proposal)

    def _is_new_refusal(self, proposal: Proposal, refusal: str) -> bool:
        """Returns whether a decision about no job is to be kept; one that is refused again and again is kept once."""
        if not refusal:
            return True
        if len(self._refused) >= REFUSED_KEPT:
            self._refused.clear()
        about = (proposal.action, proposal.worker_id if proposal.spec is None else proposal.hive_id, refusal)
        known = about in self._refused
        self._refused.add(about)
        return not known

    def _record(self, live: LiveJob, decision: Decision) -> None:
        before = live.decision
        if before is not None and (before.proposal.action, before.proposal.reason, before.refusal) == (
            decision.proposal.action,
            decision.proposal.reason,
            decision.refusal,
        ):
            return  # still waiting for the same reason
        live.decision = decision
        self._store.save_decision(decision)
        self._decided(live, decision, self._scheduler.fallback)

    def _effect(self, live: LiveJob, proposal: Proposal) -> None:
        job: Job = live.job
        if proposal.action is Action.DISPATCH:
            worker = self._cluster.get_worker(proposal.worker_id)
            assert worker is not None, "the applier has seen it"
            self._cluster.reserve(worker.id, job.id)
            self._jobs.dispatched(live, worker.id, worker.hive_id, self._clock.now())
            self._dispatcher.dispatch(job.id, worker)
        elif proposal.action is Action.WAIT:
            self._starter.tell_waiting(live.job.id)
        elif proposal.action is Action.REJECT:
            self._reject(live, proposal)


def _asks_again(proposals: Sequence[Proposal], least_s: float) -> list[float]:
    """Returns after how many seconds a policy wants to be asked again, the soonest; empty when it does not say."""
    waits = [one.retry_after_s for one in proposals if one.retry_after_s is not None]
    return [max(min(waits), least_s)] if waits else []
