"""InferenceService: a job and its events in one call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from queen.dispatch.callers import LONGEST_GRACE_S, Callers
from queen.links import events
from queen.registry.jobs import JobTable, LiveJob
from queen.services.intake import Intake
from queen.services.tenants import named_by
from rbee.v1 import inference_service_pb2, inference_service_pb2_grpc
from wire import errors

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_service_pb2_grpc.InferenceServiceServicer):
    """Takes a job in and relays its events unread; a caller that goes away ends its job unless it is detached."""

    def __init__(self, intake: Intake, callers: Callers, jobs: JobTable) -> None:
        self._intake = intake
        self._callers = callers
        self._jobs = jobs

    async def Infer(self, request: inference_service_pb2.InferRequest, context: Context) -> None:
        """Runs one job and streams its events."""
        live = await self._live(request, context.time_remaining(), named_by(context))
        self._jobs.follow(live)
        await attend(live, self._callers, context, events.job_id_frame(live.job.id))

    async def _live(
        self, request: inference_service_pb2.InferRequest, deadline_s: float | None, tenant_id: str
    ) -> LiveJob:
        if request.received_token_ids and not request.request_id:
            raise errors.invalid([errors.FieldFault("request_id", "the one the received tokens were sent for")])
        known = await self._intake.known(
            request.request_id,
            for_sure=request.detach,  # others need no disk; at worst an answered one is answered again
        )
        if known is None:
            return await self._intake.accept(
                request.job,
                request.request_id,
                detached=request.detach,
                tenant_id=tenant_id,
                deadline_s=deadline_s,
                grace_s=min(request.reattach.ToNanoseconds() / 1e9, LONGEST_GRACE_S),
                received=request.received_token_ids,
            )
        if isinstance(known, LiveJob):
            self._callers.came(known, request.received_token_ids)
            return known
        raise errors.WrongState(
            f"job {known.id} of this request has ended and its output is not kept; see: rbee jobs show {known.id}",
            "OUTPUT_DROPPED",
        )


async def attend(live: LiveJob, callers: Callers, context: Context, head: bytes, after_sequence: int = 0) -> None:
    """Writes a job's events to a caller until it ends; what gathers during a write goes with the next one.

    `head` goes in front of the first message. Raises the error the job ends with.
    """
    try:
        with live.feed.reader(after_sequence) as reader:
            while news := await reader.read():
                await context.write(head + news)
                head = b""
    except asyncio.CancelledError:
        callers.went(live)
        raise
