"""The queen's object graph and how it starts and stops."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from queen.config import Settings, check
from queen.core import admission
from queen.core.model import Worker
from queen.core.tenants import day_of
from queen.deciders import Deciders
from queen.dispatch.callers import Callers
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.positions import Positions
from queen.dispatch.reconcile import Reconciler
from queen.dispatch.recovery import Recovery
from queen.dispatch.silence import Silence
from queen.links.hives import HiveLinks
from queen.links.workers import CANCEL_TIMEOUT_S, WorkerLinks
from queen.metrics.meter import Meter, Receiver, each
from queen.policy.failure import Source
from queen.policy.files import read_checked
from queen.provision.hives import LocalHives
from queen.provision.workers import WorkerStarts
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.registry.tenants import TenantTable
from queen.scheduler.advice import PolicyAdvice
from queen.scheduler.cycle import SchedulingCycle
from queen.services import catalogue
from queen.services.asks import asks_in
from queen.services.hives import HiveService
from queen.services.inference import InferenceService
from queen.services.intake import Intake, Models
from queen.services.jobs import JobService
from queen.services.models import ModelService
from queen.services.policies import PolicyService
from queen.services.prompts import Prompts
from queen.services.rested import Rested
from queen.services.simulations import Past, Simulations
from queen.services.telemetry import TelemetryService
from queen.services.tenants import TenantService
from queen.services.traces import TraceService
from queen.services.workers import WorkerService
from queen.storage.retention import Retention
from queen.storage.store import SqlStore, open_in_time
from queen.traces.collector import Collector
from queen.traces.job_spans import QUEEN, JobSpans
from queen.traces.kept import Traces
from queen.web import app, connect, metrics
from queen.web.server import HttpServer
from wire import channel, errors
from wire.clock import Clock
from wire.sampling import Sampler
from wire.server import Server
from wire.spans import Recorder

log = logging.getLogger(__name__)

DRAIN_S = 30.0
"""How long streams may finish when the queen is told to stop (architecture.md section 2)."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What makes one run differ from another: time and chance. `new_id` returns "<prefix>-<random>".

    `collector`: where spans are exported to; `sampler`: which; `receiver`: where metrics are.
    """

    clock: Clock
    new_id: Callable[[str], str]
    jitter: Callable[[], float]
    instance_id: str
    sampler: Sampler
    collector: Collector | None = None
    receiver: Receiver | None = None


async def run(settings: Settings, sources: Sources) -> None:
    """Runs a queen until SIGTERM or SIGINT; a second signal stops at once. Raises why it cannot start."""
    check(settings)
    policy = await read_checked(Path(settings.policy)) if settings.policy else None
    store = await open_in_time(
        settings.database_url,
        sources.clock,
        migrate=not settings.no_migrate,
        keep_requests=settings.keep_requests,
    )
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
                queen = await _Queen.build(settings, sources, store, group, policy)
                retention = Retention(store, settings.keep_jobs, sources.clock)
                runs = [
                    queen.cycle.run(),
                    queen.positions.run(),
                    queen.silence.run(),
                    retention.run(),
                    queen.meter.run(),
                ]
                if queen.deciders.files is not None:
                    runs.append(queen.deciders.files.run())
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


class _Queen:
    """Everything wired together; nothing here decides anything."""

    def __init__(
        self,
        settings: Settings,
        sources: Sources,
        store: SqlStore,
        group: asyncio.TaskGroup,
        policy: Source | None,
        last_order: int,
    ) -> None:
        clock, new_id = sources.clock, sources.new_id
        self._sources = sources
        self._clock = clock
        self._store = store
        self._woken = asyncio.Event()
        self._leaving = asyncio.Event()
        self.cluster = Cluster(self._wake, store.save_hive, min_residency_s=settings.min_residency)
        self.tenants = TenantTable(store, self.cluster.get_worker)
        self._traces = Traces(settings.traces, sources.collector.add if sources.collector else None)
        recorder = Recorder(QUEEN, clock, self._traces.add, roots=sources.sampler)
        self._spans = JobSpans(recorder, on=self._traces.on)
        self.meter = Meter(self.cluster, clock, sources.instance_id, sources.receiver, served=bool(settings.http))
        self.jobs = JobTable(store, self._woken.set, self.tenants, each(self._spans.moved, self.meter.jobs.moved))
        self.meter.look_at(self.jobs, self.tenants)
        self._worker_links = WorkerLinks(self._traces.add_sent)
        self._hive_links = HiveLinks(self._traces.add_sent)
        self.deciders = Deciders(
            settings, given=policy, store=store, tenants=self.tenants, clock=clock, new_id=new_id, group=group
        )
        advice = PolicyAdvice(
            self.deciders.policy,
            jobs=self.jobs,
            cluster=self.cluster,
            store=store,
            clock=clock,
            new_id=new_id,
            group=group,
        )
        self._dispatcher = JobDispatcher(
            jobs=self.jobs,
            cluster=self.cluster,
            links=self._worker_links,
            clock=clock,
            jitter=sources.jitter,
            abandon=self._abandon,
            group=group,
            advice=advice,
        )
        self.silence = Silence(self.cluster, clock, self._dispatcher.hive_lost)
        self._recovery = Recovery(jobs=self.jobs, dispatcher=self._dispatcher, clock=clock, wake=self._woken.set)
        self._callers = Callers(self._dispatcher.cancel, self._recovery.caller_is_back)
        self._reconciler = Reconciler(
            jobs=self.jobs,
            cluster=self.cluster,
            dispatcher=self._dispatcher,
            recovery=self._recovery,
            links=self._worker_links,
            clock=clock,
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
            recorder=recorder,
            metrics=self.meter.jobs,
        )
        self.cycle = SchedulingCycle(
            scheduler=self.deciders.scheduler,
            jobs=self.jobs,
            cluster=self.cluster,
            dispatcher=self._dispatcher,
            starter=self._starts,
            reject=self._dispatcher.reject,
            store=store,
            clock=clock,
            new_id=new_id,
            woken=self._woken,
            tenants=self.tenants,
            policy=self.deciders.policy,
            decided=each(self._spans.decided, self.meter.jobs.decided),
        )
        self.positions = Positions(self.jobs, clock)
        self._models = Models(self.cluster, self._hive_links, clock)
        self._intake = Intake(
            jobs=self.jobs,
            models=self._models,
            cluster=self.cluster,
            prompts=Prompts(self.cluster, self._worker_links),
            limits=settings.limits,
            dispatcher=self._dispatcher,
            store=store,
            clock=clock,
            new_id=new_id,
            last_order=last_order,
            capacity=admission.capacity(settings.mode, settings.queue_capacity),
            shared=self.tenants,
            advice=advice,
            spans=self._spans,
            metrics=self.meter.jobs,
        )
        self._group = group
        self._settings = settings
        self._server = Server("queen-rbee")
        self._http = HttpServer()
        self._hives: LocalHives | None = None

    @classmethod
    async def build(
        cls, settings: Settings, sources: Sources, store: SqlStore, group: asyncio.TaskGroup, policy: Source | None
    ) -> _Queen:
        """Returns a queen that knows what she knew before."""
        queen = cls(settings, sources, store, group, policy, await store.last_order())
        today = day_of(sources.clock.now())
        used = await store.usage_of(today, today)
        queen.tenants.restore(await store.list_tenants(), used, today, await store.served())
        hives = await store.list_hives()
        for hive in hives:
            queen.cluster.register_hive(hive)
        gc.disable()  # all of it stays: looking through it again and again would take longer than making it
        for job, spec in await store.load_unfinished(asks_in):
            kept = await store.get_output(job.id) if job.first_token_time is not None else None
            queen._recovery.restore(queen._intake.restored(job, spec), kept[1] if kept else [])
        gc.freeze()
        gc.enable()
        queen._recovery.begin({hive.id for hive in hives if hive.was_online}, queen._callers)
        await queen.deciders.start()
        return queen

    async def serve(self, address: str) -> None:
        """Serves everything and says so."""
        host, _ = channel.split_address(address)
        clock = self._clock
        serve = catalogue.adder(self._server)
        http = self._http.bind(self._settings.http) if self._settings.http else ""
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
        rested = Rested(self._store, self._dispatcher)
        serve("InferenceService", InferenceService(self._intake, self._callers, self.jobs, rested), {"Infer"})
        serve(
            "JobService",
            JobService(
                jobs=self.jobs,
                intake=self._intake,
                dispatcher=self._dispatcher,
                callers=self._callers,
                rested=rested,
                store=self._store,
                clock=clock,
                cluster=self.cluster,
                tenants=self.tenants,
            ),
            {"Watch"},
        )
        serve("HiveService", HiveService(self.cluster, self._hives))
        serve(
            "WorkerService",
            WorkerService(cluster=self.cluster, starts=self._starts, models=self._models, clock=clock),
        )
        serve("TraceService", TraceService(self._traces, self._spans, self.jobs, self._store))
        serve("TenantService", TenantService(self.tenants, self._store, clock))
        serve("ModelService", ModelService(self.cluster, self._models))
        serve(
            "TelemetryService",
            TelemetryService(
                cluster=self.cluster,
                jobs=self.jobs,
                store=self._store,
                clock=clock,
                instance_id=self._sources.instance_id,
                heard=self._reconciler.heard,
                leaving=self._leaving,
            ),
        )
        serve(
            "PolicyService",
            PolicyService(
                policies=self.deciders.policies,
                scheduler=self.deciders.policy,
                files=self.deciders.files,
                protections=self.deciders.protections,
                simulations=Simulations(self.deciders.policies, Past(self._store, self.cluster, self.tenants, clock)),
                store=self._store,
            ),
        )
        catalogue.add_unserved(self._server)
        if http:
            await self._serve_http(http)
        await self._server.start()
        log.info("serves on %s:%d, data in %s", host, port, self._settings.data_dir)

    async def _serve_http(self, address: str) -> None:
        """Serves HTTP, all that is served over gRPC as well."""
        await self._http.start(
            app.build(
                self._settings,
                intake=self._intake,
                models=self._models,
                cluster=self.cluster,
                store=self._store,
                callers=self._callers,
                cancel=self._dispatcher.cancel,
                clock=self._clock,
                new_id=self._sources.new_id,
                more=[metrics.page(self.meter.parts), connect.route(self._server.methods, self._settings)],
            )
        )
        log.info("answers OpenAI's clients at http://%s/v1", address)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stops admitting, lets streams finish, stops her hives, ends all calls."""
        log.info("stopping: no new jobs; %d in progress", sum(1 for _ in self.jobs.alive()))
        self._intake.close()
        await self._server.refuse_new()
        await self._drain(hurry)
        running = [live.task for live in self.jobs.alive() if live.task is not None]
        for live in self.jobs.alive():
            if not live.job.detached:
                stopped = errors.Unreachable("the queen is stopping; ask again", "QUEEN_STOPPING", retry_after_s=5.0)
                self._dispatcher.fail(live, stopped)
            else:
                self._dispatcher.put_back(live)
        if running:
            await asyncio.wait(running, timeout=CANCEL_TIMEOUT_S)
        if self._hives is not None:
            await self._hives.stop_all()
        self._leaving.set()
        await self._http.stop()
        await self._server.stop(1.0)
        await self._worker_links.close()
        await self._hive_links.close()
        await self.deciders.close()
        await asyncio.gather(*(one.close() for one in (self.meter, self._sources.collector) if one is not None))

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
        self.silence.heard.set()
