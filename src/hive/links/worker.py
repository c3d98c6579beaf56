"""Calls to a worker's EngineService."""

from __future__ import annotations

import logging
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration

from rbee.v1 import engine_service_pb2, engine_service_pb2_grpc
from wire import telemetry
from wire.channel import dial

log = logging.getLogger(__name__)

_ANSWER_S: Final = 1.0


class WorkerLink:
    """Dials a worker for each call: they are rare. A worker that does not answer is left to its supervisor."""

    async def drain(self, address: str, grace_s: float) -> None:
        """Asks a worker to take no new work; returns when it runs nothing, at the latest after `grace_s` and 1 s."""
        timeout = Duration()
        timeout.FromNanoseconds(int(grace_s * 1e9))
        async with dial(address) as channel:
            stub = engine_service_pb2_grpc.EngineServiceStub(channel)
            try:
                await stub.Drain(
                    engine_service_pb2.DrainRequest(timeout=timeout),
                    timeout=grace_s + _ANSWER_S,
                    metadata=telemetry.inject(),
                )
            except grpc.aio.AioRpcError as error:
                log.info("worker on %s did not drain: %s", address, error.code().name)

    async def running_generations(self, address: str) -> int:
        """Returns how many generations a worker runs; 0 when it does not answer within 1 s."""
        async with dial(address) as channel:
            stub = engine_service_pb2_grpc.EngineServiceStub(channel)
            try:
                status = await stub.GetStatus(engine_service_pb2.GetStatusRequest(), timeout=_ANSWER_S)
            except grpc.aio.AioRpcError as error:
                log.info("worker on %s does not tell its status: %s", address, error.code().name)
                return 0
        return sum(not generation.ended for generation in status.generations)
