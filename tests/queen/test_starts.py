"""Starts of workers for waiting jobs, against hives in this process that answer over real gRPC."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from queen.core import feasibility
from queen.core.faults import MAX_ATTEMPTS
from queen.core.model import Action, JobState, Proposal, StageLimits
from queen.links.hives import HiveLinks
from queen.metrics.jobs import JobMetrics
from queen.provision.workers import WorkerStarts
from queen.registry.jobs import JobTable, LiveJob
from rbee.v1 import hive_agent_service_pb2, hive_agent_service_pb2_grpc, telemetry_service_pb2, worker_pb2
from wire import errors
from wire.clock import SystemClock
from wire.server import Server
from wire.spans import Recorder
from worlds import MODEL, World, job, model_file

pb = hive_agent_service_pb2


class NoStore:
    """Takes everything."""

    def __getattr__(self, name):
        return lambda *_: None


class Hive(hive_agent_service_pb2_grpc.HiveAgentServiceServicer):
    """Serves what a start asks of a hive: `error` refuses it, else the worker loads until `ready` is set."""

    def __init__(self, error=None):
        self.error = error
        self.ready = asyncio.Event()
        self.asked = asyncio.Event()
        self.stopped = asyncio.Event()

    async def SpawnWorker(self, request, context):
        self.asked.set()
        if self.error is not None:
            raise self.error
        worker = telemetry_service_pb2.WorkerReport(
            worker_id=request.spec.worker_id, state=worker_pb2.WORKER_STATE_LOADING, pid=5
        )
        await context.write(pb.SpawnWorkerResponse(worker=worker))
        await self.ready.wait()
        if self.stopped.is_set():
            raise errors.Unreachable("it was stopped while it loaded", "WORKER_START_FAILED")
        worker.state = worker_pb2.WORKER_STATE_READY
        worker.slots_total = 4
        await context.write(pb.SpawnWorkerResponse(worker=worker))

    async def StopWorker(self, request, context):
        self.stopped.set()
        self.ready.set()
        return pb.StopWorkerResponse()


class Scene:
    def __init__(self, group):
        self.world = World()
        self.table = JobTable(NoStore(), lambda: None)
        self.failures = {}
        self.links = HiveLinks()
        self.starts = WorkerStarts(
            metrics=JobMetrics(str),
            jobs=self.table,
            cluster=self.world.cluster,
            links=self.links,
            fail=self._failed,
            clock=SystemClock(),
            new_id=lambda prefix: f"{prefix}-w{len(self.failures)}",
            recorder=Recorder("test", SystemClock(), lambda _: None),
            group=group,
        )

    def _failed(self, live, error):
        self.failures[live.job.id] = error
        self.table.cancelled(live, error, 0.0)

    def waiting(self, number, start_s=30.0):
        live = LiveJob(job(f"job-{number}", number), b"", limits=StageLimits(start_s=start_s))
        self.table.add(live)
        return live

    def start(self, live, hive_id):
        cluster = self.world.cluster
        device, _ = feasibility.find_device(cluster.get_hive(hive_id), 1, {})
        spec = feasibility.spec_for(f"{hive_id}-first", cluster.find_file(MODEL, hive_id), device)
        self.starts.start_for(Proposal(live.job.id, Action.START_WORKER, "", hive_id=hive_id, spec=spec))

    async def until(self, holds):
        async with asyncio.timeout(10):
            await self.world.cluster.until(holds)


@pytest.fixture
async def scene():
    servers = []

    @asynccontextmanager
    async def build(**hives):
        async with asyncio.TaskGroup() as group:
            scene = Scene(group)
            for name, hive in hives.items():
                server = Server(name)
                server.add(pb.DESCRIPTOR.services_by_name["HiveAgentService"], hive)
                servers.append(server)
                scene.world.add_hive(name, models=(model_file(),))
                address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
                scene.world.cluster.heard(name, 0.0, {"address": address})
            yield scene
            await scene.links.close()

    yield build
    for server in servers:
        await server.stop(0)


def failing(reason="WORKER_START_FAILED"):
    return Hive(errors.Unreachable("it ended while it loaded", reason))


async def test_a_start_that_fails_is_tried_once_on_another_hive(scene):
    one, other = failing(), Hive()
    other.ready.set()
    async with scene(one=one, other=other) as world:
        live = world.waiting(1)
        world.start(live, "one")
        await world.until(lambda: [w.hive_id for w in world.world.cluster.list_online_workers() if w.slots_total])
        assert [w.hive_id for w in world.world.cluster.list_online_workers()] == ["other"]
        assert live.job.state is JobState.QUEUED
        assert world.failures == {}


async def test_a_second_start_that_fails_ends_those_who_wait_with_its_reason(scene):
    one, other, third = failing(), failing(), failing()
    async with scene(one=one, other=other, third=third) as world:
        for number in (1, 2):
            live = world.waiting(number)
        world.start(live, "one")
        await world.until(lambda: len(world.failures) == 2)
        assert {error.reason for error in world.failures.values()} == {"WORKER_START_FAILED"}
        assert other.asked.is_set()
        assert not third.asked.is_set()


async def test_what_no_other_hive_can_mend_is_not_tried_again(scene):
    one, other = Hive(errors.WrongState("corrupt", "MODEL_UNUSABLE")), Hive()
    async with scene(one=one, other=other) as world:
        world.start(world.waiting(1), "one")
        await world.until(lambda: world.failures)
        assert world.failures["job-1"].reason == "MODEL_UNUSABLE"
        assert not other.asked.is_set()


async def test_the_last_to_wait_takes_the_start_along(scene):
    hive = Hive()
    async with scene(mill=hive) as world:
        short, long = world.waiting(1, 0.05), world.waiting(2, 0.3)
        world.start(short, "mill")
        world.starts.tell_waiting(long.job.id)
        async with asyncio.timeout(10):
            await hive.stopped.wait()
        assert {name: error.reason for name, error in world.failures.items()} == dict.fromkeys(
            ("job-1", "job-2"), "START_TIMED_OUT"
        )
        assert "mill-first still loads the model on mill" in world.failures["job-1"].message
        assert "its limit there is 0.05 s, raise it with --start-timeout" in world.failures["job-1"].message
        await world.until(lambda: world.world.cluster.list_online_workers() == [])


async def test_a_start_that_is_cut_short_is_left_to_the_next_cycle_and_not_for_ever(scene):
    async with scene(mill=failing("WORKER_KILLED")) as world:
        live = world.waiting(1)
        for left in reversed(range(MAX_ATTEMPTS)):
            world.start(live, "mill")
            await world.until(lambda: not world.world.cluster.list_online_workers())
            assert bool(world.failures) is not bool(left)
        assert world.failures["job-1"].reason == "WORKER_KILLED"


@pytest.mark.parametrize("reason", ["HIVE_UNREACHABLE", "HIVE_STOPPING"])
async def test_a_hive_that_is_gone_gets_no_more_starts_until_it_reports(scene, reason):
    async with scene(mill=failing(reason)) as world:
        live = world.waiting(1)
        world.start(live, "mill")
        await world.until(lambda: not world.world.cluster.list_online_workers())
        assert world.failures == {}
        assert world.world.cluster.list_available_hives() == []
        world.world.cluster.heard("mill", 1.0, {})
        assert [hive.id for hive in world.world.cluster.list_available_hives()] == ["mill"]
