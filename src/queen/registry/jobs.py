"""The jobs that are alive, in RAM: every change goes through the lifecycle table and on to the store."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from queen.core import lifecycle
from queen.core.lifecycle import JobEvent
from queen.core.model import Attempt, Decision, Failure, Job, JobState, StageLimits, Usage
from queen.core.ports import Journal
from queen.core.queue import JobQueue
from queen.registry.feed import JobFeed
from queen.registry.tenants import TenantTable
from wire.errors import RbeeError

KEPT_AFTER_REST: Final = 256
"""Jobs at rest whose events are kept in RAM for callers that re-attach."""


_USUAL_LIMITS: Final = StageLimits()


@dataclass(slots=True)
class LiveJob:
    """A job, what it asks for (a serialised JobSpec, never parsed again), its events and its newest decision.

    `prefix`: ids of tokens its caller has from before the first event of the feed; None when they are not known.
    `grace_s`: how long it goes on without a caller. Of a job taken over from an earlier queen: `held` while it is not
    known where it stands, `present` whether its caller is back, `received` the ids of the tokens he says he has.
    `give_up` ends the attempt that runs, with an error, if nothing was heard of it for some seconds. `unread`: the
    answer is on disk for a caller who was away when it ended.
    `parent_span`: id of its caller's span, 0 where there is none. `sampled`: whether its trace is exported in any case.
    """

    job: Job
    spec: bytes
    feed: JobFeed = field(default_factory=JobFeed)
    decision: Decision | None = None
    not_before: float = 0.0
    task: asyncio.Task[None] | None = None
    limits: StageLimits = _USUAL_LIMITS
    deadline: asyncio.TimerHandle | None = None
    queue_limit: asyncio.TimerHandle | None = None
    leaving: asyncio.TimerHandle | None = None
    grace_s: float = 0.0
    prefix: tuple[int, ...] | None = ()
    taken_over: bool = False
    held: bool = False
    present: bool = True
    received: tuple[int, ...] = ()
    give_up: Callable[[RbeeError, float], None] | None = None
    position_told: int = 0
    unread: bool = False
    parent_span: int = 0
    sampled: bool = True

    @property
    def open_attempt(self) -> Attempt | None:
        """The attempt that has not ended, if there is one."""
        newest = self.job.attempts[-1] if self.job.attempts else None
        return newest if newest is not None and newest.end_time is None else None


class JobTable:
    """All jobs not at rest, and the newest ones at rest. `on_queued` is called when the queue has grown.

    `tenants` are told what becomes of their jobs, `on_moved` gets each job that has moved, with what it was before.
    `followed` are the waiting jobs whose events somebody reads; `moved`
    is set when their places may have changed.
    """

    def __init__(
        self,
        store: Journal,
        on_queued: Callable[[], None],
        tenants: TenantTable | None = None,
        on_moved: Callable[[LiveJob, Job], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._on_queued = on_queued
        self._on_moved = on_moved
        self._alive: dict[str, LiveJob] = {}
        self._resting: OrderedDict[str, LiveJob] = OrderedDict()
        self._by_request: dict[str, str] = {}
        self.queue = JobQueue()
        self.followed: dict[str, LiveJob] = {}
        self.moved = asyncio.Event()
        self._settled = asyncio.Event()
        self._holding = False

    def add(self, live: LiveJob) -> None:
        """Takes in a queued job; it is saved with its request."""
        job = live.job
        self._store.save_request(job.id, live.spec)
        self._store.save_job(job)
        self._enter(live, stayed=False)

    def restore(self, live: LiveJob) -> None:
        """Takes in a queued job the store has already."""
        self._enter(live, stayed=True)

    def _enter(self, live: LiveJob, *, stayed: bool) -> None:
        job = live.job
        assert job.state is JobState.QUEUED, "jobs enter the table by the queue"
        self._alive[job.id] = live
        if job.request_id:
            self._by_request[job.request_id] = job.id
        if self._tenants is not None:
            self._tenants.joined(job, stayed=stayed)
        self._enqueue(live)

    def get(self, job_id: str) -> LiveJob | None:
        """Returns a job that is alive or came to rest a short while ago."""
        return self._alive.get(job_id) or self._resting.get(job_id)

    def find(self, request_id: str) -> LiveJob | None:
        """Returns the job a request id was used for, if it is still in RAM."""
        job_id = self._by_request.get(request_id)
        return None if job_id is None else self.get(job_id)

    def alive(self) -> Iterable[LiveJob]:
        """Returns the jobs that are not at rest."""
        return tuple(self._alive.values())

    def in_memory(self) -> Iterator[LiveJob]:
        """Yields the jobs that are alive, and those at rest that are still in RAM."""
        yield from self._alive.values()
        yield from self._resting.values()

    def queued(self, now: float) -> Iterator[LiveJob]:
        """Yields the waiting jobs in queue order, lazily; those that wait for a retry are left out until their time."""
        self.queue.promote(now)
        for job_id in self.queue:
            live = self._alive[job_id]
            if live.not_before <= now and not live.held and not (self._holding and live.job.detached):
                yield live

    def waiting(self, now: float) -> Iterator[LiveJob]:
        """Yields all waiting jobs in queue order, lazily: the n-th has position n."""
        self.queue.promote(now)
        return (self._alive[job_id] for job_id in self.queue)

    def position(self, job_id: str, now: float) -> int:
        """Returns a waiting job's place in the queue, 1 for the next; 0 when it does not wait."""
        self.queue.promote(now)
        return self.queue.position(job_id)

    def follow(self, live: LiveJob) -> None:
        """Notes that somebody reads a job's events: while it waits he is told its place."""
        if live.job.state is JobState.QUEUED:
            self.followed[live.job.id] = live
            if self.queue.position(live.job.id) != live.position_told:
                self.moved.set()

    async def settled(self) -> None:
        """Returns when nothing runs and nobody waits; detached jobs stay in the queue from now on."""
        self._holding = True
        self._check_settled()
        await self._settled.wait()

    def _check_settled(self) -> None:
        if self._holding and all(one.job.detached and one.job.state is JobState.QUEUED for one in self.alive()):
            self._settled.set()

    # What happens to a job. Each returns the job as it is then.

    def dispatched(self, live: LiveJob, worker_id: str, hive_id: str, now: float) -> Job:
        """The job was given to a worker."""
        attempt = Attempt(len(live.job.attempts) + 1, worker_id, hive_id, now)
        return self._move(live, JobEvent.DISPATCHED, attempts=(*live.job.attempts, attempt))

    def readopted(self, live: LiveJob, worker_id: str, hive_id: str, number: int, now: float) -> Job:
        """A worker was found that an earlier queen had given it to."""
        if live.open_attempt is None:
            return self._move(
                live, JobEvent.DISPATCHED, attempts=(*live.job.attempts, Attempt(number, worker_id, hive_id, now))
            )
        return self._move(live, JobEvent.DISPATCHED)

    def lost(self, live: LiveJob, failure: Failure, now: float) -> Job:
        """The attempt of an earlier queen has come to nothing; it is in the queue already."""
        before = live.job
        live.job = replace(before, attempts=_ended(before.attempts, now, failure))
        self._store.save_job(live.job)
        self._on_moved(live, before)
        return live.job

    def started(self, live: LiveJob, now: float) -> Job:
        """Its first token came."""
        return self._move(live, JobEvent.STARTED, first_token_time=live.job.first_token_time or now)

    def retried(self, live: LiveJob, failure: Failure, now: float, delay_s: float) -> Job:
        """Its attempt failed and it waits for another, not before `delay_s` have passed."""
        live.not_before = now + delay_s
        if live.job.first_token_time is not None:
            # Were the queen lost too, nobody else would have them: they were this worker's.
            self._store.save_output(live.job.id, live.feed.sequence_at(0), live.feed.frames)
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._on_queued)
        return self._move(live, JobEvent.RETRIED, attempts=_ended(live.job.attempts, now, failure))

    def completed(self, live: LiveJob, now: float, **facts: Any) -> Job:
        """It ended well; `facts` are usage, finish_reason and seed."""
        job = self._move(live, JobEvent.COMPLETED, end_time=now, attempts=_ended(live.job.attempts, now), **facts)
        if job.detached or not live.feed.readers:  # its caller comes back for the answer, maybe after a long time
            self._store.save_output(job.id, live.feed.sequence_at(0), live.feed.frames)
            live.unread = not job.detached
        live.feed.close()
        return job

    def delivered(self, live: LiveJob) -> None:
        """Its caller has all of it, or comes no more: an answer that was kept for him alone is forgotten."""
        if live.unread:
            live.unread = False
            self._store.drop_output(live.job.id)

    def failed(self, live: LiveJob, failure: Failure, error: RbeeError, now: float, usage: Usage | None = None) -> Job:
        """It ended with an error, which its callers get; `usage` is what it took until then."""
        attempts = _ended(live.job.attempts, now, failure)
        job = self._move(live, JobEvent.FAILED, end_time=now, failure=failure, attempts=attempts, usage=usage)
        live.feed.close(error)
        return job

    def cancelled(self, live: LiveJob, error: RbeeError, now: float, usage: Usage | None = None) -> Job:
        """Somebody ended it; its callers get the error that says so. `usage` is what it took until then."""
        attempts = _ended(live.job.attempts, now)
        job = self._move(live, JobEvent.CANCELLED, end_time=now, attempts=attempts, usage=usage)
        live.feed.close(error)
        return job

    def _move(self, live: LiveJob, event: JobEvent, **facts: Any) -> Job:
        before = live.job
        live.job = replace(before, state=lifecycle.next_job_state(before.state, event), **facts)
        if event is JobEvent.DISPATCHED:
            self.queue.take(before.id, live.job.attempt.dispatch_time)
        if before.state is JobState.QUEUED:
            self.followed.pop(before.id, None)
            self._line_moved()
        if live.job.state is JobState.QUEUED:
            self._enqueue(live)
        self._store.save_job(live.job)
        if self._tenants is not None:
            _tell(self._tenants, live.job)
        self._on_moved(live, before)
        if live.job.resting:
            self._rest(live)
        self._check_settled()
        return live.job

    def _enqueue(self, live: LiveJob) -> None:
        self.queue.join(live.job)
        self._line_moved()
        if live.feed.readers:
            self.follow(live)
        self._on_queued()

    def _line_moved(self) -> None:
        if self.followed:
            self.moved.set()

    def _rest(self, live: LiveJob) -> None:
        del self._alive[live.job.id]
        self.queue.drop(live.job.id)
        live.spec = b""
        for timer in (live.deadline, live.queue_limit, live.leaving):
            if timer is not None:
                timer.cancel()
        self._store.drop_request(live.job.id)
        kept = any(attempt.failure is not None for attempt in live.job.attempts)
        if kept and not (live.job.detached and live.job.state is JobState.COMPLETE):
            self._store.drop_output(live.job.id)  # kept for another attempt only
        self._resting[live.job.id] = live
        if len(self._resting) > KEPT_AFTER_REST:
            _, oldest = self._resting.popitem(last=False)
            self._by_request.pop(oldest.job.request_id, None)
            self.delivered(oldest)


def _tell(tenants: TenantTable, job: Job) -> None:
    """Tells the tenants where a job stands now. What it used is saved with it: both are on disk, or neither."""
    if job.end_time is not None:
        tenants.ended(job, job.end_time)
    elif job.state is JobState.QUEUED:
        tenants.returned(job)
    elif job.state is JobState.DISPATCHED:
        tenants.given(job)


def _ended(attempts: tuple[Attempt, ...], now: float, failure: Failure | None = None) -> tuple[Attempt, ...]:
    if not attempts or attempts[-1].end_time is not None:
        return attempts
    return (*attempts[:-1], replace(attempts[-1], end_time=now, failure=failure))
