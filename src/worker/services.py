"""EngineService over one engine: checks, converts, hands on."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import grpc

from rbee.v1 import engine_service_pb2 as pb
from rbee.v1 import engine_service_pb2_grpc, generation_pb2, job_pb2, worker_pb2
from wire import errors, span_messages, validation
from wire.clock import Clock
from wire.server import Server
from wire.spans import Recorder
from worker import convert, tracing
from worker.engines.port import Engine
from worker.generation import Ticket
from worker.generations import Generations

Context = grpc.aio.ServicerContext[Any, Any]


class EngineServicer(engine_service_pb2_grpc.EngineServiceServicer):
    """Serves one loaded model. `draw_seed` returns a number from 0 to 2^32 - 2; `worker_id` names it in traces."""

    def __init__(
        self,
        engine: Engine,
        generations: Generations,
        model_ref: str,
        clock: Clock,
        draw_seed: Callable[[], int],
        worker_id: str = "",
    ) -> None:
        self._engine = engine
        self._generations = generations
        self._model_ref = model_ref
        self._clock = clock
        self._draw_seed = draw_seed
        self._started_s = clock.monotonic()
        self._recorder = Recorder("llm-worker-rbee", clock, span_messages.carry, instance=worker_id)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Generates; see the contract."""
        _check(request)
        job = request.job
        seed = job.sampling.seed if job.sampling.HasField("seed") else self._draw_seed()
        ticket = Ticket(request.job_id, request.attempt, request.first_sequence or 1, request.keep)
        wanted = convert.to_request(job, seed, request.generated_token_ids)
        span = tracing.begin(self._recorder, ticket, wanted, job.model, self._model_ref, self._engine)
        end = functools.partial(tracing.end, self._recorder, span)
        try:
            generation = self._generations.start(ticket, wanted, end)
        except errors.RbeeError as error:
            if span is not None:
                span.fail(error.reason)
            self._recorder.end(span)
            raise
        generation.span = span
        try:
            await generation.send(context.write)
        finally:
            if generation.ended:
                end(generation)
            if not request.keep:
                await self._generations.end([generation])

    async def Resume(self, request: pb.ResumeRequest, context: Context) -> None:
        """Sends a generation's events again, from a token on; see the contract."""
        generation = self._generations.of_job(request.job_id)[-1]
        try:
            await generation.send(context.write, request.after_index)
        finally:
            if generation.ended:
                tracing.end(self._recorder, generation.span, generation)
                span_messages.carry(generation.span)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """Ends a job's generations; see the contract."""
        await self._generations.end(self._generations.of_job(request.job_id))
        return pb.CancelResponse()

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """Counts a prompt's tokens; see the contract."""
        _check_job(request.job, [])
        wanted = convert.to_request(request.job, 0, ())
        return pb.CountTokensResponse(
            prompt_tokens=await self._engine.count_tokens(wanted), context_length=self._engine.context_length
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Makes vectors of texts; see the contract."""
        job = job_pb2.JobSpec(model=self._model_ref, embedding=request.input)
        _check(pb.GenerateRequest(job_id=request.job_id, job=job))
        ticket = Ticket(request.job_id, 1, 1, keep=False)
        generation = self._generations.start(ticket, convert.to_request(job, 0, ()), lambda _: None)
        try:
            await generation.send(_nowhere)
        finally:
            await self._generations.end([generation])
        assert generation.result is not None, "it was sent to its end"
        ending = generation.result.ending
        return pb.EmbedResponse(
            embeddings=convert.embeddings(ending), usage=generation_pb2.Usage(prompt_tokens=ending.prompt_tokens)
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        """Tells what the worker is and runs."""
        return pb.GetStatusResponse(
            state=self._state(),
            model_ref=self._model_ref,
            engine=self._engine.name,
            engine_version=self._engine.version,
            slots_total=self._engine.slots,
            slots_available=self._generations.free_slots,
            context_length=self._engine.context_length,
            generations=(
                pb.GenerationStatus(
                    job_id=generation.ticket.job_id,
                    attempt=generation.ticket.attempt,
                    completion_tokens=generation.completion_tokens,
                    ended=generation.ended,
                )
                for generation in self._generations.all()
            ),
            uptime=convert.duration(self._clock.monotonic() - self._started_s),
        )

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """Takes no new work; answers when nothing runs any more."""
        self._generations.draining = True
        limit_s = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else None
        try:
            async with asyncio.timeout(limit_s):
                await self._generations.drained()
        except TimeoutError as error:
            running = self._engine.slots - self._generations.free_slots
            raise errors.TimedOut(
                f"after {limit_s:g} s, {running} generation{'s' * (running != 1)} still ran; "
                "the worker goes on draining",
                "DRAIN_TIMEOUT",
            ) from error
        return pb.DrainResponse()

    def _state(self) -> worker_pb2.WorkerState.ValueType:
        if self._generations.draining:
            return worker_pb2.WORKER_STATE_DRAINING
        return worker_pb2.WORKER_STATE_READY if self._generations.free_slots else worker_pb2.WORKER_STATE_BUSY


def serve(server: Server, servicer: EngineServicer) -> None:
    """Makes a server serve EngineService; its streams are written as serialised messages."""
    server.add(pb.DESCRIPTOR.services_by_name["EngineService"], servicer, raw=("Generate", "Resume"))


def _check(request: pb.GenerateRequest) -> None:
    """Raises every fault of a request at once."""
    _check_job(request.job, [] if request.job_id else [errors.FieldFault("job_id", "required")])


def _check_job(job: job_pb2.JobSpec, faults: list[errors.FieldFault]) -> None:
    faults = faults + validation.job_faults(job)
    if faults:
        raise errors.invalid(faults, "request")


async def _nowhere(message: bytes) -> None:
    """Takes the events of a generation whose result alone is asked for."""
