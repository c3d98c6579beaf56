"""What hives report, over real gRPC."""

import asyncio

import pytest

from queen.core.model import HiveState
from queen.registry.jobs import JobTable
from queen.services.telemetry import TelemetryService
from rbee.v1 import telemetry_service_pb2 as pb
from rbee.v1 import telemetry_service_pb2_grpc, worker_pb2
from wire.channel import dial
from wire.clock import SystemClock
from wire.server import Server
from worlds import MODEL, World


class NoStore:
    """Takes everything."""

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
async def stream():
    world = World()
    server = Server("queen")
    servicer = TelemetryService(
        cluster=world.cluster,
        jobs=JobTable(NoStore(), lambda: None),
        store=NoStore(),
        clock=SystemClock(),
        instance_id="q",
        heard=lambda _: None,
        leaving=asyncio.Event(),
    )
    server.add(pb.DESCRIPTOR.services_by_name["TelemetryService"], servicer)
    address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
    async with dial(address) as channel:
        yield world.cluster, telemetry_service_pb2_grpc.TelemetryServiceStub(channel).Report()
    await server.stop(0)


def full():
    spec = worker_pb2.WorkerSpec(worker_id="w1", model_ref=MODEL)
    worker = pb.WorkerReport(worker_id="w1", spec=spec, state=worker_pb2.WORKER_STATE_READY, slots_total=2)
    return pb.ReportRequest(report=pb.HiveReport(full=True, workers=[worker]))


async def test_a_hive_that_was_offline_is_asked_for_all_it_has(stream):
    cluster, call = stream
    delta = pb.ReportRequest(report=pb.HiveReport(workers=[pb.WorkerReport(worker_id="w1", cpu_pct=3.0)]))
    await call.write(pb.ReportRequest(hello=pb.HiveHello(hive_id="mill", address="h:1", instance_id="i")))
    assert not (await call.read()).full_report
    await call.write(full())
    await cluster.until(lambda: cluster.get_worker("w1") is not None)
    cluster.set_hive_state("mill", HiveState.OFFLINE)
    await call.write(delta)
    assert (await call.read()).full_report
    assert cluster.get_worker("w1") is None
    await call.write(full())
    await cluster.until(lambda: cluster.get_worker("w1") is not None)
    assert cluster.get_worker("w1").slots_total == 2
    call.cancel()
