"""Starts and stops workers through their hives; a start is shared by all jobs that wait for its model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry.context import Context

from queen.core import feasibility
from queen.core.faults import MAX_ATTEMPTS
from queen.core.model import Hive, HiveState, JobState, Proposal, Worker, WorkerSpec, WorkerState
from queen.links import events
from queen.links.hives import HiveLinks
from queen.metrics.jobs import JobMetrics
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.traces import job_spans
from wire import errors, telemetry
from wire.clock import Clock
from wire.spans import Recorder
from wire.tasks import supervised

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 300.0
LONGEST_READY_TIMEOUT_S: Final = 3600.0
"""What hives allow."""
DRAIN_S: Final = 30.0
RETRY_ROOM_S: Final = 10.0
"""When to ask again for a worker there is no room for now, seconds."""

_HIVE_GONE: Final = frozenset({"HIVE_UNREACHABLE", "HIVE_STOPPING"})
_CUT_SHORT: Final = frozenset({"WORKER_KILLED", *_HIVE_GONE})
"""Failures that say nothing about the model or the machine: a start may do better next time, also in the same place."""


@dataclass(slots=True)
class _Start:
    """A worker that is started for the jobs that wait for its model.

    `begun`: when; `waiting`: the limits of those who were told, by job; `elsewhere`: whether it is the second try after
    a failure of its own; `tries`: how many starts in a row, this one included, were begun and cut short.
    """

    model_ref: str
    hive: Hive
    spec: WorkerSpec
    begun: float
    waiting: dict[str, asyncio.TimerHandle]
    told: set[str] = field(default_factory=set)
    elsewhere: bool = False
    tries: int = 1


class WorkerStarts:
    """The worker starts in progress. `fail` ends a job with an error. All tasks live in `group`."""

    def __init__(
        self,
        *,
        jobs: JobTable,
        cluster: Cluster,
        links: HiveLinks,
        fail: Callable[[LiveJob, errors.RbeeError], None],
        clock: Clock,
        new_id: Callable[[str], str],
        group: asyncio.TaskGroup,
        recorder: Recorder,
        metrics: JobMetrics,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._links = links
        self._fail = fail
        self._clock = clock
        self._new_id = new_id
        self._group = group
        self._recorder = recorder
        self._metrics = metrics
        self._starts: dict[str, _Start] = {}  # model -> its start
        self._cut_short: dict[str, int] = {}  # model -> how many starts in a row

    def start_for(self, proposal: Proposal) -> None:
        """Starts the worker a proposal asks for, on behalf of its job and all that wait for the same model.

        Without a job nobody is told of it, and nobody fails with it.
        """
        assert proposal.spec is not None, "a proposal to start says what"
        hive = self._cluster.get_hive(proposal.hive_id)
        assert hive is not None, "the applier has seen it"
        live = self._jobs.get(proposal.job_id)
        if live is None:
            self._preload(hive, proposal.spec)
            return
        # Those who wait already, for a start on a hive that was lost meanwhile, do not wait anew.
        before = self._starts.get(live.job.model_ref)
        waiting = before.waiting if before is not None else {}
        tries = self._cut_short.pop(live.job.model_ref, 0) + 1
        start = _Start(live.job.model_ref, hive, proposal.spec, self._clock.now(), waiting, tries=tries)
        self._begin(start, live)

    def _begin(self, start: _Start, live: LiveJob) -> None:
        self._starts[start.model_ref] = start
        self._cluster.expect_worker(start.hive.id, start.spec)
        self.tell_waiting(live.job.id)
        self._group.create_task(
            supervised(
                self._start_for(start, live),
                f"the start of worker {start.spec.worker_id}",
                lambda error: self._start_failed(start, error),
            ),
            name=f"start {start.spec.worker_id}",
        )

    def _preload(self, hive: Hive, spec: WorkerSpec) -> None:
        self._cluster.expect_worker(hive.id, spec)
        self._group.create_task(
            supervised(
                self._started_or_logged(hive, spec),
                f"the start of worker {spec.worker_id}",
                lambda error: log.error("a worker could not be started: %s", error),
            ),
            name=f"start {spec.worker_id}",
        )

    async def _started_or_logged(self, hive: Hive, spec: WorkerSpec) -> None:
        try:
            await self._start(hive, spec)
        except errors.RbeeError as error:
            log.error("a worker could not be started: %s", error)

    def evict(self, proposal: Proposal) -> None:
        """Stops an idle worker that is to make room; it gets no more jobs from now on."""
        worker = self._cluster.get_worker(proposal.worker_id)
        assert worker is not None, "the applier has seen it"
        log.info("worker %s is evicted: %s", worker.id, proposal.reason)
        self._metrics.evicted(worker.model_ref)
        self._end_soon(worker, force=False)

    def tell_waiting(self, job_id: str) -> None:
        """Tells a waiting job that a worker is being started for its model, if one is and it was not told."""
        live = self._jobs.get(job_id)
        start = self._starts.get(live.job.model_ref) if live is not None else None
        if live is not None and start is not None and job_id not in start.told:
            start.told.add(job_id)
            self._tell(live, "STARTING_WORKER", start)
            if job_id not in start.waiting:
                begun = self._clock.now()
                start.waiting[job_id] = asyncio.get_running_loop().call_later(
                    live.limits.start_s, self._waited, live, begun
                )

    async def spawn(
        self,
        *,
        model_ref: str,
        hive_id: str,
        engine: str,
        slots: int,
        context_length: int,
        device_ids: tuple[str, ...],
        engine_options: dict[str, str],
    ) -> Worker:
        """Starts a worker because a person asked, and returns it ready; raises why it cannot be."""
        hive, spec = self._place(model_ref, hive_id, slots or feasibility.DEFAULT_SLOTS, context_length)
        spec = replace(
            spec,
            engine=engine or spec.engine,
            device_ids=device_ids or spec.device_ids,
            engine_options=engine_options,
        )
        self._cluster.expect_worker(hive.id, spec)
        await self._start(hive, spec)
        worker = self._cluster.get_worker(spec.worker_id)
        if worker is None:
            raise errors.Unreachable(f"worker {spec.worker_id} ended right after its start", "WORKER_START_FAILED")
        return worker

    async def stop(self, worker: Worker, *, force: bool) -> None:
        """Stops a worker when what it runs has ended, or at once; returns when its process has ended."""
        hive = self._cluster.get_hive(worker.hive_id)
        assert hive is not None, "a worker in the registry has a hive"
        if worker.state is not WorkerState.FAILED:
            self._cluster.heard_worker(hive.id, worker.id, self._clock.now(), {"state": WorkerState.DRAINING})
        await self._links.stop_worker(hive.address, worker.id, 0.0 if force else DRAIN_S)
        self._cluster.forget_worker(worker.id)

    def abandon(self, worker: Worker) -> None:
        """Takes a worker that does not do what it is told out of service, and has its hive end it."""
        known = self._cluster.get_worker(worker.id)
        if known is None:
            return
        log.error("worker %s is drained and ended: it does not answer", worker.id)
        self._end_soon(known, force=True)

    def _end_soon(self, worker: Worker, *, force: bool) -> None:
        """Takes a worker out of service at once, and has its hive end it."""
        if worker.state is not WorkerState.FAILED:
            self._cluster.heard_worker(worker.hive_id, worker.id, self._clock.now(), {"state": WorkerState.DRAINING})
        self._group.create_task(
            supervised(
                self._end(worker, force=force),
                f"the end of worker {worker.id}",
                lambda error: log.error("worker %s could not be ended: %s", worker.id, error),
            ),
            name=f"end {worker.id}",
        )

    async def _end(self, worker: Worker, *, force: bool) -> None:
        try:
            await self.stop(worker, force=force)
        except errors.RbeeError as error:
            log.error("worker %s could not be ended: %s", worker.id, error)

    async def _start_for(self, start: _Start, live: LiveJob) -> None:
        hive, spec = start.hive, start.spec
        # Who may wait longer than most gets the time it asks for.
        longest = max(one.limits.start_s for one in (live, *self._waiting(start.model_ref)))
        ready_timeout_s = min(max(READY_TIMEOUT_S, longest), LONGEST_READY_TIMEOUT_S)
        try:
            await self._start(hive, spec, ready_timeout_s, job_spans.infer_context(live))
        except errors.RbeeError as error:
            self._start_failed(start, error)
            return
        if self._over(start):
            for waiting in self._waiting(start.model_ref):
                self._tell(waiting, "WORKER_READY", start)

    async def _start(
        self, hive: Hive, spec: WorkerSpec, ready_timeout_s: float = READY_TIMEOUT_S, context: Context | None = None
    ) -> None:
        """Returns when the worker is ready; a start that fails leaves nothing behind. `context`: whose trace it is."""
        facts = {"rbee.worker.id": spec.worker_id, "rbee.hive.id": hive.id, "rbee.model.ref": spec.model_ref}
        with self._recorder.span(telemetry.SPAN_PROVISION, facts, context=context, kind="client"):
            try:
                async for changes in self._links.spawn_worker(hive.address, spec, ready_timeout_s):
                    self._cluster.heard_worker(hive.id, spec.worker_id, self._clock.now(), changes)
            except errors.RbeeError as error:
                known = self._cluster.get_hive(hive.id)
                if error.reason in _HIVE_GONE and known is not None and known.state is HiveState.HEALTHY:
                    # It gets no more starts until it reports again: five in a row would fail within milliseconds.
                    self._cluster.set_hive_state(hive.id, HiveState.DEGRADED)
                self._cluster.forget_worker(spec.worker_id)
                self._metrics.worker_started(spec.model_ref, error)
                raise
            self._metrics.worker_started(spec.model_ref)
            log.info("worker %s is ready on %s", spec.worker_id, hive.id)

    def _start_failed(self, start: _Start, error: errors.RbeeError) -> None:
        """Leaves it to the next cycle where it was cut short, tries once on another hive where that may help.

        Else those who wait are failed.
        """
        if self._starts.get(start.model_ref) is not start:
            return  # it was given up, or another has taken its place
        log.error("a worker could not be started: %s", error)
        if error.reason in _CUT_SHORT and start.tries < MAX_ATTEMPTS:
            self._over(start)
            self._cut_short[start.model_ref] = start.tries
            return
        waiting = self._waiting(start.model_ref)
        if waiting and self._begin_elsewhere(start, error, waiting[0]):
            return
        self._over(start)
        for live in waiting:
            self._fail(live, type(error)(error.message, error.reason, retry_after_s=error.retry_after_s))

    def _begin_elsewhere(self, start: _Start, error: errors.RbeeError, live: LiveJob) -> bool:
        if start.elsewhere or not isinstance(error, errors.Unreachable):
            return False
        try:
            hive, spec = self._place(start.model_ref, "", feasibility.DEFAULT_SLOTS, 0, without=start.hive.id)
        except errors.NoCapacity:
            return False
        log.info("the start is tried again on %s", hive.id)
        self._begin(replace(start, hive=hive, spec=spec, begun=self._clock.now(), told=set(), elsewhere=True), live)
        for other in self._waiting(start.model_ref):
            self.tell_waiting(other.job.id)
        return True

    def _waited(self, live: LiveJob, begun: float) -> None:
        """Ends a job whose worker is not ready in time, and the start when it was the last to wait for it."""
        start = self._starts.get(live.job.model_ref)
        if start is None or start.waiting.pop(live.job.id, None) is None:
            return
        if live.job.state is JobState.QUEUED:
            spent = self._clock.now() - begun
            message = f"job {live.job.id} waited {spent:.1f} s for a worker that was started for it, "
            message += f"{self._progress(start)}; its limit there is {live.limits.start_s:g} s, "
            message += "raise it with --start-timeout"
            self._fail(live, errors.TimedOut(message, "START_TIMED_OUT"))
        if not start.waiting:
            self._give_up(start)

    def _progress(self, start: _Start) -> str:
        """Returns what a start has come to, in words."""
        worker = self._cluster.get_worker(start.spec.worker_id)
        name, hive_id = start.spec.worker_id, start.hive.id
        if worker is None:
            return f"and {name} is gone from {hive_id}"
        if not worker.pid:
            return f"and {hive_id} has not made a process for {name} yet"
        return f"and {name} still loads the model on {hive_id} after {self._clock.now() - start.begun:.1f} s"

    def _give_up(self, start: _Start) -> None:
        """Has the hive end a worker that nobody waits for any more."""
        self._over(start)
        log.warning("worker %s is given up: nobody waits for its start any more", start.spec.worker_id)
        if (worker := self._cluster.get_worker(start.spec.worker_id)) is not None:
            self._end_soon(worker, force=True)

    def _over(self, start: _Start) -> bool:
        """Takes a start off the list, with its limits; false when another has taken its place, or it was given up."""
        if self._starts.get(start.model_ref) is not start:
            return False
        del self._starts[start.model_ref]
        for limit in start.waiting.values():
            limit.cancel()
        return True

    def _waiting(self, model_ref: str) -> list[LiveJob]:
        return [live for live in self._jobs.queued(self._clock.now()) if live.job.model_ref == model_ref]

    def _tell(self, live: LiveJob, stage: str, start: _Start) -> None:
        feed = live.feed
        feed.append(events.provisioning(feed.last_sequence + 1, stage, start.hive.id, start.spec.worker_id))

    def _place(
        self, model_ref: str, hive_id: str, slots: int, context_length: int, *, without: str = ""
    ) -> tuple[Hive, WorkerSpec]:
        reasons = []
        holders: list[tuple[Hive, int]] = []
        for hive in self._cluster.list_online_hives():
            if (hive_id and hive.id != hive_id) or hive.id == without:
                continue
            if reason := feasibility.hive_reject_reason(hive):
                reasons.append(f"{hive.id}: {reason}")
                continue
            file = self._cluster.find_file(model_ref, hive.id)
            if file is None:
                reasons.append(f"{hive.id} does not have the model")
                continue
            need = feasibility.memory_required_mb(file, slots, context_length)
            device, reason = feasibility.find_device(hive, need, self._cluster.loading_claims_mb(hive.id))
            if device is not None:
                worker_id = self._new_id(hive.id)
                return hive, feasibility.spec_for(worker_id, file, device, slots=slots, context_length=context_length)
            reasons.append(f"{hive.id} {reason}")
            holders.append((hive, need))
        if hive_id and not reasons:
            raise errors.NotFound(f"no hive {hive_id} is online; see: rbee hive list", "HIVE_NOT_FOUND")
        raise self._no_room(model_ref, reasons, holders)

    def _no_room(self, model_ref: str, reasons: list[str], holders: list[tuple[Hive, int]]) -> errors.NoCapacity:
        """Returns the error that says what is in the way now, or that there will never be room."""
        name = self._cluster.models.name_of(model_ref)
        possible = [(hive, need) for hive, need in holders if feasibility.could_hold(hive, need)]
        if holders and not possible:
            held_by, online = [hive for hive, _ in holders], self._cluster.list_online_hives()
            message = feasibility.never_fits(name, holders[0][1], held_by, online)
            return errors.NoCapacity(message, "INSUFFICIENT_VRAM")
        ways = [feasibility.in_the_way(*one, self._cluster.find_workers_on(one[0].id)) for one in possible[:3]]
        return errors.NoCapacity(
            f"no machine can run {name} now: {'; '.join([*reasons, *ways]) or 'no hive is online'}; see: rbee status, "
            "and stop a worker with: rbee worker stop WORKER",
            "INSUFFICIENT_VRAM",
            retry_after_s=RETRY_ROOM_S,
        )
