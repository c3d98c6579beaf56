"""A job's total time, on a real event loop with limits of milliseconds."""

import asyncio

import pytest

from queen.core.model import JobState
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
