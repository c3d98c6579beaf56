"""Spans come back with the call that caused them, with its error too, and never in place of the error."""

from contextlib import asynccontextmanager

import grpc
import pytest

from rbee.v1 import engine_service_pb2 as pb
from rbee.v1 import engine_service_pb2_grpc
from wire import channel, errors, span_messages, status
from wire.clock import SystemClock
from wire.server import Server
from wire.spans import Recorder

TRACED = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


class Servicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Records a step for each call, then ends it as told."""

    def __init__(self, error=None, note=""):
        self._recorder = Recorder("a worker", SystemClock(), span_messages.carry)
        self._error = error
        self._note = note

    async def GetStatus(self, request, context):
        with self._recorder.span("step", {"note": self._note}):
            if self._error is not None:
                raise self._error
            return pb.GetStatusResponse()


@asynccontextmanager
async def serving(servicer):
    server = Server("test")
    server.add(pb.DESCRIPTOR.services_by_name["EngineService"], servicer)
    port = await server.start("127.0.0.1:0")
    try:
        async with channel.dial(f"127.0.0.1:{port}") as link:
            yield engine_service_pb2_grpc.EngineServiceStub(link)
    finally:
        await server.stop(0)


def brought(metadata):
    return [(span.name, span.error) for span in span_messages.read(span_messages.in_trailers(metadata))]


async def test_a_call_that_ends_well_brings_its_steps_and_one_that_is_not_traced_none():
    async with serving(Servicer()) as stub:
        call = stub.GetStatus(pb.GetStatusRequest(), metadata=TRACED)
        await call
        assert brought(await call.trailing_metadata()) == [("step", "")]
        call = stub.GetStatus(pb.GetStatusRequest())
        await call
        assert brought(await call.trailing_metadata()) == []


async def test_an_error_brings_its_steps_and_its_own_details():
    async with serving(Servicer(errors.NoCapacity("all slots are taken", "NO_FREE_SLOT"))) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest(), metadata=TRACED)
    assert brought(caught.value.trailing_metadata()) == [("step", "NO_FREE_SLOT")]
    assert status.from_rpc_error(caught.value).reason == "NO_FREE_SLOT"


@pytest.mark.parametrize("note", ["", "n" * 2000])
async def test_the_longest_error_arrives_whatever_was_recorded(note):
    faults = [errors.FieldFault("f" * 80, "x" * 160) for _ in range(30)]
    error = errors.Invalid("é" * 9000, "TOO_LONG", metadata={"job_id": "job-1"}, faults=faults)
    async with serving(Servicer(error, note)) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest(), metadata=TRACED)
    assert status.from_rpc_error(caught.value).reason == "TOO_LONG"
