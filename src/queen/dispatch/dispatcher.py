"""Runs dispatched jobs: relays the worker's events into the job's feed, and settles how the attempt ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from opentelemetry import context as otel_context

from queen.core.faults import (
    MAX_ATTEMPTS,
    RETRIABLE,
    StreamConnectionFailed,
    StreamReadError,
    WorkerCommunicationFailed,
    refused,
)
from queen.core.model import Attempt, Failure, Job, JobState, Proposal, Usage, Verdict, Worker
from queen.core.ports import RetryAdvice
from queen.dispatch.reconnect import Reconnect
from queen.dispatch.stall import StallWatch
from queen.links import events
from queen.links.workers import Generation, WorkerLinks
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.traces import job_spans
from wire import errors, status
from wire.clock import Clock
from wire.tasks import supervised

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MOST_S: Final = 60.0

_DOUBTS: Final = {"WORKER_LOST", "WORKER_DRAINING", "WORKER_STALLED", "NO_FREE_SLOT", "GENERATION_EXISTS"}
"""Failures after which it is not known what a worker runs; it gets no jobs until it has told."""


class JobDispatcher:
    """Gives jobs to workers whose slots are reserved, and ends jobs.

    All tasks live in `group`; `jitter` draws the factor of each retry's delay, 0.5 to 1; `abandon` is given workers
    that do not confirm the end of a job; `advice` is asked before each retry, if there is one.
    """

    def __init__(
        self,
        *,
        jobs: JobTable,
        cluster: Cluster,
        links: WorkerLinks,
        clock: Clock,
        jitter: Callable[[], float],
        abandon: Callable[[Worker], None],
        group: asyncio.TaskGroup,
        advice: RetryAdvice | None = None,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._links = links
        self._clock = clock
        self._jitter = jitter
        self._abandon = abandon
        self._group = group
        self._advice = advice
        self._reconnect = Reconnect(cluster, clock)

    def dispatch(self, job_id: str, worker: Worker) -> None:
        """Starts running a job whose slot is reserved; returns at once."""
        live = self._jobs.get(job_id)
        assert live is not None, "only jobs in the table are dispatched"
        self._start(live, worker)

    def adopt(self, live: LiveJob, worker: Worker, not_there: Callable[[LiveJob], None]) -> None:
        """Goes on with a job that its worker has gone on with while no queen listened; returns at once.

        `not_there` is told when that comes to nothing before anything has come from the worker.
        """
        self._start(live, worker, not_there)

    def _start(self, live: LiveJob, worker: Worker, not_there: Callable[[LiveJob], None] | None = None) -> None:
        token = otel_context.attach(job_spans.attempt_context(live))
        self.set_deadline(live)
        work = supervised(self._run(live, worker, not_there), f"job {live.job.id}", partial(self._broke, live, worker))
        live.task = self._group.create_task(work, name=f"dispatch {live.job.id}")
        otel_context.detach(token)

    def set_deadline(self, live: LiveJob) -> None:
        """Ends a job when its total time is over: from submission, for a detached job from its first dispatch."""
        if live.deadline is None:
            begun = self._clock.now() if live.job.detached else live.job.submit_time
            left = begun + live.job.timeout_s - self._clock.now()
            live.deadline = asyncio.get_running_loop().call_later(max(0.0, left), self._time_out, live)

    def set_queue_limit(self, live: LiveJob) -> None:
        """Ends a job that is not given to a worker within its longest stay in the queue; each stay counts anew."""
        if live.queue_limit is not None:
            live.queue_limit.cancel()
        if live.limits.queue_s is not None:
            left = live.job.queued_since + live.limits.queue_s - self._clock.now()
            live.queue_limit = asyncio.get_running_loop().call_later(max(0.0, left), self._leave_queue, live)

    def _leave_queue(self, live: LiveJob) -> None:
        if live.job.state is not JobState.QUEUED:
            return
        waited = self._clock.now() - live.job.queued_since
        message = f"job {live.job.id} waited {waited:.1f} s in the queue{_why_it_waits(live)}; its limit there is "
        message += f"{live.limits.queue_s:g} s, raise it with --queue-timeout"
        self.fail(live, errors.TimedOut(message, "QUEUE_TIMED_OUT"))

    def _time_out(self, live: LiveJob) -> None:
        job = live.job
        begun = live.job.submit_time if not job.detached or not job.attempts else job.attempts[0].dispatch_time
        spent = self._clock.now() - begun
        if live.limits.by_caller:
            limit = f"its caller's own deadline was {job.timeout_s:.3g} s, give the call a longer one"
        else:
            limit = f"its limit in all is {job.timeout_s:g} s, raise it with --timeout"
        message = f"job {job.id} was not done after {spent:.1f} s, while {_stage(live)}; {limit}"
        self.fail(live, errors.TimedOut(message, "JOB_TIMED_OUT"))

    def cancel(self, live: LiveJob, why: str) -> Job:
        """Ends a job because somebody asked; one at rest stays as it is. Its worker is told; its slot follows."""
        if live.job.resting:
            return live.job
        error = errors.Cancelled(f"job {live.job.id} was cancelled: {why}", "JOB_CANCELLED", metadata=_named(live.job))
        job = self._jobs.cancelled(live, error, self._clock.now(), _spent(live))
        _interrupt(live)
        return job

    def put_back(self, live: LiveJob) -> None:
        """Puts a job that runs back into the queue, on disk, for the next queen; she goes on after what it has."""
        if live.give_up is not None:
            live.give_up(errors.Unreachable("the queen was stopped while it ran", "QUEEN_STOPPED"), 0.0)

    async def kept_events(self, job: Job) -> list[bytes]:
        """Returns the events that the last worker of a job at rest still keeps, if any.

        A queen who has just begun waits for the hive of that worker before she says that there are none.
        """
        if not job.attempts:
            return []
        await self._reconnect.until(lambda: self._has_told(job.attempt))
        worker = self._cluster.get_worker(job.attempt.worker_id)
        if worker is None:
            return []
        generation, frames = self._links.resume(worker, job.id, 0), []
        try:
            while frame := await generation.read():
                frames.append(frame)
        except errors.RbeeError:
            return []
        finally:
            generation.cancel()
        return frames

    def _has_told(self, attempt: Attempt) -> bool:
        """Tells whether the hive of an attempt has said which workers it has; one that was never known cannot."""
        hive = self._cluster.get_hive(attempt.hive_id)
        return hive is None or hive.online

    def fail(self, live: LiveJob, error: errors.RbeeError) -> None:
        """Ends a job with an error; one at rest stays as it is."""
        if live.job.resting:
            return
        error.metadata = {**error.metadata, **_named(live.job)}
        self._jobs.failed(live, _failure(error), error, self._clock.now(), _spent(live))
        _interrupt(live)

    def reject(self, live: LiveJob, proposal: Proposal) -> None:
        """Ends a job a scheduler refuses."""
        self.fail(live, refused(proposal.reason))

    def hive_lost(self, hive_id: str, silent_s: float) -> None:
        """Leaves the workers of a hive that is offline, but for those that were heard of within `silent_s` seconds."""
        for live in self._jobs.alive():
            if live.give_up is not None and live.job.attempt.hive_id == hive_id:
                message = f"worker {live.job.attempt.worker_id} was lost: its hive {hive_id} is offline"
                live.give_up(WorkerCommunicationFailed(message), silent_s)

    async def _run(self, live: LiveJob, worker: Worker, not_there: Callable[[LiveJob], None] | None) -> None:
        adopted = not_there is not None
        watch = StallWatch(live.limits, worker.id)
        live.give_up = watch.give_up
        number = live.job.attempt.number
        failure: errors.RbeeError | None = None
        interrupted = live.job.resting and adopted  # it came to rest before this began
        try:
            if not live.job.resting:
                self._complete(live, worker, await self._relay(live, worker, watch, adopted=adopted))
        except errors.RbeeError as error:
            failure = error
        except asyncio.CancelledError:
            if not live.job.resting and watch.error is None:
                raise  # the queen ends, not the job
            failure, interrupted = watch.error, True
        finally:
            watch.close()
            live.task = live.give_up = None
        if failure is not None:
            if not_there is not None and not watch.has_heard and not live.job.resting:
                not_there(live)
            await self._attempt_failed(live, worker, failure)
        if interrupted:
            await self._end_on_worker(live, worker)
        if live.job.attempt.number == number or live.job.attempt.worker_id != worker.id:
            self._cluster.release(worker.id, live.job.id, self._clock.now())

    def _broke(self, live: LiveJob, worker: Worker, error: errors.Internal) -> None:
        """Ends a job that hit a defect of the queen; its worker may have it still, and has to tell."""
        self.fail(live, error)
        self._cluster.doubt(worker.id)
        self._cluster.release(worker.id, live.job.id, self._clock.now())

    async def _relay(self, live: LiveJob, worker: Worker, watch: StallWatch, *, adopted: bool) -> bytes:
        """Moves messages from worker to feed; returns the last. A stream that breaks off is attached to again.

        Raises the worker's error, or that it was lost when it cannot be attached to or brings nothing new.
        """
        generation = self._resumed(live, worker) if adopted else self._begun(live, worker)
        lost: errors.RbeeError | None = None
        while True:
            place = live.feed.last_sequence
            try:
                return await self._move(live, generation, watch, adopted=adopted)
            except (StreamConnectionFailed, StreamReadError, errors.NotFound) as error:
                if live.feed.last_sequence == place and (lost is not None or adopted):
                    raise lost or WorkerCommunicationFailed(f"{worker.id} does not have it any more") from error
                lost, adopted = error, False
            finally:
                generation.cancel()
            generation = self._resumed(live, worker)

    def _begun(self, live: LiveJob, worker: Worker) -> Generation:
        live.feed.append(self._started_frame(live))
        first = live.job.attempt.number == 1 and not live.taken_over
        return self._links.generate(
            worker,
            live.spec,
            job_id=live.job.id,
            attempt=live.job.attempt.number,
            first_sequence=live.feed.last_sequence + 1,
            generated=[*(live.prefix or ())] if first else self._generated(live) or [],
        )

    def _resumed(self, live: LiveJob, worker: Worker) -> Generation:
        made = events.token_count(live.feed.frames) + len(live.prefix or ())
        return self._links.resume(worker, live.job.id, made)

    async def _move(self, live: LiveJob, generation: Generation, watch: StallWatch, *, adopted: bool) -> bytes:
        """Moves messages from worker to feed, unread; returns the last."""
        feed, read = live.feed, generation.read
        last = frame = await read()
        if adopted and frame:
            _number_as_its_worker(live, frame)
        while frame:
            watch.heard()
            feed.append(frame)
            if live.job.state is JobState.DISPATCHED:  # noted when the first token is on its way
                self._jobs.started(live, self._clock.now())
            last = frame
            frame = await read()
        return last

    def _generated(self, live: LiveJob) -> list[int] | None:
        """Returns the ids of the tokens made so far; None when an engine did not tell them all."""
        ids = events.generated_token_ids(live.feed.frames)
        return None if ids is None or live.prefix is None else [*live.prefix, *ids]

    def _complete(self, live: LiveJob, worker: Worker, last: bytes) -> None:
        ending = events.read_ending(last)
        self._cluster.note_completed(worker.id, ending.tokens_per_sec)
        self._jobs.completed(
            live,
            self._clock.now(),
            usage=ending.usage,
            finish_reason=ending.finish_reason,
            seed=ending.seed,
        )

    async def _attempt_failed(self, live: LiveJob, worker: Worker, error: errors.RbeeError) -> None:
        if error.reason in _DOUBTS:
            self._cluster.doubt(worker.id)
        if live.job.resting:
            return
        if error.reason not in RETRIABLE or not self.may_try_again(live):
            self.fail(live, error)
            return
        if self._advice is not None and self._advice.answers("should_retry"):
            verdict = await self._advice.may_try_again(live.job, error.reason)
            if not verdict.yes:
                self.fail(live, _without_another_try(error, verdict))
        if (job := live.job).resting:
            return  # it was refused, or ended otherwise while the policy thought about it
        delay = 0.0
        if len(job.attempts) > 1 or not isinstance(error, errors.Unreachable):
            delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** (len(job.attempts) - 1)) * self._jitter()
        log.warning("attempt %d failed, again in %.1f s: %s", len(job.attempts), delay, error, extra=job.facts)
        self._jobs.retried(live, _failure(error), self._clock.now(), delay)
        self.set_queue_limit(live)

    def may_try_again(self, live: LiveJob) -> bool:
        """Whether a job has attempts left and another can continue where the last one broke off."""
        if (
            sum(one.failure is None or one.failure.reason != "QUEEN_STOPPED" for one in live.job.attempts)
            >= MAX_ATTEMPTS
        ):
            return False
        generated = self._generated(live)
        return generated == [] or (generated is not None and not live.job.no_failover)

    async def _end_on_worker(self, live: LiveJob, worker: Worker) -> None:
        """Ends a job's generation; a worker that does not confirm it is taken out of service."""
        try:
            await self._links.cancel(worker, live.job.id)
        except errors.RbeeError as error:
            log.error("%s did not confirm the end of a job: %s", worker.id, error, extra=live.job.facts)
            self._abandon(worker)

    def _started_frame(self, live: LiveJob) -> bytes:
        attempt = live.job.attempt
        return events.started(
            live.feed.last_sequence + 1,
            worker_id=attempt.worker_id,
            hive_id=attempt.hive_id,
            model_ref=live.job.model_ref,
            attempt=attempt.number,
            queue_wait_s=attempt.dispatch_time - live.job.submit_time,
        )


def _interrupt(live: LiveJob) -> None:
    """Ends the work on a job that has come to rest."""
    # A task that has not begun sees it when it does: cancelled before, it would never begin, and so keep its slot.
    if live.give_up is not None and live.task is not None:
        live.task.cancel()


def _number_as_its_worker(live: LiveJob, frame: bytes) -> None:
    """Gives the events of a job that was taken over the sequences its worker gave them, from this frame on."""
    index = events.first_token_index(frame)
    if index is not None and index > events.token_count(live.feed.frames):
        # The tokens before came from another worker, and went with the earlier queen; his caller has them.
        live.prefix = live.received[:index] if len(live.received) >= index else None
        live.feed.forget()
    live.feed.leap(events.sequence_of(frame))


def _spent(live: LiveJob) -> Usage | None:
    """Returns what a job that does not end well has taken, its prompt as estimated; None before its first token."""
    if live.job.first_token_time is None:
        return None
    return Usage(live.job.asks.prompt_tokens or 0, events.token_count(live.feed.frames) + len(live.prefix or ()))


def _stage(live: LiveJob) -> str:
    """Returns what a job was at, for messages."""
    job = live.job
    if job.state is JobState.QUEUED:
        return f"it waited in the queue{_why_it_waits(live)}"
    if job.state is JobState.DISPATCHED:
        return f"it waited for the first token of {job.attempt.worker_id}"
    return f"{job.attempt.worker_id} generated"


def _why_it_waits(live: LiveJob) -> str:
    decided = live.decision if live.job.state is JobState.QUEUED else None
    return f" ({decided.proposal.reason})" if decided else ""


def _failure(error: errors.RbeeError) -> Failure:
    return Failure(error.reason, error.message, status.code_number(error), error.retriable)


def _without_another_try(error: errors.RbeeError, verdict: Verdict) -> errors.RbeeError:
    who = f"policy {verdict.policy} {verdict.policy_version}".strip()
    message = f"{error.message}; {who} refused another try: {verdict.reason}"
    return type(error)(message, error.reason, metadata=error.metadata, retry_after_s=error.retry_after_s)


def _named(job: Job) -> dict[str, str]:
    return {"job_id": job.id}
