"""A job's total time, on a real event loop with limits of milliseconds."""

import asyncio

import pytest

from queen.core.model import Failure, JobState, StageLimits
from queen.dispatch.dispatcher import JobDispatcher
from queen.links.workers import WorkerLinks
from queen.registry.jobs import JobTable, LiveJob
from wire import errors
from wire.clock import SystemClock
from worlds import World, job


class NoStore:
    """Takes everything."""

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture
async def dispatcher():
    async with asyncio.TaskGroup() as group:
        world = World()
        table = JobTable(NoStore(), lambda: None)
        yield (
            JobDispatcher(
                jobs=table,
                cluster=world.cluster,
                links=WorkerLinks(),
                clock=SystemClock(),
                abandon=lambda _: None,
                jitter=lambda: 1.0,
                group=group,
            ),
            table,
        )


async def test_a_job_that_waits_too_long_ends_and_says_where(dispatcher):
    runner, table = dispatcher
    live = LiveJob(job(submit_time=SystemClock().now(), timeout_s=0.05), b"")
    table.add(live)
    runner.set_deadline(live)
    with live.feed.reader() as reader, pytest.raises(errors.TimedOut, match="waited in the queue") as caught:
        await asyncio.wait_for(reader.read(), 5)
    assert caught.value.reason == "JOB_TIMED_OUT"
    assert caught.value.metadata == {"job_id": "job-1"}
    assert live.job.state is JobState.FAILED


async def test_a_job_at_rest_has_no_deadline_any_more(dispatcher):
    runner, table = dispatcher
    live = LiveJob(job(submit_time=SystemClock().now(), timeout_s=0.05), b"")
    table.add(live)
    runner.set_deadline(live)
    runner.cancel(live, "a test")
    assert live.deadline.cancelled()
    assert live.job.state is JobState.CANCELLED


async def test_each_stay_in_the_queue_counts_anew(dispatcher):
    runner, table = dispatcher
    now = SystemClock().now()
    live = LiveJob(job(submit_time=now - 100, timeout_s=300.0), b"", limits=StageLimits(queue_s=0.1))
    table.add(live)
    table.dispatched(live, "w1", "mill", now - 99)
    table.retried(live, Failure("WORKER_LOST", "gone", 14, True), now, 0.0)
    runner.set_queue_limit(live)
    assert live.job.state is JobState.QUEUED
    with live.feed.reader() as reader, pytest.raises(errors.TimedOut, match=r"waited 0\.\d s in the queue") as caught:
        await asyncio.wait_for(reader.read(), 5)
    assert caught.value.reason == "QUEUE_TIMED_OUT"


async def test_a_limit_that_was_the_callers_own_is_told_so(dispatcher):
    runner, table = dispatcher
    live = LiveJob(
        job(submit_time=SystemClock().now(), timeout_s=0.05), b"", limits=StageLimits(total_s=0.05, by_caller=True)
    )
    table.add(live)
    runner.set_deadline(live)
    with live.feed.reader() as reader, pytest.raises(errors.TimedOut, match=r"caller's own deadline was 0\.05 s"):
        await asyncio.wait_for(reader.read(), 5)
