"""Calls to hives: commands down, and their reports turned into the queen's own values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from queen.core import model
from queen.links import reports
from rbee.v1 import hive_agent_service_pb2, hive_agent_service_pb2_grpc, worker_pb2
from wire import channel, errors, span_messages, status, telemetry

pb = hive_agent_service_pb2


class HiveLinks:
    """Channels to hives by address, opened when first used.

    `on_spans` gets what hives recorded of a call, serialised `Spans`, in the context of the call.
    """

    def __init__(self, on_spans: Callable[[bytes], None] = lambda _: None) -> None:
        self._on_spans = on_spans
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def spawn_worker(
        self, address: str, spec: model.WorkerSpec, ready_timeout_s: float
    ) -> AsyncIterator[dict[str, Any]]:
        """Starts a worker and yields its changed fields as it comes up; ends when it is ready."""
        request = pb.SpawnWorkerRequest(
            spec=worker_pb2.WorkerSpec(
                worker_id=spec.worker_id,
                model_ref=spec.model_ref,
                engine=spec.engine,
                slots=spec.slots,
                context_length=spec.context_length,
                device_ids=spec.device_ids,
                memory_mb=spec.memory_mb,
                engine_options=dict(spec.engine_options),
            )
        )
        request.ready_timeout.FromNanoseconds(int(ready_timeout_s * 1e9))
        call = self._stub(address).SpawnWorker(request, metadata=telemetry.inject())
        try:
            async for message in call:
                yield reports.worker_changes(message.worker)
            self._on_spans(span_messages.in_trailers(await call.trailing_metadata()))
        except grpc.aio.AioRpcError as error:
            self._on_spans(span_messages.in_trailers(error.trailing_metadata()))
            raise _named(status.from_rpc_error(error), address) from error
        finally:
            call.cancel()

    async def stop_worker(self, address: str, worker_id: str, grace_s: float) -> None:
        """Stops a worker; returns when its process has ended, also when there was none."""
        request = pb.StopWorkerRequest(worker_id=worker_id)
        request.grace.FromNanoseconds(int(grace_s * 1e9))
        try:
            await self._stub(address).StopWorker(request, metadata=telemetry.inject())
        except grpc.aio.AioRpcError as error:
            found = status.from_rpc_error(error)
            if not isinstance(found, errors.NotFound):
                raise _named(found, address) from error

    async def inspect_model(self, address: str, path: str) -> model.ModelFile:
        """Returns what a model file outside the hive's model directories is; raises `NotFound`, `Invalid`."""
        try:
            answer = await self._stub(address).InspectModel(pb.InspectModelRequest(path=path))
        except grpc.aio.AioRpcError as error:
            raise _named(status.from_rpc_error(error), address) from error
        return reports.model_file(answer.model)

    async def shutdown(self, address: str, grace_s: float) -> None:
        """Stops a hive and its workers; returns when the workers have ended."""
        request = pb.ShutdownRequest()
        request.grace.FromNanoseconds(int(grace_s * 1e9))
        try:
            await self._stub(address).Shutdown(request)
        except grpc.aio.AioRpcError as error:
            raise _named(status.from_rpc_error(error), address) from error

    async def close(self) -> None:
        """Closes all channels."""
        for opened in self._channels.values():
            await opened.close()

    def _stub(self, address: str) -> hive_agent_service_pb2_grpc.HiveAgentServiceAsyncStub:
        if address not in self._channels:
            self._channels[address] = channel.dial(address)
        return hive_agent_service_pb2_grpc.HiveAgentServiceStub(self._channels[address])


_TRANSPORT: Final = {code.name for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)}
"""What the transport says of a hive that has ended, before or during a call."""


def _named(found: errors.RbeeError, address: str) -> errors.RbeeError:
    if found.reason in _TRANSPORT:
        return errors.Unreachable(f"the hive at {address} does not answer; see: rbee hive list", "HIVE_UNREACHABLE")
    return found
