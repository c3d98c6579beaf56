"""InferenceService: a job and its events in one call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from opentelemetry import trace

from queen.dispatch.dispatcher import JobDispatcher
from queen.links import events
from queen.registry.feed import JobFeed
from queen.registry.jobs import JobTable, LiveJob
from queen.services.intake import Intake
from rbee.v1 import inference_service_pb2, inference_service_pb2_grpc
from wire import errors, telemetry

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_service_pb2_grpc.InferenceServiceServicer):
    """Takes a job in and relays its events unread; a caller that goes away ends its job unless it is detached."""

    def __init__(self, intake: Intake, dispatcher: JobDispatcher, jobs: JobTable) -> None:
        self._intake = intake
        self._jobs = jobs
        self._dispatcher = dispatcher

    async def Infer(self, request: inference_service_pb2.InferRequest, context: Context) -> None:
        """Runs one job and streams its events."""
        with telemetry.tracer().start_as_current_span(telemetry.SPAN_INFER, kind=trace.SpanKind.SERVER):
            live = await self._live(request, context.time_remaining())
            self._jobs.follow(live)
            try:
                await relay(live.feed, context, events.job_id_frame(live.job.id))
            except asyncio.CancelledError:
                if not live.job.detached and not live.feed.readers:
                    self._dispatcher.cancel(live, "its caller went away")
                raise

    async def _live(self, request: inference_service_pb2.InferRequest, deadline_s: float | None) -> LiveJob:
        known = await self._intake.known(request.request_id)
        if known is None:
            return await self._intake.accept(
                request.job, request.request_id, detached=request.detach, deadline_s=deadline_s
            )
        if isinstance(known, LiveJob):
            return known
        raise errors.WrongState(
            f"job {known.id} of this request has ended and its output is not kept; see: rbee jobs show {known.id}",
            "OUTPUT_DROPPED",
        )


async def relay(feed: JobFeed, context: Context, head: bytes, after_sequence: int = 0) -> None:
    """Writes a feed's events to a caller until it ends; what gathers during a write goes with the next one.

    `head` goes in front of the first message. Raises the error the feed ends with.
    """
    with feed.reader(after_sequence) as reader:
        while news := await reader.read():
            await context.write(head + news)
            head = b""
