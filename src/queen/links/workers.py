"""Calls to workers: a channel each, requests built around the serialised job, messages handed on unread.

Each call names the worker it is for: a port may be used again, by a worker with another model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from queen.core.faults import StreamConnectionFailed, StreamReadError, WorkerCommunicationFailed, WorkerError
from queen.core.model import Worker
from rbee.v1 import engine_service_pb2, engine_service_pb2_grpc, job_pb2, worker_pb2
from wire import channel, errors, span_messages, status, telemetry

GENERATE: Final = "/rbee.v1.EngineService/Generate"
RESUME: Final = "/rbee.v1.EngineService/Resume"

STATUS_TIMEOUT_S: Final = 2.0
CANCEL_TIMEOUT_S: Final = 5.0
"""A worker that does not confirm a cancellation within this is taken for stuck (architecture.md section 2)."""

COUNT_TIMEOUT_S: Final = 2.0
"""How long a prompt may take to be counted before its caller is let in without."""

_JOB_FIELD_TAG: Final = bytes([engine_service_pb2.GenerateRequest.JOB_FIELD_NUMBER << 3 | 2])


@dataclass(frozen=True, slots=True)
class KnownGeneration:
    """What a worker says of one generation it runs, or has run and keeps."""

    job_id: str
    attempt: int
    ended: bool


class Generation:
    """One running Generate or Resume call. `read` answers raw messages; each is one event.

    `on_spans` gets the worker's spans, serialised, when the call has ended.
    """

    def __init__(self, call: grpc.aio.UnaryStreamCall[bytes, bytes], on_spans: Callable[[bytes], None]) -> None:
        self._call = call
        self._on_spans = on_spans
        self._answered = False

    async def read(self) -> bytes:
        """Returns the next message, b"" at the end; raises the worker's error, or what the link's failure means."""
        try:
            message: object = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._on_spans(span_messages.in_trailers(error.trailing_metadata()))
            raise self._failure(error) from error
        if not isinstance(message, bytes):
            self._on_spans(span_messages.in_trailers(await self._call.trailing_metadata()))
            return b""
        self._answered = True
        return message

    def cancel(self) -> None:
        """Ends the call; the generation goes on, and its output is kept."""
        self._call.cancel()

    def _failure(self, error: grpc.aio.AioRpcError) -> errors.RbeeError:
        found = status.from_rpc_error(error)
        if _is_lost(found, error.code()):
            cls = StreamReadError if self._answered else StreamConnectionFailed
            return cls(f"the worker was lost: {found.message}")
        if isinstance(found, errors.Internal):
            return WorkerError(found.message, found.reason)
        return found


class WorkerLinks:
    """Channels to workers, opened when first used. There is one for each address, to the newest worker there.

    `on_spans` gets what workers recorded of a call, serialised `Spans`, in the context of the call.
    """

    def __init__(self, on_spans: Callable[[bytes], None] = lambda _: None) -> None:
        self._on_spans = on_spans
        self._channels: dict[str, tuple[str, grpc.aio.Channel]] = {}

    def generate(
        self, worker: Worker, spec: bytes, *, job_id: str, attempt: int, first_sequence: int, generated: list[int]
    ) -> Generation:
        """Starts a generation; `spec` is the serialised JobSpec, `generated` the ids of tokens sent before."""
        head = engine_service_pb2.GenerateRequest(
            job_id=job_id, attempt=attempt, first_sequence=first_sequence, generated_token_ids=generated, keep=True
        ).SerializeToString()
        return self._stream(worker, GENERATE, b"".join((head, _JOB_FIELD_TAG, _varint(len(spec)), spec)))

    def resume(self, worker: Worker, job_id: str, after_index: int) -> Generation:
        """Attaches to a generation: its events with tokens after the first `after_index` ones of the answer."""
        request = engine_service_pb2.ResumeRequest(job_id=job_id, after_index=after_index)
        return self._stream(worker, RESUME, request.SerializeToString())

    def _stream(self, worker: Worker, method: str, request: bytes) -> Generation:
        call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel(worker).unary_stream(method)
        return Generation(call(request, metadata=_metadata(worker)), self._on_spans)

    async def generations(self, worker: Worker) -> tuple[bool, list[KnownGeneration]]:
        """Returns whether a worker drains, and what it runs and keeps; raises `WorkerCommunicationFailed`."""
        stub = engine_service_pb2_grpc.EngineServiceStub(self._channel(worker))
        try:
            told = await stub.GetStatus(
                engine_service_pb2.GetStatusRequest(), timeout=STATUS_TIMEOUT_S, metadata=_metadata(worker)
            )
        except grpc.aio.AioRpcError as error:
            raise WorkerCommunicationFailed(f"the worker does not tell what it runs: {error.details()}") from error
        drains = told.state == worker_pb2.WORKER_STATE_DRAINING
        return drains, [KnownGeneration(one.job_id, one.attempt, one.ended) for one in told.generations]

    async def cancel(self, worker: Worker, job_id: str) -> None:
        """Ends a job's generation and returns when its slot is free; raises what went wrong. Safe to repeat."""
        stub = engine_service_pb2_grpc.EngineServiceStub(self._channel(worker))
        request = engine_service_pb2.CancelRequest(job_id=job_id)
        try:
            await stub.Cancel(request, timeout=CANCEL_TIMEOUT_S, metadata=_metadata(worker))
        except grpc.aio.AioRpcError as error:
            found = status.from_rpc_error(error)
            if not isinstance(found, errors.NotFound) and found.reason != "ADDRESSEE_GONE":
                raise WorkerCommunicationFailed(f"the worker could not be asked: {found.message}") from error

    async def count_tokens(self, worker: Worker, spec: job_pb2.JobSpec) -> int:
        """Returns how many tokens a job's prompt has for the worker's model; raises why that cannot be told."""
        stub = engine_service_pb2_grpc.EngineServiceStub(self._channel(worker))
        request = engine_service_pb2.CountTokensRequest(job=spec)
        try:
            answer = await stub.CountTokens(request, timeout=COUNT_TIMEOUT_S, metadata=_metadata(worker))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error) from error
        return answer.prompt_tokens

    async def close(self) -> None:
        """Closes all channels."""
        await asyncio.gather(*(opened.close() for _, opened in self._channels.values()))

    def _channel(self, worker: Worker) -> grpc.aio.Channel:
        worker_id, opened = self._channels.get(worker.address, ("", None))
        if opened is None or worker_id != worker.id:
            # Not that of the worker before: it pauses between its tries to reach that one.
            opened = channel.dial(worker.address)
            self._channels[worker.address] = worker.id, opened
        return opened


def _is_lost(found: errors.RbeeError, code: grpc.StatusCode) -> bool:
    """Tells whether it was not the worker's own word: a broken transport's, which has no reason, or another worker's.

    Cancelled it is by a worker that ends: when the queen ends a generation, nobody reads its stream any more.
    """
    return found.reason in (code.name, "ADDRESSEE_GONE") or isinstance(found, errors.Cancelled)


def _metadata(worker: Worker) -> tuple[tuple[str, str], ...]:
    return (*telemetry.inject(), (channel.ADDRESSEE, worker.id))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
