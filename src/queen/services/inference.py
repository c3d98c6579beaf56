"""InferenceService: a job and its events in one call."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from queen.core.model import Job
from queen.dispatch.callers import LONGEST_GRACE_S, Callers
from queen.links import events
from queen.registry.jobs import JobTable, LiveJob
from queen.services.intake import Intake
from queen.services.rested import Rested
from queen.services.tenants import named_by
from rbee.v1 import inference_service_pb2, inference_service_pb2_grpc
from wire import errors

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_service_pb2_grpc.InferenceServiceServicer):
    """Takes a job in and relays its events unread; a caller that goes away ends its job unless it is detached."""

    def __init__(self, intake: Intake, callers: Callers, jobs: JobTable, rested: Rested) -> None:
        self._intake = intake
        self._callers = callers
        self._jobs = jobs
        self._rested = rested

    async def Infer(self, request: inference_service_pb2.InferRequest, context: Context) -> None:
        """Runs one job and streams its events."""
        found = await self._find(request, context.time_remaining(), named_by(context))
        if isinstance(found, Job):
            await self._rested.tell(found, context, events.job_id_frame(found.id))
            return
        self._jobs.follow(found)
        await attend(found, self._jobs, self._callers, context, events.job_id_frame(found.job.id))

    async def _find(
        self, request: inference_service_pb2.InferRequest, deadline_s: float | None, tenant_id: str
    ) -> LiveJob | Job:
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


async def attend(
    live: LiveJob, jobs: JobTable, callers: Callers, context: Context, head: bytes = b"", after_sequence: int = 0
) -> None:
    """Writes a job's events to a caller until it ends; what gathers during a write goes with the next one.

    `head` goes in front of the first message. Raises the error the job ends with.
    """
    try:
        with live.feed.reader(after_sequence) as reader:
            while news := await reader.read():
                await context.write(head + news)
                head = b""
        jobs.delivered(live)
    except asyncio.CancelledError:
        callers.went(live)
        raise
