"""JobService: jobs after their submission."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import islice
from typing import Any

import grpc

from queen.core import explain
from queen.core.counterfactual import Rethought
from queen.core.model import Job, JobState
from queen.core.ports import Store
from queen.dispatch.callers import Callers
from queen.dispatch.dispatcher import JobDispatcher
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from queen.services import convert, paging
from queen.services.inference import attend
from queen.services.intake import Intake
from queen.services.rested import Rested
from queen.services.tenants import named_by
from rbee.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from wire import errors
from wire.clock import Clock

pb = job_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]

MAX_DECISIONS = 1000
MAX_BATCH = 1000
TURN = 32
"""Jobs of a batch accepted in one go, some milliseconds."""


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """Hands in, watches, lists and cancels jobs. Jobs long at rest are read from the store."""

    def __init__(
        self,
        *,
        jobs: JobTable,
        intake: Intake,
        dispatcher: JobDispatcher,
        callers: Callers,
        rested: Rested,
        store: Store,
        clock: Clock,
        cluster: Cluster,
        tenants: TenantTable,
    ) -> None:
        self._jobs = jobs
        self._intake = intake
        self._dispatcher = dispatcher
        self._callers = callers
        self._rested = rested
        self._store = store
        self._clock = clock
        self._cluster = cluster
        self._tenants = tenants

    async def Submit(self, request: pb.JobServiceSubmitRequest, context: Context) -> pb.JobServiceSubmitResponse:
        """Accepts a job that runs without its caller, once it is on disk."""
        known = await self._intake.known(request.request_id)
        if known is None:
            self._store.check_writable()  # what could not be acknowledged is better not begun
            known = await self._intake.accept(
                request.job, request.request_id, detached=True, tenant_id=named_by(context)
            )
        job = known.job if isinstance(known, LiveJob) else known
        await self._store.flush()
        return pb.JobServiceSubmitResponse(job=await self._message(job))

    async def SubmitBatch(
        self, request: pb.JobServiceSubmitBatchRequest, context: Context
    ) -> pb.JobServiceSubmitBatchResponse:
        """Accepts many jobs, each for itself, once they are on disk."""
        if not 1 <= len(request.jobs) <= MAX_BATCH:
            raise errors.invalid([errors.FieldFault("jobs", f"1 to {MAX_BATCH:,} jobs, not {len(request.jobs):,}")])
        known = await self._intake.known_of([one.request_id for one in request.jobs])
        if any(one.request_id not in known for one in request.jobs):
            self._store.check_writable()
        answer = pb.JobServiceSubmitBatchResponse()
        for number, one in enumerate(request.jobs, start=1):
            try:
                found = known.get(one.request_id) or await self._intake.accept(
                    one.job, one.request_id, detached=True, tenant_id=named_by(context)
                )
            except errors.RbeeError as error:
                answer.results.append(convert.refused(error))
                continue
            if one.request_id:
                known[one.request_id] = found
            answer.results.add(job_id=found.job.id if isinstance(found, LiveJob) else found.id)
            if number % TURN == 0:
                await asyncio.sleep(0)  # tokens of others pass in between
        await self._store.flush()
        return answer

    async def Watch(self, request: pb.JobServiceWatchRequest, context: Context) -> None:
        """Streams a job's events after a sequence."""
        live = self._jobs.get(request.job_id)
        if live is not None:
            self._jobs.follow(live)
            self._callers.came(live, request.received_token_ids)
            await attend(live, self._jobs, self._callers, context, after_sequence=request.after_sequence)
            return
        await self._store.flush()  # it may have come to rest a moment ago
        job = await self._find(request.job_id)
        await self._rested.tell(job, context, after_sequence=request.after_sequence)

    async def Get(self, request: pb.JobServiceGetRequest, context: Context) -> pb.JobServiceGetResponse:
        """Tells where a job stands."""
        return pb.JobServiceGetResponse(job=await self._message(await self._find(request.job_id)))

    async def List(self, request: pb.JobServiceListRequest, context: Context) -> pb.JobServiceListResponse:
        """Lists jobs, newest first; the queue in queue order when only queued jobs are asked for."""
        size = paging.page_size(request.page_size)
        states = convert.job_states(list(request.states))
        if states == [JobState.QUEUED]:
            return self._list_queue(request, size)
        key = paging.key_of(request.page_token)
        before = int(key) if key else None
        unwritten: list[Job] = []
        try:
            await self._store.flush()  # what is still on its way to disk is let through
        except errors.Unreachable:
            unwritten = [live.job for live in self._jobs.in_memory() if before is None or live.job.order < before]
        found = await self._store.list_jobs(
            states=states, tenant_id=request.tenant_id, model=request.model, before_order=before, limit=size + 1
        )
        if unwritten:
            newest = {job.id: job for job in (*found, *unwritten)}.values()
            found = sorted((job for job in newest if _is_asked_for(job, request, states)), key=lambda job: -job.order)
        answer = pb.JobServiceListResponse(jobs=[convert.job(job) for job in found[:size]])
        if len(found) > size:
            answer.next_page_token = paging.token(str(found[size - 1].order))
        return answer

    def _list_queue(self, request: pb.JobServiceListRequest, size: int) -> pb.JobServiceListResponse:
        after = int(paging.key_of(request.page_token) or 0)
        line = enumerate(self._jobs.waiting(self._clock.now()), start=1)
        wanted = (
            (place, live)
            for place, live in islice(line, after, None)
            if request.tenant_id in ("", live.job.tenant_id) and request.model in ("", live.job.model)
        )
        found = list(islice(wanted, size + 1))
        answer = pb.JobServiceListResponse(
            jobs=[convert.job(live.job, place, live.decision) for place, live in found[:size]]
        )
        if len(found) > size:
            answer.next_page_token = paging.token(str(found[size - 1][0]))
        return answer

    async def Cancel(self, request: pb.JobServiceCancelRequest, context: Context) -> pb.JobServiceCancelResponse:
        """Cancels a job; a job at rest stays as it is."""
        live = self._jobs.get(request.job_id)
        if live is not None and request.unless_heard:
            live.grace_s = 0.0
            self._callers.went(live)
        elif live is not None:
            self._dispatcher.cancel(live, "somebody asked for it")
        return pb.JobServiceCancelResponse(job=await self._message(await self._find(request.job_id)))

    async def Explain(self, request: pb.JobServiceExplainRequest, context: Context) -> pb.JobServiceExplainResponse:
        """Tells in words why a job ran where and when it did, or why it still waits."""
        await self._store.flush()  # what was decided a moment ago is there too
        job, now = await self._find(request.job_id), self._clock.now()
        decisions = await self._store.list_decisions(job.id, MAX_DECISIONS)
        cluster, position = self._cluster, self._jobs.position(job.id, now)
        change = Rethought(job, decisions, cluster, self._tenants, cluster.models.name_of, now).change()
        return pb.JobServiceExplainResponse(
            text=explain.told(job, decisions, position, now),
            counterfactual=change,
            decisions=[convert.decision(one) for one in decisions],
        )

    async def _find(self, job_id: str) -> Job:
        live = self._jobs.get(job_id)
        job = live.job if live is not None else await self._store.get_job(job_id)
        if job is None:
            raise errors.NotFound(f"there is no job {job_id}; see: rbee jobs list", "JOB_NOT_FOUND")
        return job

    async def _message(self, job: Job) -> job_pb2.Job:
        live = self._jobs.get(job.id)
        if live is not None:
            return convert.job(job, self._jobs.position(job.id, self._clock.now()), live.decision)
        decisions = await self._store.list_decisions(job.id, MAX_DECISIONS)
        return convert.job(job, 0, decisions[-1] if decisions else None)


def _is_asked_for(job: Job, request: pb.JobServiceListRequest, states: Collection[JobState]) -> bool:
    """Tells whether a job passes the filters of a request, as those of the store."""
    return (
        (not states or job.state in states)
        and request.tenant_id in ("", job.tenant_id)
        and request.model in ("", job.model, job.model_ref)
    )
