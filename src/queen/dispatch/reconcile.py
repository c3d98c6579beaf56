"""Brings together what workers run and what the queen believes they run: after a restart, a cut link, a lost stream."""

from __future__ import annotations

import asyncio
import logging

from queen.core.model import Worker, WorkerState
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.recovery import Recovery
from queen.links.workers import KnownGeneration, WorkerLinks
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from wire import errors
from wire.clock import Clock
from wire.tasks import supervised

log = logging.getLogger(__name__)


class Reconciler:
    """Asks doubtful workers what they run: takes over the jobs an earlier queen gave them, ends what nobody wants."""

    def __init__(
        self,
        *,
        jobs: JobTable,
        cluster: Cluster,
        dispatcher: JobDispatcher,
        recovery: Recovery,
        links: WorkerLinks,
        clock: Clock,
        group: asyncio.TaskGroup,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._recovery = recovery
        self._links = links
        self._clock = clock
        self._group = group
        self._asking: set[str] = set()

    def heard(self, hive_id: str) -> None:
        """Is called after each report of a hive."""
        doubtful = self._cluster.list_doubtful_workers(hive_id)
        for worker in doubtful:
            if worker.id not in self._asking:
                self._asking.add(worker.id)
                work = supervised(self._ask(worker), f"asking {worker.id} what it runs", lambda _: None)
                self._group.create_task(work, name=f"ask {worker.id}")
        if not doubtful:
            self._recovery.settled(hive_id)

    async def _ask(self, worker: Worker) -> None:
        try:
            drains, known = await self._links.generations(worker)
            # What runs first: what has ended takes no slot.
            for generation in sorted(known, key=lambda one: one.ended):
                await self._settle(worker, generation)
        except errors.RbeeError as error:
            log.warning("worker %s: %s; it is asked again", worker.id, error)
            return
        finally:
            self._asking.discard(worker.id)
        if drains:
            self._cluster.heard_worker(worker.hive_id, worker.id, self._clock.now(), {"state": WorkerState.DRAINING})
        self._cluster.settle(worker.id)
        if not self._cluster.list_doubtful_workers(worker.hive_id):
            self._recovery.settled(worker.hive_id)

    async def _settle(self, worker: Worker, generation: KnownGeneration) -> None:
        live = self._jobs.get(generation.job_id)
        if live is not None and live.held and not live.job.resting and _was_given(live, worker, generation):
            self._take_over(live, worker, generation)
        elif not generation.ended and not (live is not None and _runs(live, worker)):
            log.info(
                "worker %s still runs a job that is not its own any more; it is ended",
                worker.id,
                extra={"job_id": generation.job_id},
            )
            await self._links.cancel(worker, generation.job_id)

    def _take_over(self, live: LiveJob, worker: Worker, generation: KnownGeneration) -> None:
        self._recovery.taken_over(live)
        self._jobs.readopted(live, worker.id, worker.hive_id, generation.attempt, self._clock.now())
        if not generation.ended and self._cluster.slots_available(worker.id) > 0:
            self._cluster.reserve(worker.id, live.job.id)
        self._dispatcher.adopt(live, worker, self._recovery.not_there)
        log.info("taken over from worker %s", worker.id, extra=live.job.facts)


def _was_given(live: LiveJob, worker: Worker, generation: KnownGeneration) -> bool:
    """Tells whether this is the attempt the earlier queen has noted, or the next, which she had no time to note."""
    attempt = live.open_attempt
    if attempt is not None:
        return (attempt.worker_id, attempt.number) == (worker.id, generation.attempt)
    return generation.attempt == len(live.job.attempts) + 1


def _runs(live: LiveJob, worker: Worker) -> bool:
    attempt = live.open_attempt
    return attempt is not None and attempt.worker_id == worker.id
