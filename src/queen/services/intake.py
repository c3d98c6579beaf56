"""How a job gets in: checked, its model resolved, given an id, put in the queue. Shared by Infer and Submit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec

from google.protobuf.duration_pb2 import Duration

from queen.core import admission, tenants
from queen.core.faults import not_admitted
from queen.core.limits import LimitRules, Wanted, resolve
from queen.core.model import Failure, Job, JobState, JobType, Priority, StageLimits, Verdict
from queen.core.ports import Store
from queen.dispatch.dispatcher import JobDispatcher
from queen.dispatch.reconnect import Reconnect
from queen.links import events
from queen.links.hives import HiveLinks
from queen.metrics.jobs import JobMetrics
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from queen.scheduler.advice import PolicyAdvice
from queen.services.asks import asks_of
from queen.services.prompts import Prompts
from queen.traces.job_spans import JobSpans
from rbee.v1 import job_pb2
from wire import errors, status, telemetry, validation
from wire.clock import Clock


class Models:
    """Resolves the names callers use to models the hives hold."""

    def __init__(self, cluster: Cluster, hives: HiveLinks, clock: Clock) -> None:
        self._cluster = cluster
        self._hives = hives
        self._reconnect = Reconnect(cluster, clock)

    async def resolve(self, wanted: str) -> str:
        """Returns the reference a name, reference or path means.

        Raises `NotFound` MODEL_NOT_FOUND with the nearest names, `WrongState` MODEL_UNUSABLE for a corrupt file,
        `Unreachable` NO_HIVES when no machine is there to ask.
        """
        model_ref = self._cluster.models.find(wanted) or await self._find_when_hives_are_back(wanted)
        if model_ref is None:
            if not self._cluster.list_online_hives():
                raise errors.Unreachable("no hive is online to run a model; start one with: rbee up", "NO_HIVES")
            model_ref = await self._find_outside(wanted)
        self._check_usable(model_ref)
        return model_ref

    def name_of(self, model_ref: str) -> str:
        """Returns a model's short name; its reference when no hive holds it."""
        return self._cluster.models.name_of(model_ref)

    async def _find_when_hives_are_back(self, wanted: str) -> str | None:
        """Looks again once the hives that were there before the queen was restarted have reported, if one has not."""
        await self._reconnect.until(lambda: not self._cluster.awaits_hives())
        return self._cluster.models.find(wanted)

    async def _find_outside(self, wanted: str) -> str:
        path = wanted.removeprefix("file:")
        if path.startswith("/"):
            for hive in self._cluster.list_online_hives():
                try:
                    file = await self._hives.inspect_model(hive.address, path)
                except (errors.NotFound, errors.Unreachable):
                    continue
                return self._cluster.models.add_outside(hive.id, file)
            raise errors.NotFound(f"no online hive has a file {path}; see: rbee model list", "MODEL_NOT_FOUND")
        nearest = self._cluster.models.nearest(wanted)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "no name is like it."
        raise errors.NotFound(
            f"no hive holds a model named {wanted}; {hint} See: rbee model list",
            "MODEL_NOT_FOUND",
            metadata={"nearest": ",".join(nearest)},
        )

    def _check_usable(self, model_ref: str) -> None:
        files = [self._cluster.find_file(model_ref, hive.id) for hive in self._cluster.list_online_hives()]
        held = [file for file in files if file is not None]
        if held and all(file.defect for file in held):
            raise errors.WrongState(
                f"{held[0].model_ref.removeprefix('file:')} cannot be loaded: {held[0].defect}. "
                "Fetch the file again, or choose another: rbee model list",
                "MODEL_UNUSABLE",
            )


Asked = ParamSpec("Asked")


def _traced(
    accept: Callable[Concatenate[Intake, job_pb2.JobSpec, Asked], Awaitable[LiveJob]],
) -> Callable[Concatenate[Intake, job_pb2.JobSpec, Asked], Awaitable[LiveJob]]:
    """Records how long a job is looked at, and that it is let in or not."""

    @wraps(accept)
    async def recorded(intake: Intake, spec: job_pb2.JobSpec, /, *asked: Asked.args, **wanted: Asked.kwargs) -> LiveJob:
        begun_ns = intake.spans.now_ns()
        try:
            live = await accept(intake, spec, *asked, **wanted)
        except errors.RbeeError as error:
            intake.spans.refused(spec.model, begun_ns, error)
            intake.metrics.refused(error)
            raise
        intake.spans.admitted(live, begun_ns)
        return live

    return recorded


class Intake:
    """The queen's door. Closed while she stops. `capacity`: jobs of one class that may wait, 0 for any number."""

    def __init__(
        self,
        *,
        jobs: JobTable,
        models: Models,
        cluster: Cluster,
        prompts: Prompts,
        limits: LimitRules,
        dispatcher: JobDispatcher,
        store: Store,
        clock: Clock,
        new_id: Callable[[str], str],
        last_order: int,
        capacity: int,
        shared: TenantTable,
        advice: PolicyAdvice,
        spans: JobSpans,
        metrics: JobMetrics,
    ) -> None:
        self._jobs = jobs
        self._models = models
        self._cluster = cluster
        self._prompts = prompts
        self._limits = limits
        self._dispatcher = dispatcher
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._order = last_order
        self._capacity = capacity
        self._tenants = shared
        self._advice = advice
        self.spans = spans
        self.metrics = metrics
        self._open = True
        self._unasked: dict[str, StageLimits] = {}  # model -> limits of restored jobs that ask for none: nearly all

    @property
    def is_open(self) -> bool:
        """Whether new jobs are taken."""
        return self._open

    def close(self) -> None:
        """Takes no new jobs from now on."""
        self._open = False

    async def known(self, request_id: str, *, for_sure: bool = True) -> LiveJob | Job | None:
        """Returns the job a request id was used for, alive or stored; None for a new or empty id.

        `for_sure`: raises `Unreachable` STORAGE_UNAVAILABLE where that cannot be told. Otherwise it is taken for new.
        """
        if not request_id:
            return None
        try:
            return self._jobs.find(request_id) or await self._store.find_job(request_id)
        except errors.Unreachable:
            if for_sure:
                raise
            return None

    async def known_of(self, request_ids: Collection[str]) -> dict[str, LiveJob | Job]:
        """Returns the jobs that request ids were used for, as `known` does for one."""
        asked = {one for one in request_ids if one}
        alive = {one: live for one in asked if (live := self._jobs.find(one)) is not None}
        return {**await self._store.find_jobs(asked - alive.keys()), **alive}

    @_traced
    async def accept(
        self,
        spec: job_pb2.JobSpec,
        request_id: str,
        *,
        detached: bool,
        tenant_id: str = "",
        deadline_s: float | None = None,
        grace_s: float = 0.0,
        received: Sequence[int] = (),
    ) -> LiveJob:
        """Checks a job and puts it in the queue; raises what is wrong with it.

        `tenant_id`: who asks, where the job does not say itself.
        `deadline_s`: seconds after which its caller gives up, where that is known. `grace_s`: how long it goes on
        without its caller. `received`: ids of the tokens he has from a queen who no longer knows the job.
        """
        self._check_open()
        if faults := validation.job_faults(spec, longest_s=self._limits.most_s):
            raise errors.invalid(faults, "job")
        tenant_id = self._tenants.get(spec.tenant_id or tenant_id or tenants.DEFAULT).id
        model_ref = await self._models.resolve(spec.model)
        await self._prompts.check(spec, model_ref)
        limits = self._stage_limits(spec, model_ref, None if detached else deadline_s)
        trace, parent_span, sampled = self.spans.joined()
        job = _job(
            spec,
            job_id=self._new_id("job"),
            model_ref=model_ref,
            tenant_id=tenant_id,
            request_id=request_id,
            detached=detached,
            timeout_s=limits.total_s,
            trace_id=telemetry.trace_hex(trace),
        )
        if self._advice.answers("should_admit"):
            job = replace(job, order=self._order + 1, submit_time=self._clock.now())
            self._admit(job, limits)  # what cannot come in need not be asked about
            verdict = await self._advice.may_come_in(job)
            if not verdict.yes:
                raise self._not_admitted(job, verdict)
        # No await from here on: whoever is let in has joined the queue before the next one asks.
        self._check_open()
        if (same := self._jobs.find(request_id)) is not None:
            return same  # asked for again while its prompt was measured
        job = replace(job, order=self._order + 1, submit_time=self._clock.now())
        self._admit(job, limits)
        self._order = job.order
        live = LiveJob(
            job,
            spec.SerializeToString(),
            limits=limits,
            grace_s=grace_s,
            prefix=tuple(received),
            parent_span=parent_span,
            sampled=sampled,
        )
        self._jobs.add(live)
        self.metrics.admitted(job)
        live.position_told = self._jobs.position(job.id, job.submit_time)
        live.feed.append(events.queued(1, live.position_told))
        if not detached:
            self._dispatcher.set_deadline(live)
        self._dispatcher.set_queue_limit(live)
        return live

    def _check_open(self) -> None:
        if not self._open:
            raise errors.Unreachable("the queen is stopping", "QUEEN_STOPPING", retry_after_s=5.0)

    def _not_admitted(self, job: Job, verdict: Verdict) -> errors.RbeeError:
        """Returns the error of a job that the policy does not let in; it is kept, so that `rbee why` can tell of it.

        Without its request's id: who asks again is not told of this one, but may have better luck.
        """
        found = not_admitted(verdict)
        error = type(found)(f"{found.message}. See: rbee why {job.id}", found.reason, metadata={"job_id": job.id})
        self._order += 1
        failure = Failure(error.reason, error.message, status.code_number(error), error.retriable)
        ended = replace(job, order=self._order, request_id="", state=JobState.FAILED, failure=failure)
        self._store.save_job(replace(ended, end_time=self._clock.now()))
        return error

    def _admit(self, job: Job, limits: StageLimits) -> None:
        name = self._models.name_of(job.model_ref)
        promised = self._tenants.promised_tokens(job.tenant_id, job.submit_time)
        tenant = self._tenants.get(job.tenant_id)
        if (over := tenants.admission_refusal(job, name, tenant, promised, job.submit_time)) is not None:
            raise over
        # A detached job's total time counts from its first dispatch.
        spans = [span for span in (limits.queue_s, None if job.detached else job.timeout_s) if span is not None]
        refusal = admission.refusal(
            job,
            self._jobs.queue,
            capacity=self._capacity,
            patience_s=min(spans, default=None),
            slot_is_free=lambda: self._cluster.find_best_worker_for_model(job.model_ref) is not None,
            now=job.submit_time,
        )
        if refusal is not None:
            raise refusal

    def restored(self, job: Job, spec: bytes) -> LiveJob:
        """Returns a stored job that was not at rest, in the queue, its attempts as they were."""
        asked = job_pb2.JobSpec.FromString(spec)
        limits = None if asked.HasField("timeouts") else self._unasked.get(job.model_ref)
        if limits is None:
            limits = self._stage_limits(asked, job.model_ref, None)
            if not asked.HasField("timeouts"):
                self._unasked[job.model_ref] = limits
        if job.timeout_s != limits.total_s:
            limits = replace(limits, total_s=job.timeout_s)
        if job.state is not JobState.QUEUED:
            job = replace(job, state=JobState.QUEUED)
        return LiveJob(job, spec, limits=limits, sampled=self.spans.samples(job.trace_id))

    def _stage_limits(self, spec: job_pb2.JobSpec, model_ref: str, caller_s: float | None) -> StageLimits:
        timeouts = spec.timeouts
        request = Wanted(
            total_s=_seconds(timeouts.total),
            queue_s=_seconds(timeouts.queue),
            start_s=_seconds(timeouts.start),
            first_token_s=_seconds(timeouts.first_token),
            stall_s=_seconds(timeouts.stall),
        )
        model = self._limits.of_model(model_ref, self._models.name_of(model_ref))
        return resolve(request, model, self._limits.default, caller_s)


def _seconds(span: Duration) -> float | None:
    """Returns a span in seconds, None for an absent one; a valid job has none of 0."""
    return span.ToNanoseconds() / 1e9 or None


def _job(
    spec: job_pb2.JobSpec,
    *,
    job_id: str,
    model_ref: str,
    tenant_id: str,
    request_id: str,
    detached: bool,
    timeout_s: float,
    trace_id: str,
) -> Job:
    """Returns a job without its place and time, which it gets when it is let in."""
    return Job(
        id=job_id,
        order=0,
        model=spec.model,
        model_ref=model_ref,
        submit_time=0.0,
        request_id=request_id,
        type=JobType.EMBEDDING if spec.HasField("embedding") else JobType.TEXT_GEN,
        priority=Priority.BATCH if spec.priority == job_pb2.PRIORITY_BATCH else Priority.INTERACTIVE,
        tenant_id=tenant_id,
        session_id=spec.session_id,
        labels=dict(spec.labels),
        detached=detached,
        no_failover=spec.no_failover,
        timeout_s=timeout_s,
        trace_id=trace_id,
        asks=asks_of(spec),
    )
