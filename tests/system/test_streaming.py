"""Keeper to queen to hive to worker and back, with the real model."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE

import psutil
import pytest

import rbee
from programs import rbee as keeper
from programs import wait_for
from rbee.v1 import job_pb2

KEEPER = [sys.executable, "-m", "client.cli"]
QUESTION = {"model": "rbee-tiny", "prompt": "What is a hive?", "temperature": 0.0}


async def ask(queen, **options):
    return "".join([str(piece) async for piece in queen.infer(**{**QUESTION, **options})])


async def test_the_model_answers_in_english_the_same_each_time(queen):
    async with rbee.connect(queen.address) as client:
        first = await ask(client)
        assert first.startswith("A hive is ")
        assert first.endswith(".")
        assert await ask(client) == first
        assert await ask(client, prompt="what's a hive") == first
        assert await ask(client, prompt="Explain what a hive is.") == first


async def test_events_come_in_sequence_from_queued_to_done(queen):
    async with rbee.connect(queen.address) as client:
        answer = client.infer(**QUESTION)
        events = [event async for event in answer.events()]
        kinds = [event.WhichOneof("event") for event in events]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert kinds[0] == "queued"
        assert kinds[-1] == "done"
        assert kinds.count("done") == kinds.count("started") == 1
        tokens = [event.tokens for event in events if event.HasField("tokens")]
        indices = [token.first_index for token in tokens]
        assert indices == [sum(token.count for token in tokens[:n]) for n in range(len(tokens))]
        assert sum(token.count for token in tokens) == answer.done.usage.completion_tokens
        job = await client.get_job(answer.job_id)
        assert job.state == job_pb2.JOB_STATE_COMPLETE
        assert job.usage == answer.done.usage
        assert job.decision.worker_id == job.attempts[0].worker_id
        assert job.decision.reason


async def test_watching_again_gives_what_was_missed_and_nothing_twice(queen):
    async with rbee.connect(queen.address) as client:
        answer = client.infer(**QUESTION)
        events = [event async for event in answer.events()]
        for after in (0, 1, len(events) // 2, len(events) - 1):
            again = [event async for event in client.watch(answer.job_id, after).events()]
            assert again == events[after:]


async def test_a_repeated_request_id_is_the_same_job(queen):
    async with rbee.connect(queen.address) as client:
        one, two = (client.infer(**QUESTION, request_id="the-same") for _ in range(2))
        texts = ["".join([str(piece) async for piece in answer]) for answer in (one, two)]
        assert one.job_id == two.job_id
        assert texts[0] == texts[1]
        first = await client.submit(**QUESTION, request_id="submitted-twice")
        assert (await client.submit(**QUESTION, request_id="submitted-twice")).id == first.id


async def test_fifty_at_once_on_four_slots_all_get_the_right_answer(queen):
    async with rbee.connect(queen.address) as client:
        alone = await ask(client)
        assert await asyncio.gather(*(ask(client) for _ in range(50))) == [alone] * 50
        (worker,) = [one async for one in client.workers() if one.model == "rbee-tiny"]
        assert worker.slots_available == worker.slots_total == 4


def test_twenty_keepers_at_once(queen):
    command = [*KEEPER, "infer", "What is a hive?", "--model", "rbee-tiny"]
    environment = {**os.environ, "RBEE_QUEEN": queen.address}
    keepers = [
        subprocess.Popen(
            [*command, "--temperature", "0", "--quiet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(20)
    ]
    said = [one.communicate(timeout=110) for one in keepers]
    assert {one.returncode for one in keepers} == {0}
    assert len({out for out, _ in said}) == 1
    assert {err for _, err in said} == {""}, "--quiet prints nothing but tokens"


async def test_a_killed_keeper_frees_its_slot_within_a_second(queen):
    async with rbee.connect(queen.address) as client:
        worker = await client.spawn_worker(
            "synthetic:slow", slots=1, engine_options={"tokens_per_second": "20", "completion_tokens": "100000"}
        )
        command = [*KEEPER, "--queen", queen.address, "infer", "--model", "synthetic:slow", "hi"]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL)
        assert await process.stdout.readexactly(9) == b"synthetic"
        assert (await client.get_worker(worker.id)).slots_available == 0
        process.kill()
        async with asyncio.timeout(1):
            while (await client.get_worker(worker.id)).slots_available == 0:
                pass
        await process.wait()
        states = [job.state async for job in client.list_jobs(model="synthetic:slow")]
        assert states == [job_pb2.JOB_STATE_CANCELLED]
        await client.stop_worker(worker.id)


async def test_a_job_goes_on_while_one_of_its_callers_is_there(queen):
    async with rbee.connect(queen.address) as client:
        options = {"tokens_per_second": "50", "completion_tokens": "40"}
        worker = await client.spawn_worker("synthetic:two", slots=1, engine_options=options)
        first, second = (client.infer(model="synthetic:two", prompt="x", request_id="two-callers") for _ in range(2))
        leaving, staying = aiter(first), aiter(second)
        await anext(leaving)
        await anext(staying)
        await leaving.aclose()
        assert [piece.first_index async for piece in staying][-1] == 39
        await client.stop_worker(worker.id)


async def test_cancelling_ends_a_queued_and_a_running_job(queen):
    async with rbee.connect(queen.address) as client:
        worker = await client.spawn_worker(
            "synthetic:one", slots=1, engine_options={"tokens_per_second": "20", "completion_tokens": "100000"}
        )
        running = await client.submit(model="synthetic:one", prompt="a")
        waiting = await client.submit(model="synthetic:one", prompt="b")
        pieces = aiter(client.watch(running.id))
        await anext(pieces)
        assert (await client.get_job(waiting.id)).queue_position == 1
        assert [job.id async for job in client.list_jobs(states=[job_pb2.JOB_STATE_QUEUED])] == [waiting.id]
        for job in (waiting, running, running):
            assert (await client.cancel(job.id)).state == job_pb2.JOB_STATE_CANCELLED
        with pytest.raises(rbee.Cancelled) as caught:
            async for _ in pieces:
                pass
        assert caught.value.reason == "JOB_CANCELLED"
        await client.stop_worker(worker.id)
        with pytest.raises(rbee.NotFound):
            await client.get_worker(worker.id)


async def test_a_worker_killed_mid_answer_is_made_good_without_a_gap_or_repeat(queen):
    async with rbee.connect(queen.address) as client:
        for _ in range(5):
            job = await killed_mid_answer(client)
            if len(job.attempts) > 1:
                break
            # The answer takes so little time that on a busy machine the worker may be done before it is killed.
        assert len(job.attempts) > 1
        assert job.attempts[0].failure.reason == "WORKER_LOST"


async def killed_mid_answer(client):
    """Returns the job of an answer whose worker was killed after its first token."""
    before = client.infer(**QUESTION)
    whole = await before.text()
    worker = await client.get_worker((await client.get_job(before.job_id)).attempts[-1].worker_id)
    answer = client.infer(**QUESTION)
    text = ""
    async for piece in answer:
        text += str(piece)
        if piece.first_index == 0:
            psutil.Process(worker.pid).kill()
    assert text == whole
    job = await client.get_job(answer.job_id)
    assert job.usage.completion_tokens == answer.done.usage.completion_tokens == len(whole.encode())
    return job


def test_the_keeper_prints_tokens_to_stdout_and_the_rest_to_stderr(queen):
    said = keeper(queen, "infer", "What is a hive?", "--model", "rbee-tiny", "--temperature", "0")
    assert said.returncode == 0
    assert said.stdout.startswith("A hive is ")
    assert "first token after" in said.stderr


def test_ctrl_c_keeps_what_was_printed_and_exits_130(queen):
    command = [*KEEPER, "--queen", queen.address, "infer", "--model", "synthetic:cc", "hi"]
    assert (
        keeper(queen, "worker", "spawn", "synthetic:cc", "--engine-option", "completion_tokens=100000").returncode == 0
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(14) == b"synthetic tok1"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert out.endswith(b"\n")
    assert b"Traceback" not in err
    wait_for(lambda: '"JOB_STATE_CANCELLED"' in keeper(queen, "jobs", "list", "--json").stdout, "the job is cancelled")
