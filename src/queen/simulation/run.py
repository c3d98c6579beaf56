"""One run: requests come, the queen's own cycle decides, machines work, all on virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from queen.core import admission
from queen.core.faults import not_admitted, refused
from queen.core.model import Asks, Decision, Failure, Job, JobState, Priority, Proposal, Worker
from queen.core.tenants import Tenant, TenantUsage
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from queen.scheduler.cycle import WINDOW, SchedulingCycle
from queen.simulation.calendar import Calendar
from queen.simulation.cluster_file import ClusterPlan
from queen.simulation.fleet import Fleet
from queen.simulation.immediate import immediate
from queen.simulation.records import JobOutcome, Level, Run
from queen.simulation.schedulers import StagedPolicy
from queen.simulation.stage import SchedulerMaker, Stage
from queen.simulation.workload import Request
from wire import errors, status

JOB_TIMEOUT_S: Final = 300.0
"""Longest time of a job: from submission, of a batch job from its dispatch (architecture.md section 2)."""

FRUITLESS_WAKES: Final = 10_000
"""Wakes that a policy asked for and used for nothing, one after the other, before a run is over."""


def simulate(
    plan: ClusterPlan,
    requests: Sequence[Request],
    scheduler: SchedulerMaker,
    *,
    weights: Mapping[str, float] | None = None,
    horizon_s: float | None = None,
    timeout_s: float = JOB_TIMEOUT_S,
    queue_capacity: int = 0,
    window: int = WINDOW,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Returns what happens when a scheduler serves requests, ordered by arrival, on a cluster.

    `queue_capacity`: jobs of one class that may wait, 0 for any number; the queen's own admission refuses the others.
    `window`: jobs looked at in one cycle; with a long queue, fewer make a quicker simulation.
    It ends when all jobs have, when nothing can happen any more, or `horizon_s` after the first arrival. `progress`
    is told requests done and in all, a hundred times or so; what it raises ends the run between two events.
    """
    simulation = _Simulation(plan, requests, scheduler, weights or {}, timeout_s, queue_capacity, window)
    simulation.run(horizon_s, progress or _untold)
    return simulation.result()


@dataclass(slots=True)
class _Ledger:
    """The journal of a run: the newest state and decision of each job."""

    jobs: dict[str, Job] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    done: int = 0

    def save_job(self, job: Job) -> None:
        """Keeps a job's newest state."""
        self.jobs[job.id] = job
        self.done += job.resting

    def save_request(self, job_id: str, spec: bytes) -> None:
        """A simulated job has no prompt."""

    def drop_request(self, job_id: str) -> None:
        """A simulated job has no prompt."""

    def save_output(self, job_id: str, first_sequence: int, frames: Sequence[bytes]) -> None:
        """A simulated job has no answer."""

    def drop_output(self, job_id: str) -> None:
        """A simulated job has no answer."""

    def save_tenant(self, tenant: Tenant) -> None:
        """The tenants of a simulation do not change."""

    def save_usage(self, tenant_id: str, day: int, usage: TenantUsage) -> None:
        """The report counts for itself."""

    def save_decision(self, decision: Decision) -> None:
        """Keeps a job's newest decision."""
        self.decisions[decision.proposal.job_id] = decision
        if decision.refusal:
            self.refused[decision.proposal.action.value] += 1


class _Simulation:
    """A queen without wires. It stands between her cycle and the scheduler, and between her cycle and the machines."""

    def __init__(
        self,
        plan: ClusterPlan,
        requests: Sequence[Request],
        scheduler: SchedulerMaker,
        weights: Mapping[str, float],
        timeout_s: float,
        queue_capacity: int,
        window: int,
    ) -> None:
        self._arrivals = requests
        self._weights = weights
        self._timeout_s = timeout_s
        self._capacity = queue_capacity
        self._calendar = Calendar(requests[0].arrival if requests else 0.0)
        self._begin = self._calendar.now()
        self._ids: Counter[str] = Counter()
        self._ledger = _Ledger()
        self._queue = Level()
        self._waiting: Counter[str] = Counter()  # by tenant
        self._contended: set[str] = set()
        self._cycles = self._fruitless = 0
        self._wake_at: float | None = None
        woken = self._woken = asyncio.Event()
        cluster = Cluster(woken.set, min_residency_s=plan.minimum_residency_s)
        tenants = TenantTable(self._ledger, cluster.get_worker)
        tenants.restore([Tenant(tenant_id, weight=weight) for tenant_id, weight in weights.items()], {}, 0, {})
        jobs = self._jobs = JobTable(self._ledger, woken.set, tenants)
        stage = self._stage = Stage(plan, cluster, tenants, self._new_id)
        self._fleet = Fleet(stage, calendar=self._calendar, jobs=jobs)
        self._scheduler = scheduler(stage)
        self._named = (self._scheduler.name, self._scheduler.version)
        self._policy = self._scheduler if isinstance(self._scheduler, StagedPolicy) else None
        self._cycle = SchedulingCycle(
            scheduler=self._scheduler,
            jobs=jobs,
            cluster=cluster,
            dispatcher=self,
            starter=self._fleet,
            reject=self._reject,
            store=self._ledger,
            clock=self._calendar,
            new_id=self._new_id,
            woken=woken,
            window=window,
            policy=self._policy,
        )

    def run(self, horizon_s: float | None, progress: Callable[[int, int], None]) -> None:
        """Lets everything happen."""
        self._fleet.open()
        total, told = len(self._arrivals), 0
        progress(0, total)
        if total:
            self._calendar.at(self._begin, self._arrive, 0)
        while self._ledger.done < total and self._fruitless < FRUITLESS_WAKES:
            time = self._calendar.next_time()
            if time is None or (horizon_s is not None and time > self._begin + horizon_s):
                break
            self._calendar.advance()
            while self._woken.is_set():  # again where an eviction has made room
                self._woken.clear()
                self._ask_again(immediate(self._cycle.turn()))
            if self._ledger.done >= told + max(1, total // 100):
                told = self._ledger.done
                progress(told, total)

    # What the cycle asks for.

    def dispatch(self, job_id: str, worker: Worker) -> None:
        """Gives a job whose slot is reserved to its worker."""
        live = self._live(job_id)
        self._left_queue(live.job)
        if live.job.detached:
            self._calendar.at(self._calendar.now() + self._timeout_s, self._time_out, live)
        self._fleet.dispatch(job_id, worker)

    def _reject(self, live: LiveJob, proposal: Proposal) -> None:
        self._fail(live, refused(proposal.reason))

    # What happens.

    def _arrive(self, index: int) -> None:
        request = self._arrivals[index]
        job_id = self._new_id("job")
        self._stage.requests[job_id] = request
        batch = request.priority is Priority.BATCH
        job = Job(
            id=job_id,
            order=index + 1,
            model=request.model,
            model_ref=self._stage.plan.models[request.model].file.model_ref,
            submit_time=request.arrival,
            type=request.type,
            priority=request.priority or Priority.INTERACTIVE,
            tenant_id=request.tenant_id,
            session_id=request.session_id,
            detached=batch,
            timeout_s=self._timeout_s,
            asks=Asks(max_tokens=request.max_tokens, prompt_tokens=request.prompt_tokens),
        )
        if index + 1 < len(self._arrivals):
            self._calendar.at(self._arrivals[index + 1].arrival, self._arrive, index + 1)
        if refusal := self._refusal(job):
            failed = replace(job, state=JobState.FAILED, end_time=request.arrival, failure=_failure(refusal))
            self._ledger.save_job(failed)
            return
        live = LiveJob(job, b"")
        self._waiting[job.tenant_id] += 1
        self._queue.add(1, request.arrival)
        self._jobs.add(live)
        if not batch:
            self._calendar.at(request.arrival + self._timeout_s, self._time_out, live)

    def _refusal(self, job: Job) -> errors.RbeeError | None:
        full = admission.refusal(
            job,
            self._jobs.queue,
            capacity=self._capacity,
            patience_s=None if job.detached else job.timeout_s,
            slot_is_free=lambda: self._stage.cluster.find_best_worker_for_model(job.model_ref) is not None,
            now=job.submit_time,
        )
        if full is not None or self._policy is None or not self._policy.answers("should_admit"):
            return full
        queue = [live.job for live in islice(self._jobs.queued(job.submit_time), WINDOW)]
        verdict = immediate(self._policy.should_admit(job, queue, self._stage.cluster, job.submit_time))
        return None if verdict.yes else not_admitted(verdict)

    def _time_out(self, live: LiveJob) -> None:
        if not live.job.resting:
            where = "while it waited in the queue" if live.job.state is JobState.QUEUED else "while it generated"
            message = f"job {live.job.id} ran into its limit of {self._timeout_s:g} s {where}"
            self._fail(live, errors.TimedOut(message, "JOB_TIMED_OUT"))

    def _fail(self, live: LiveJob, error: errors.RbeeError) -> None:
        before, now = live.job, self._calendar.now()
        waited = before.state is JobState.QUEUED
        self._jobs.failed(live, _failure(error), error, now, None if waited else self._fleet.spent(before))
        if waited:
            self._left_queue(before)
        else:
            self._fleet.drop(before)

    def _left_queue(self, job: Job) -> None:
        contended = len(self._waiting) > 1
        if contended:
            self._contended.add(job.id)
        self._waiting[job.tenant_id] -= 1
        if not self._waiting[job.tenant_id]:
            del self._waiting[job.tenant_id]
        self._queue.add(-1, self._calendar.now())
        self._fruitless = 0

    def _ask_again(self, again_s: float | None) -> None:
        """Wakes the cycle when the policy wants to be asked again, the soonest time it said."""
        self._cycles += 1
        self._fruitless += bool(len(self._jobs.queue))  # while nobody waits, what comes next is sure to come
        if again_s is None:
            return
        time = self._calendar.now() + again_s
        if self._wake_at is None or time < self._wake_at:
            self._wake_at = time
            self._calendar.at(time, self._wake, time)

    def _wake(self, time: float) -> None:
        if time == self._wake_at:
            self._wake_at = None
        self._woken.set()

    def _live(self, job_id: str) -> LiveJob:
        live = self._jobs.get(job_id)
        assert live is not None, "a job that is decided about is in the table"
        return live

    def _new_id(self, prefix: str) -> str:
        """Returns names that count up; of equal length, so that they sort by age."""
        self._ids[prefix] += 1
        return f"{prefix}-{self._ids[prefix]:0{6 if prefix in ('job', 'dec') else 3}}"

    def result(self) -> Run:
        """Returns what happened."""
        kinds = {worker.worker_id: worker.device.kind for worker in self._fleet.workers}
        return Run(
            plan=self._stage.plan,
            policy=self._named[0],
            policy_version=self._named[1],
            begin=self._begin,
            end=self._calendar.now(),
            jobs=tuple(self._outcome(job, kinds) for job in self._ledger.jobs.values()),
            workers=tuple(self._fleet.workers),
            devices=tuple(self._fleet.devices),
            queue=self._queue,
            machines=self._fleet.residents,
            weights=self._weights,
            cycles=self._cycles,
            refused=dict(self._ledger.refused),
            standing=None if self._policy is None else self._policy.standing,
        )

    def _outcome(self, job: Job, kinds: Mapping[str, str]) -> JobOutcome:
        attempt = job.attempts[-1] if job.attempts else None
        return JobOutcome(
            id=job.id,
            request=self._stage.requests[job.id],
            state=job.state,
            hive_id=attempt.hive_id if attempt else "",
            worker_id=attempt.worker_id if attempt else "",
            device_kind=kinds[attempt.worker_id] if attempt else "",
            dispatch_time=attempt.dispatch_time if attempt else None,
            first_token_time=job.first_token_time,
            end_time=job.end_time,
            failure=job.failure,
            contended=job.id in self._contended,
            decision=self._ledger.decisions.get(job.id),
        )


def _failure(error: errors.RbeeError) -> Failure:
    return Failure(error.reason, error.message, status.code_number(error), error.retriable)


def _untold(done: int, total: int) -> None:
    """Nobody wants to know."""
