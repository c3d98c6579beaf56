"""A queen that is killed or stopped, with and without workers: jobs go on, nobody gets a token twice or misses one."""

import asyncio
import os
import signal
import sqlite3
from contextlib import closing

import pytest

import rbee
from programs import wait_for
from rbee.v1 import job_pb2

SLOW = "synthetic:slow"
WORDS = ["synthetic", *(f" tok{n}" for n in range(1, 60))]
QUESTION = {"model": "copy", "prompt": "What is a hive?", "temperature": 0.0}


async def spawn_slow(client, slots=1):
    options = {"tokens_per_second": "20", "completion_tokens": "60"}
    return await client.spawn_worker(SLOW, slots=slots, engine_options=options)


class Reader:
    """Reads an answer in the background; `has` returns when that many tokens have come."""

    def __init__(self, group, answer):
        self.answer = answer
        self.pieces = []
        self._news = asyncio.Condition()
        self.task = group.create_task(self._read())

    async def _read(self):
        async for piece in self.answer:
            async with self._news:
                self.pieces.append(piece)
                self._news.notify_all()

    async def has(self, tokens):
        async with self._news:
            await self._news.wait_for(lambda: sum(piece.count for piece in self.pieces) >= tokens)

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)


def ended_on_disk(queen):
    with closing(sqlite3.connect(queen.data_dir / "queen.db")) as database:
        return database.execute("SELECT count(*) FROM jobs WHERE state = 'complete'").fetchone() == (1,)


async def restart(queen, *, meanwhile=lambda: None):
    queen.kill()
    meanwhile()
    await asyncio.to_thread(queen.start)


async def test_callers_of_a_killed_queen_get_the_rest_from_the_same_worker(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client, asyncio.TaskGroup() as group:
        worker = await spawn_slow(client, slots=2)
        asking = Reader(group, client.infer(model=SLOW, prompt="x"))
        submitted = await client.submit(model=SLOW, prompt="y")
        watching = Reader(group, client.watch(submitted.id))
        await asyncio.gather(asking.has(5), watching.has(5))
        await restart(own_queen)
        await asyncio.gather(asking.task, watching.task)
        for reader in (asking, watching):
            assert reader.text == "".join(WORDS)
            places = [range(piece.first_index, piece.first_index + piece.count) for piece in reader.pieces]
            assert [place for some in places for place in some] == list(range(60))
            assert reader.answer.done.usage.completion_tokens == 60
            job = await client.get_job(reader.answer.job_id)
            assert job.state == job_pb2.JOB_STATE_COMPLETE
            assert [attempt.worker_id for attempt in job.attempts] == [worker.id]
        (now,) = [one async for one in client.workers()]
        assert (now.slots_total, now.slots_available) == (2, 2)


async def test_what_was_queued_runs_after_a_kill_in_its_order(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client, asyncio.TaskGroup() as group:
        await spawn_slow(client)
        running = Reader(group, client.infer(model=SLOW, prompt="x"))
        await running.has(1)
        waiting = [Reader(group, client.infer(model=SLOW, prompt="x", max_tokens=2)) for _ in range(3)]
        detached = [(await client.submit(model=SLOW, prompt="x", max_tokens=2)).id for _ in range(3)]
        wait_for(lambda: all(one.answer.job_id for one in waiting), "they are accepted", 0.0)
        before = [job.id async for job in client.list_jobs(states=[job_pb2.JOB_STATE_QUEUED])]
        assert set(detached) < set(before)
        assert len(before) == 6
        await restart(own_queen)
        await asyncio.gather(*(one.task for one in waiting))
        assert {one.text for one in waiting} == {"synthetic tok1"}
        jobs = [await client.get_job(job_id) for job_id in before]
        for job in jobs:
            await client.watch(job.id).text()
        jobs = [await client.get_job(job_id) for job_id in before]
        started = [job.attempts[0].dispatch_time.ToNanoseconds() for job in jobs]
        assert started == sorted(started)


async def test_queen_and_worker_killed_at_once_the_answer_is_whole(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client, asyncio.TaskGroup() as group:
        whole = await client.infer(**QUESTION).text()
        (worker,) = [one async for one in client.workers()]
        asking = Reader(group, client.infer(**QUESTION))
        submitted = await client.submit(**QUESTION)
        watching = Reader(group, client.watch(submitted.id))
        await asking.has(1)
        await restart(own_queen, meanwhile=lambda: os.kill(worker.pid, signal.SIGKILL))
        await asyncio.gather(asking.task, watching.task)
        assert (asking.text, watching.text) == (whole, whole)


async def test_a_job_the_killed_queen_had_no_time_to_note_goes_on_after_what_its_caller_has(own_queen):
    def forget():
        with sqlite3.connect(own_queen.data_dir / "queen.db") as database:
            database.execute("DELETE FROM jobs")

    own_queen.start()
    async with rbee.connect(own_queen.address) as client, asyncio.TaskGroup() as group:
        await spawn_slow(client)
        asking = Reader(group, client.infer(model=SLOW, prompt="x"))
        await asking.has(5)
        noted = asking.answer.job_id
        await restart(own_queen, meanwhile=forget)
        await asking.task
        assert asking.text == "".join(WORDS)
        assert asking.answer.job_id != noted
        assert asking.answer.done.usage.completion_tokens == 60


async def test_a_detached_job_goes_on_after_an_orderly_stop(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        await spawn_slow(client)
        job = await client.submit(model=SLOW, prompt="x", max_tokens=60)
        pieces = aiter(client.watch(job.id))
        for _ in range(5):
            await anext(pieces)
        # A second signal: she does not wait for what runs.
        own_queen.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "no new jobs" in own_queen.log, "she stops")
        assert await asyncio.to_thread(own_queen.stop) == 0
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        assert await client.watch(job.id).text() == "".join(WORDS)
        job = await client.get_job(job.id)
        assert [attempt.failure.reason for attempt in job.attempts] == ["QUEEN_STOPPED", ""]


async def test_an_answer_that_ended_just_before_a_kill_is_still_to_be_had(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        answer = client.infer(**QUESTION)
        whole = await answer.text()
        assert (await client.get_job(answer.job_id)).state == job_pb2.JOB_STATE_COMPLETE
        assert [job.id async for job in client.list_jobs()] == [answer.job_id]  # it is on disk
    await restart(own_queen)
    async with rbee.connect(own_queen.address) as client:
        assert await client.watch(answer.job_id).text() == whole
        with pytest.raises(rbee.NotFound):
            await client.watch("job-none").text()


async def test_an_answer_that_ended_while_its_caller_was_away_outlives_queen_and_worker(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address, reattach_s=0) as client:
        worker = await spawn_slow(client)
        asked = {"model": SLOW, "prompt": "x", "request_id": "who-asks-again"}
        first = client.infer(**asked)
        pieces = first.pieces()
        await anext(pieces)
        assert [job.id async for job in client.list_jobs()] == [first.job_id]  # it is on disk
        own_queen.kill()
        with pytest.raises(rbee.Unreachable, match="went away"):
            [piece async for piece in pieces]
    await asyncio.to_thread(own_queen.start)
    await asyncio.to_thread(wait_for, lambda: ended_on_disk(own_queen), "the answer has ended")
    await restart(own_queen, meanwhile=lambda: os.kill(worker.pid, signal.SIGKILL))
    async with rbee.connect(own_queen.address) as client:
        assert await client.infer(**asked).text() == "".join(WORDS)
        assert [job.id async for job in client.list_jobs()] == [first.job_id]  # what is forgotten now is so on disk
        with pytest.raises(rbee.WrongState, match="no longer kept"):
            await client.infer(**asked).text()
