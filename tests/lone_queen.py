"""A queen's dispatching parts over a loop, links and a disk of a test, wired as `queen.program` does it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from played_workers import PlayedLinks
from queen.core.model import Device, Hive, HiveState, JobState, StageLimits, WorkerSpec, WorkerState
from queen.dispatch.callers import Callers
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.positions import Positions
from queen.dispatch.reconcile import Reconciler
from queen.dispatch.recovery import Recovery
from queen.links import events
from queen.registry.cluster import OFFLINE_AFTER_S, Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.scheduler.cycle import SchedulingCycle
from queen.scheduler.simple import SimpleScheduler
from virtual_time import VirtualClock, VirtualLoop
from wire import errors
from worlds import MODEL, job, model_file

GRACE_S = 0.25
"""What the client library asks for, to come back over another connection."""

LIMITS = StageLimits(total_s=3000.0, first_token_s=15.0, stall_s=10.0)
PROCESSOR = Device("cpu", "CPU", "cpu", memory_total_mb=4096, memory_free_mb=4096)


class Disk:
    """What outlives the queens."""

    def __init__(self):
        self.rows = {"jobs": {}, "requests": {}, "outputs": {}}


class Journal:
    """One queen's way to the disk; what she has not committed goes with her."""

    def __init__(self, disk):
        self._disk = disk
        self.rows = {name: dict(rows) for name, rows in disk.rows.items()}

    def save_job(self, saved):
        self.rows["jobs"][saved.id] = saved

    def save_request(self, job_id, spec):
        self.rows["requests"][job_id] = spec

    def drop_request(self, job_id):
        self.rows["requests"].pop(job_id, None)

    def save_output(self, job_id, _, frames):
        self.rows["outputs"][job_id] = list(frames)

    async def get_output(self, job_id):
        frames = self.rows["outputs"].get(job_id)
        return None if frames is None else (events.sequence_of(frames[0]), frames)

    def drop_output(self, job_id):
        self.rows["outputs"].pop(job_id, None)

    def save_decision(self, _):
        pass

    def commit(self):
        self._disk.rows = {name: dict(rows) for name, rows in self.rows.items()}


class LoneQueen:
    """A queen between two kills, with a loop of her own."""

    def __init__(self, disk, engines, hives, begin_s):
        self.loop = VirtualLoop(begin_s)
        self.clock, self.journal, self.links = VirtualClock(self.loop), Journal(disk), PlayedLinks(engines)
        with self.loop.entered():
            self._build()
            self._remember(hives)

    def _build(self):
        woken, clock, group = asyncio.Event(), self.clock, self.loop  # tasks die with the loop
        self.cluster = cluster = Cluster(woken.set)
        self.jobs = jobs = JobTable(self.journal, woken.set)
        self.dispatcher = dispatcher = JobDispatcher(
            jobs=jobs,
            cluster=cluster,
            links=self.links,
            clock=clock,
            jitter=lambda: 1.0,
            abandon=self._abandon,
            group=group,
        )
        self._recovery = Recovery(jobs=jobs, dispatcher=dispatcher, clock=clock, wake=woken.set)
        self.callers = Callers(dispatcher.cancel, self._recovery.caller_is_back)
        self._reconciler = Reconciler(
            jobs=jobs,
            cluster=cluster,
            dispatcher=dispatcher,
            recovery=self._recovery,
            links=self.links,
            clock=clock,
            group=group,
        )
        cycle = SchedulingCycle(
            scheduler=SimpleScheduler(lambda prefix: prefix),
            jobs=jobs,
            cluster=cluster,
            dispatcher=dispatcher,
            starter=self,
            reject=dispatcher.reject,
            store=self.journal,
            clock=clock,
            new_id=lambda prefix: prefix,
            woken=woken,
        )
        group.create_task(cycle.run())
        group.create_task(Positions(jobs, clock).run())

    def _remember(self, hives):
        for name in hives:
            self.cluster.register_hive(Hive(name, was_online=True))
        rows = self.journal.rows
        for one in sorted(rows["jobs"].values(), key=lambda one: one.order):
            if not one.resting:
                live = LiveJob(replace(one, state=JobState.QUEUED), rows["requests"][one.id], limits=LIMITS)
                self._recovery.restore(live, rows["outputs"].get(one.id, []) if one.first_token_time else [])
        self._recovery.begin(hives, self.callers)

    def start_for(self, proposal):
        """Starts nothing: workers come when a step brings them."""

    def tell_waiting(self, job_id):
        """Tells nothing."""

    def accept(self, job_id, order, *, detached, received):
        """Takes a job in, as the intake does."""
        fresh = job(job_id, order, submit_time=self.clock.now(), timeout_s=LIMITS.total_s, detached=detached)
        grace_s = 0.0 if detached else GRACE_S
        live = LiveJob(fresh, b"", limits=LIMITS, prefix=tuple(received), grace_s=grace_s)
        self.jobs.add(live)
        live.position_told = self.jobs.position(job_id, self.clock.now())
        live.feed.append(events.queued(1, live.position_told))
        if not detached:
            self.dispatcher.set_deadline(live)
        self.dispatcher.set_queue_limit(live)
        return live

    def _abandon(self, worker):
        """Has a worker ended that does not do what it is told; its hive does so at once."""
        if self.cluster.get_worker(worker.id) is not None:
            self.links.end(worker.id)

    def stop(self):
        """Ends what runs, as at SIGTERM when the time to drain is over."""
        for live in self.jobs.alive():
            if live.job.detached:
                self.dispatcher.put_back(live)
            else:
                self.dispatcher.fail(live, errors.Unreachable("the queen is stopping", "QUEEN_STOPPING"))

    def hear(self, hive, engines):
        """Is a full report of a hive."""
        if self.cluster.get_hive(hive) is None:
            self.cluster.register_hive(Hive(hive))
        for engine in engines:
            self.cluster.heard_worker(hive, engine.worker_id, self.clock.now(), told_of(engine))
        self.cluster.keep_workers(hive, frozenset(engine.worker_id for engine in engines))
        told = {"models": (model_file(),), "devices": (PROCESSOR,), "address": "h:1"}
        self.cluster.heard(hive, self.clock.now(), told)
        self._reconciler.heard(hive)

    def watch_silence(self):
        for hive in self.cluster.expire(self.clock.now()):
            if hive.state is HiveState.OFFLINE:
                self.dispatcher.hive_lost(hive.id, OFFLINE_AFTER_S / 2)


def told_of(engine):
    """Returns what a hive tells of a worker."""
    spec = WorkerSpec(engine.worker_id, MODEL, slots=engine.slots, device_ids=("cpu",), memory_mb=200)
    state = WorkerState.READY if engine.alive else WorkerState.FAILED
    return {"spec": spec, "state": state, "address": "w:1", "slots_total": engine.slots}
