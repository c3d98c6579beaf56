"""Runs dispatched jobs: relays the worker's events into the job's feed, and settles how the attempt ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from opentelemetry import context as otel_context

from queen.core.faults import MAX_ATTEMPTS, RETRIABLE, NoWorkersAvailable
from queen.core.model import Failure, Job, JobState, Proposal, Worker
from queen.dispatch.stall import StallWatch
from queen.links import events
from queen.links.workers import Generation, WorkerLinks
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from wire import errors, status
from wire.clock import Clock
from wire.tasks import supervised

log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MOST_S: Final = 60.0


class JobDispatcher:
    """Gives jobs to workers whose slots are reserved, and ends jobs.

    All tasks live in `group`; `jitter` draws the factor of each retry's delay, 0.5 to 1; `abandon` is given workers
    that do not confirm the end of a job.
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
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._links = links
        self._clock = clock
        self._jitter = jitter
        self._abandon = abandon
        self._group = group

    def dispatch(self, job_id: str, worker: Worker) -> None:
        """Starts running a job whose slot is reserved; returns at once."""
        live = self._jobs.get(job_id)
        assert live is not None, "only jobs in the table are dispatched"
        token = otel_context.attach(live.context)
        self.set_deadline(live)
        work = supervised(self._run(live, worker), f"job {job_id}", lambda error: self.fail(live, error))
        live.task = self._group.create_task(work, name=f"dispatch {job_id}")
        otel_context.detach(token)

    def set_deadline(self, live: LiveJob) -> None:
        """Ends a job when its total time is over: from submission, for a detached job from its first dispatch."""
        if live.deadline is None:
            begun = self._clock.now() if live.job.detached else live.job.submit_time
            left = begun + live.job.timeout_s - self._clock.now()
            live.deadline = asyncio.get_running_loop().call_later(max(0.0, left), self._time_out, live)

    def set_queue_limit(self, live: LiveJob) -> None:
        """Ends a job that is not given to a worker within its longest time in the queue, from its submission."""
        if live.limits.queue_s is not None:
            left = live.job.submit_time + live.limits.queue_s - self._clock.now()
            live.queue_limit = asyncio.get_running_loop().call_later(max(0.0, left), self._leave_queue, live)

    def _leave_queue(self, live: LiveJob) -> None:
        if live.job.state is not JobState.QUEUED or live.job.attempts:
            return
        waited = self._clock.now() - live.job.submit_time
        message = f"job {live.job.id} waited {waited:.1f} s in the queue{_why_it_waits(live)}; its limit there is "
        message += f"{live.limits.queue_s:g} s, raise it with --queue-timeout"
        self.fail(live, errors.TimedOut(message, "QUEUE_TIMED_OUT"))

    def _time_out(self, live: LiveJob) -> None:
        job = live.job
        doing = f"{job.attempt.worker_id} generated" if job.state is not JobState.QUEUED else "it waited in the queue"
        why = _why_it_waits(live)
        message = f"job {job.id} ran into its limit of {job.timeout_s:g} s while {doing}{why}; raise it with --timeout"
        self.fail(live, errors.TimedOut(message, "JOB_TIMED_OUT"))

    def cancel(self, live: LiveJob, why: str) -> Job:
        """Ends a job because somebody asked; one at rest stays as it is. Its worker is told; its slot follows."""
        if live.job.resting:
            return live.job
        error = errors.Cancelled(f"job {live.job.id} was cancelled: {why}", "JOB_CANCELLED", metadata=_named(live.job))
        job = self._jobs.cancelled(live, error, self._clock.now())
        if live.task is not None:
            live.task.cancel()
        return job

    def fail(self, live: LiveJob, error: errors.RbeeError) -> None:
        """Ends a job with an error; one at rest stays as it is."""
        if live.job.resting:
            return
        error.metadata = {**error.metadata, **_named(live.job)}
        self._jobs.failed(live, _failure(error), error, self._clock.now())
        if live.task is not None and live.task is not asyncio.current_task():
            live.task.cancel()

    def reject(self, live: LiveJob, proposal: Proposal) -> None:
        """Ends a job a scheduler refuses."""
        self.fail(live, NoWorkersAvailable(proposal.reason, "INSUFFICIENT_VRAM", retry_after_s=proposal.retry_after_s))

    async def _run(self, live: LiveJob, worker: Worker) -> None:
        live.feed.append(self._started_frame(live))
        generation = self._links.generate(
            worker.address,
            live.spec,
            job_id=live.job.id,
            attempt=live.job.attempt.number,
            first_sequence=live.feed.last_sequence + 1,
            generated=(events.generated_token_ids(live.feed.frames) or []) if live.job.attempt.number > 1 else [],
        )
        ended_by_worker = False
        watch = StallWatch(live.limits, worker.id)
        try:
            last = await self._relay(live, generation, watch)
            ended_by_worker = True
            self._complete(live, worker, last)
        except errors.RbeeError as error:
            # A lost worker ends its generations by itself: nobody is there who could be asked.
            ended_by_worker = True
            if error.reason == "WORKER_LOST":
                self._cluster.lost_worker(worker.id)
            self._attempt_failed(live, error)
        except asyncio.CancelledError:
            if not live.job.resting and watch.error is None:
                raise  # the queen ends, not the job
        finally:
            watch.close()
            generation.cancel()
            live.task = None
        await self._free_slot(live, worker, ended_by_worker)
        if watch.error is not None:
            # Only now: were it given to a worker again before its end here is sure, it could run twice.
            self._attempt_failed(live, watch.error)

    async def _relay(self, live: LiveJob, generation: Generation, watch: StallWatch) -> bytes:
        """Moves messages from worker to feed, unread; returns the last."""
        feed, read = live.feed, generation.read
        last = frame = await read()
        while frame:
            watch.heard()
            feed.append(frame)
            if live.job.state is JobState.DISPATCHED:  # noted when the first token is on its way
                self._jobs.started(live, self._clock.now())
            last = frame
            frame = await read()
        return last

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

    def _attempt_failed(self, live: LiveJob, error: errors.RbeeError) -> None:
        job = live.job
        if job.resting:
            return
        if error.reason not in RETRIABLE or len(job.attempts) >= MAX_ATTEMPTS or not self._can_go_on(live):
            self.fail(live, error)
            return
        delay = 0.0
        if len(job.attempts) > 1 or not isinstance(error, errors.Unreachable):
            delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** (len(job.attempts) - 1)) * self._jitter()
        log.warning("attempt %d failed, again in %.1f s: %s", len(job.attempts), delay, error, extra={"job_id": job.id})
        self._jobs.retried(live, _failure(error), self._clock.now(), delay)

    def _can_go_on(self, live: LiveJob) -> bool:
        """Whether another attempt can continue where this one broke off."""
        generated = events.generated_token_ids(live.feed.frames)
        return generated == [] or (generated is not None and not live.job.no_failover)

    async def _free_slot(self, live: LiveJob, worker: Worker, ended_by_worker: bool) -> None:
        if not ended_by_worker:
            try:
                await self._links.cancel(worker.address, live.job.id)
            except errors.RbeeError as error:
                log.error("%s did not confirm the end of a job: %s", worker.id, error, extra={"job_id": live.job.id})
                self._abandon(worker)
        self._cluster.release(worker.id, live.job.id, self._clock.now())

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


def _why_it_waits(live: LiveJob) -> str:
    decided = live.decision if live.job.state is JobState.QUEUED else None
    return f" ({decided.proposal.reason})" if decided else ""


def _failure(error: errors.RbeeError) -> Failure:
    return Failure(error.reason, error.message, status.code_number(error), error.retriable)


def _named(job: Job) -> dict[str, str]:
    return {"job_id": job.id}
