"""Starts and stops workers through their hives; a start is shared by all jobs that wait for its model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from opentelemetry import trace

from queen.core import feasibility
from queen.core.model import Hive, Proposal, Worker, WorkerSpec, WorkerState
from queen.links import events
from queen.links.hives import HiveLinks
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from wire import errors, telemetry
from wire.clock import Clock
from wire.tasks import supervised

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 300.0
DRAIN_S: Final = 30.0
RETRY_ROOM_S: Final = 10.0
"""When to ask again for a worker there is no room for now, seconds."""


@dataclass(slots=True)
class _Start:
    hive_id: str
    worker_id: str
    told: set[str] = field(default_factory=set)


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
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._links = links
        self._fail = fail
        self._clock = clock
        self._new_id = new_id
        self._group = group
        self._starts: dict[str, _Start] = {}  # model -> its start

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
        model_ref = live.job.model_ref
        self._starts[model_ref] = _Start(hive.id, proposal.spec.worker_id)
        self._cluster.expect_worker(hive.id, proposal.spec)
        self.tell_waiting(live.job.id)
        self._group.create_task(
            supervised(
                self._start_for(model_ref, hive, proposal.spec, live),
                f"the start of worker {proposal.spec.worker_id}",
                lambda error: self._start_failed(model_ref, error),
            ),
            name=f"start {proposal.spec.worker_id}",
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
        self._end_soon(worker, force=False)

    def tell_waiting(self, job_id: str) -> None:
        """Tells a waiting job that a worker is being started for its model, if one is and it was not told."""
        live = self._jobs.get(job_id)
        start = self._starts.get(live.job.model_ref) if live is not None else None
        if live is not None and start is not None and job_id not in start.told:
            start.told.add(job_id)
            self._tell(live, "STARTING_WORKER", start)

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

    async def _start_for(self, model_ref: str, hive: Hive, spec: WorkerSpec, live: LiveJob) -> None:
        with telemetry.tracer().start_as_current_span(telemetry.SPAN_PROVISION, context=live.context) as span:
            span.set_attributes({"rbee.worker.id": spec.worker_id, "rbee.hive.id": hive.id})
            try:
                await self._start(hive, spec)
            except errors.RbeeError as error:
                span.set_status(trace.StatusCode.ERROR, error.message)
                self._start_failed(model_ref, error)
                return
        start = self._starts.pop(model_ref, None)
        if start is None:
            return  # another start of the model was ready before
        for waiting in self._waiting(model_ref):
            self._tell(waiting, "WORKER_READY", start)

    async def _start(self, hive: Hive, spec: WorkerSpec) -> None:
        """Returns when the worker is ready; a start that fails leaves nothing behind."""
        with telemetry.tracer().start_as_current_span(telemetry.SPAN_WORKER_START):
            try:
                async for changes in self._links.spawn_worker(hive.address, spec, READY_TIMEOUT_S):
                    self._cluster.heard_worker(hive.id, spec.worker_id, self._clock.now(), changes)
            except errors.RbeeError:
                self._cluster.forget_worker(spec.worker_id)
                raise
        log.info("worker %s is ready on %s", spec.worker_id, hive.id)

    def _start_failed(self, model_ref: str, error: errors.RbeeError) -> None:
        log.error("a worker could not be started: %s", error)
        self._starts.pop(model_ref, None)
        for live in self._waiting(model_ref):
            self._fail(live, type(error)(error.message, error.reason, retry_after_s=error.retry_after_s))

    def _waiting(self, model_ref: str) -> list[LiveJob]:
        return [live for live in self._jobs.queued(self._clock.now()) if live.job.model_ref == model_ref]

    def _tell(self, live: LiveJob, stage: str, start: _Start) -> None:
        feed = live.feed
        feed.append(events.provisioning(feed.last_sequence + 1, stage, start.hive_id, start.worker_id))

    def _place(self, model_ref: str, hive_id: str, slots: int, context_length: int) -> tuple[Hive, WorkerSpec]:
        reasons = []
        holders: list[tuple[Hive, int]] = []
        for hive in self._cluster.list_online_hives():
            if hive_id and hive.id != hive_id:
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
