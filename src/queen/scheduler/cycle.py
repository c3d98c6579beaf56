"""The scheduling cycle: woken by what happens, never by a poll; many wakes before a turn make one cycle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from queen.core import applier
from queen.core.model import Action, Decision, Job, Proposal
from queen.core.ports import Dispatcher, JobScheduler, Journal, WorkerStarter
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


class SchedulingCycle:
    """Asks the scheduler about the queue, holds each proposal against the applier's rules, and lets it take effect.

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

        Returns after how many seconds the policy wants to be asked again, whatever happens; None when it does not.
        """
        now = self._clock.now()
        queue = [live.job for live in islice(self._jobs.queued(now), self._window)]
        if not queue:
            return None
        begun = self._clock.monotonic()
        proposals = await self._scheduler.decide(queue, self._cluster, now)
        duration = (self._clock.monotonic() - begun) / len(queue)
        for number, proposal in enumerate(filter(self._is_news, proposals), start=1):
            self._apply(proposal, now, duration)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # what changes meanwhile the applier sees
        waits = [one.retry_after_s for one in proposals if one.retry_after_s is not None]
        return max(min(waits), SOONEST_AGAIN_S) if waits else None

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
