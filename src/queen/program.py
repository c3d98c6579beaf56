"""The queen's object graph and how it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from queen.config import Settings
from queen.core import admission
from queen.core.model import Failure, JobState, Worker
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.positions import Positions
from queen.links.hives import HiveLinks
from queen.links.workers import WorkerLinks
from queen.provision.hives import LocalHives
from queen.provision.workers import WorkerStarts
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.scheduler.cycle import SchedulingCycle
from queen.scheduler.simple import SimpleScheduler
from queen.services import catalogue
from queen.services.hives import HiveService
from queen.services.inference import InferenceService
from queen.services.intake import Intake, Models, restored
from queen.services.jobs import JobService
from queen.services.models import ModelService
from queen.services.telemetry import TelemetryService
from queen.services.workers import WorkerService
from queen.storage.store import SqlStore, open_store
from wire import channel, errors
from wire.clock import Clock
from wire.server import Server

log = logging.getLogger(__name__)

DRAIN_S = 30.0
"""How long streams may finish when the queen is told to stop (architecture.md section 2)."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What makes one run differ from another: time and chance. `new_id` returns "<prefix>-<random>"."""

    clock: Clock
    new_id: Callable[[str], str]
    jitter: Callable[[], float]
    instance_id: str


async def run(settings: Settings, sources: Sources) -> None:
    """Runs a queen until SIGTERM or SIGINT; a second signal stops at once. Raises why it cannot start."""
    _check_exposure(settings.listen)
    store = await asyncio.to_thread(open_store, settings.database_url, migrate=not settings.no_migrate)
    if settings.migrate_only:
        await store.close()
        log.info("the database is up to date")
        return
    stopping = asyncio.Event()
    hurry = asyncio.Event()

    def told_to_stop() -> None:
        (hurry if stopping.is_set() else stopping).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop)
    async with asyncio.TaskGroup() as writing:
        writing.create_task(store.writer.run(), name="store writer")
        try:
            async with asyncio.TaskGroup() as group:
                queen = await _Queen.build(settings, sources, store, group)
                runs = queen.cycle.run(), queen.positions.run(), queen.watch_silence()
                tasks = [group.create_task(run) for run in runs]
                try:
                    await queen.serve(settings.listen)
                    await stopping.wait()
                finally:
                    await queen.stop(hurry)
                    for task in tasks:
                        task.cancel()
        finally:
            store.writer.close()
    await store.close()
    log.info("stopped")


def _check_exposure(address: str) -> None:
    host, _ = channel.split_address(address)
    if not channel.is_loopback(host):
        raise errors.Invalid(
            f"the queen does not serve on {host}: any address but this machine's own needs TLS and keys, which this "
            "version does not have yet. Use --listen 127.0.0.1:7833 and reach it through an SSH tunnel",
            "EXPOSED_WITHOUT_TLS",
        )


class _Queen:
    """Everything wired together; nothing here decides anything."""

    def __init__(
        self, settings: Settings, sources: Sources, store: SqlStore, group: asyncio.TaskGroup, last_order: int
    ) -> None:
        clock, new_id = sources.clock, sources.new_id
        self._clock = clock
        self._store = store
        self._woken = asyncio.Event()
        self._heard = asyncio.Event()
        self.cluster = Cluster(self._wake)
        self.jobs = JobTable(store, self._woken.set)
        self._worker_links, self._hive_links = WorkerLinks(), HiveLinks()
        self._dispatcher = JobDispatcher(
            jobs=self.jobs,
            cluster=self.cluster,
            links=self._worker_links,
            clock=clock,
            jitter=sources.jitter,
            abandon=self._abandon,
            group=group,
        )
        self._starts = WorkerStarts(
            jobs=self.jobs,
            cluster=self.cluster,
            links=self._hive_links,
            fail=self._dispatcher.fail,
            clock=clock,
            new_id=new_id,
            group=group,
        )
        self.cycle = SchedulingCycle(
            scheduler=SimpleScheduler(new_id),
            jobs=self.jobs,
            cluster=self.cluster,
            dispatcher=self._dispatcher,
            starter=self._starts,
            reject=self._dispatcher.reject,
            store=store,
            clock=clock,
            new_id=new_id,
            woken=self._woken,
        )
        self.positions = Positions(self.jobs, clock)
        self._models = Models(self.cluster, self._hive_links)
        self._intake = Intake(
            jobs=self.jobs,
            models=self._models,
            cluster=self.cluster,
            dispatcher=self._dispatcher,
            store=store,
            clock=clock,
            new_id=new_id,
            last_order=last_order,
            capacity=admission.capacity(settings.mode, settings.queue_capacity),
        )
        self._group = group
        self._settings = settings
        self._sources = sources
        self._server = Server("queen-rbee")
        self._hives: LocalHives | None = None

    @classmethod
    async def build(cls, settings: Settings, sources: Sources, store: SqlStore, group: asyncio.TaskGroup) -> _Queen:
        """Returns a queen that knows what she knew before."""
        queen = cls(settings, sources, store, group, await store.last_order())
        for hive in await store.list_hives():
            queen.cluster.register_hive(hive)
        await queen._restore_jobs()
        return queen

    async def _restore_jobs(self) -> None:
        """Puts detached jobs back in the queue; the others' callers are gone, so these end."""
        now = self._clock.now()
        for job, spec in await self._store.load_unfinished():
            failure = Failure("QUEEN_RESTARTED", "the queen was restarted while this ran; ask again", 14, True)
            attempts = tuple(replace(one, end_time=one.end_time or now) for one in job.attempts)
            if job.detached and spec:
                live = restored(replace(job, state=JobState.QUEUED, attempts=attempts), spec)
                self.jobs.restore(live)
                self._dispatcher.set_queue_limit(live)
            else:
                ended = replace(job, state=JobState.FAILED, end_time=now, attempts=attempts, failure=failure)
                self._store.save_job(ended)
                self._store.drop_request(job.id)

    async def serve(self, address: str) -> None:
        """Serves everything and says so."""
        host, _ = channel.split_address(address)
        clock = self._clock
        serve = catalogue.adder(self._server)
        port = await self._server.bind(address)
        self._hives = LocalHives(
            cluster=self.cluster,
            links=self._hive_links,
            data_dir=self._settings.data_dir,
            queen_address=f"{host}:{port}",
            listen=self._settings.hive_listen,
            name=self._settings.hive_name,
            group=self._group,
        )
        serve("InferenceService", InferenceService(self._intake, self._dispatcher, self.jobs), {"Infer"})
        serve(
            "JobService",
            JobService(
                jobs=self.jobs, intake=self._intake, dispatcher=self._dispatcher, store=self._store, clock=clock
            ),
            {"Watch"},
        )
        serve("HiveService", HiveService(self.cluster, self._hives))
        serve(
            "WorkerService",
            WorkerService(cluster=self.cluster, starts=self._starts, models=self._models, clock=clock),
        )
        serve("ModelService", ModelService(self.cluster, self._models))
        serve(
            "TelemetryService",
            TelemetryService(
                cluster=self.cluster, store=self._store, clock=clock, instance_id=self._sources.instance_id
            ),
        )
        catalogue.add_unserved(self._server)
        await self._server.start()
        log.info("serves on %s:%d, data in %s", host, port, self._settings.data_dir)

    async def watch_silence(self) -> None:
        """Degrades hives that stay silent, when their time comes."""
        while True:
            self._heard.clear()
            due = self.cluster.next_silence()
            delay = None if due is None else max(0.0, due - self._clock.now())
            try:
                async with asyncio.timeout(delay):
                    await self._heard.wait()
            except TimeoutError:
                for hive in self.cluster.expire(self._clock.now()):
                    log.warning("hive %s is %s: silent since its last report", hive.id, hive.state)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stops admitting, lets streams finish, stops her hives, ends all calls."""
        log.info("stopping: no new jobs; %d in progress", sum(1 for _ in self.jobs.alive()))
        self._intake.close()
        await self._server.refuse_new()
        await self._drain(hurry)
        for live in self.jobs.alive():
            if not live.job.detached:
                stopped = errors.Unreachable("the queen is stopping; ask again", "QUEEN_STOPPING", retry_after_s=5.0)
                self._dispatcher.fail(live, stopped)
            elif live.task is not None:
                live.task.cancel()  # it is on disk as running, and goes back to the queue at the next start
        if self._hives is not None:
            await self._hives.stop_all()
        await self._server.stop(1.0)
        await self._worker_links.close()
        await self._hive_links.close()

    async def _drain(self, hurry: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            ends = {group.create_task(self.jobs.settled()), group.create_task(hurry.wait())}
            await asyncio.wait(ends, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()

    def _abandon(self, worker: Worker) -> None:
        self._starts.abandon(worker)

    def _wake(self) -> None:
        self._woken.set()
        self._heard.set()
