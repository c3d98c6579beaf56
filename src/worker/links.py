"""The worker's one call to its hive: it says that it is ready."""

from __future__ import annotations

from typing import Final

import grpc

from rbee.v1 import hive_agent_service_pb2, hive_agent_service_pb2_grpc
from wire import channel, status
from worker import convert
from worker.engines.port import Engine

_PATIENCE_S: Final = 30.0


async def announce(hive: str, token: str, port: int, engine: Engine) -> str:
    """Tells the hive at "host:port" that this worker serves on `port`; returns the id the hive knows it by.

    Waits up to 30 s for a hive that does not answer yet. Raises errors of `wire.errors`; `Unauthenticated`
    BAD_SPAWN_TOKEN means that the hive did not start this process.
    """
    async with channel.dial(hive) as link:
        stub = hive_agent_service_pb2_grpc.HiveAgentServiceStub(link)
        try:
            answer = await stub.AnnounceWorker(
                hive_agent_service_pb2.AnnounceWorkerRequest(
                    spawn_token=token,
                    port=port,
                    slots_total=engine.slots,
                    context_length=engine.context_length,
                    backend=convert.BACKENDS[engine.backend],
                ),
                timeout=_PATIENCE_S,
                wait_for_ready=True,
            )
        except grpc.RpcError as error:
            raise status.from_rpc_error(error) from error
    return str(answer.worker_id)
