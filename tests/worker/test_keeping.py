"""How long, and how much, a worker keeps for callers who come back; on a clock the test sets."""

import asyncio

import pytest

from wire import errors
from worker import generations as module
from worker.engines.port import Request
from worker.engines.synthetic import Synthetic
from worker.generation import Ticket
from worker.generations import Generations


class SetClock:
    """A clock that stands still until it is set."""

    seconds = 1000.0

    def now(self):
        return self.seconds

    def monotonic(self):
        return self.seconds


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
def engine(clock):
    return Synthetic(2, 100, {"tokens_per_second": "0", "completion_tokens": "5"}, clock)


async def made(generations, job_id):
    generation = generations.start(Ticket(job_id, 1, 1, keep=True), Request(prompt="one"), lambda _: None)
    await generations.drained()
    return generation


async def test_what_is_kept_is_forgotten_after_two_minutes(engine, clock):
    async with asyncio.TaskGroup() as tasks:
        generations = Generations(engine, tasks, clock)
        first = await made(generations, "job-1")
        clock.seconds += module.KEEP_S - 1
        second = await made(generations, "job-2")
        assert generations.all() == [first, second]
        clock.seconds += 1
        assert generations.all() == [second]
        with pytest.raises(errors.NotFound, match="no generation of job job-1"):
            generations.of_job("job-1")


async def test_the_oldest_goes_first_when_too_much_is_kept(engine, clock, monkeypatch):
    async with asyncio.TaskGroup() as tasks:
        generations = Generations(engine, tasks, clock)
        first = await made(generations, "job-1")
        monkeypatch.setattr(module, "KEEP_BYTES", 2 * first.kept_bytes)
        second, third = await made(generations, "job-2"), await made(generations, "job-3")
        assert generations.all() == [second, third]


async def test_the_latest_attempt_is_the_one_that_is_resumed(engine, clock):
    async with asyncio.TaskGroup() as tasks:
        generations = Generations(engine, tasks, clock)
        for attempt in (2, 1):
            generations.start(Ticket("job-1", attempt, 1, keep=True), Request(prompt="one"), lambda _: None)
        assert [generation.ticket.attempt for generation in generations.of_job("job-1")] == [1, 2]
        await generations.end(generations.all())
