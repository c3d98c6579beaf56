"""A full queue says so, waiting callers see their place change, sessions take turns."""

import asyncio
import json

import pytest

import rbee as client_library
from programs import rbee, running_queen

MODEL = "synthetic:queue"


async def held(client, queen, *, tokens=100_000):
    """Returns the worker of one slot and the job that has it until it is cancelled."""
    options = {"tokens_per_second": "50", "completion_tokens": str(tokens)}
    worker = await client.spawn_worker(MODEL, slots=1, engine_options=options)
    job = await client.submit(model=MODEL, prompt="hold the slot")
    await anext(aiter(client.watch(job.id)))
    return worker, job


async def test_a_full_class_refuses_with_when_to_ask_again_and_a_batch_gets_through_all_the_same(tmp_path):
    with running_queen(tmp_path, "--mode", "platform", "--queue-capacity", "3") as queen:
        async with client_library.connect(queen.address) as client:
            worker, holder = await held(client, queen)
            waiting = [await client.submit(model=MODEL, prompt="x", max_tokens=1, priority="batch") for _ in range(3)]
            with pytest.raises(client_library.NoCapacity, match="queue of batch jobs is full: 3 wait") as caught:
                await client.submit(model=MODEL, prompt="x", priority="batch")
            assert (caught.value.reason, caught.value.retry_after_s) == ("QUEUE_FULL", 5.0)
            told = await asyncio.to_thread(rbee, queen, "jobs", "submit", "x", "--model", MODEL, "--priority", "batch")
            assert told.returncode == 5, told.stderr
            assert "rbee jobs list --queue" in told.stderr
            urgent = await client.submit(model=MODEL, prompt="x", max_tokens=1)
            assert urgent.queue_position == 1, "the other class has places, and goes first"
            listed = await asyncio.to_thread(rbee, queen, "jobs", "list", "--queue", "--json")
            places = [(one["id"], one["queue_position"]) for one in json.loads(listed.stdout)]
            order = [urgent.id, *(one.id for one in waiting)]
            assert places == [(job_id, n) for n, job_id in enumerate(order, start=1)]
            file = tmp_path / "many.jsonl"
            file.write_text("".join(f'"say {n}"\n' for n in range(5)))
            batch = asyncio.create_task(
                asyncio.to_thread(rbee, queen, "jobs", "submit", str(file), "--model", MODEL, "--max-tokens", "1")
            )
            await client.cancel(holder.id)
            told = await batch
            assert told.returncode == 0, told.stderr
            assert "5 jobs: 5 complete, 0 failed" in told.stderr
            await client.stop_worker(worker.id, force=True)


async def test_a_waiting_caller_sees_its_place_change(queen):
    async with client_library.connect(queen.address) as client:
        worker, holder = await held(client, queen)
        ahead = [await client.submit(model=MODEL, prompt="x", max_tokens=1) for _ in range(3)]
        places = []
        async for event in client.infer(model=MODEL, prompt="x", max_tokens=1).events():
            kind = event.WhichOneof("event")
            if kind == "queued":
                places.append(event.queued.position)
                await client.cancel(ahead.pop().id if len(ahead) > 1 else holder.id)
        assert places[:3] == [4, 3, 2]
        assert places == sorted(places, reverse=True)
        await client.stop_worker(worker.id, force=True)


async def test_two_sessions_take_turns(queen):
    async with client_library.connect(queen.address) as client:
        worker, holder = await held(client, queen)
        jobs = [await client.submit(model=MODEL, prompt="x", max_tokens=1, session="long") for _ in range(4)]
        jobs += [await client.submit(model=MODEL, prompt="x", max_tokens=1, session="late") for _ in range(3)]
        await client.cancel(holder.id)
        for job in jobs:
            await client.watch(job.id).text()
        ended = [await client.get_job(job.id) for job in jobs]
        ended.sort(key=lambda job: job.attempts[-1].dispatch_time.ToNanoseconds())
        assert [job.session_id for job in ended] == ["long", "late", "long", "late", "long", "late", "long"]
        await client.stop_worker(worker.id, force=True)


async def test_a_model_no_device_could_ever_hold_is_refused_for_good(queen):
    async with client_library.connect(queen.address) as client:
        with pytest.raises(client_library.NoCapacity, match="the largest device is mill cpu with") as caught:
            await client.spawn_worker("rbee-tiny", slots=256, context_length=2**24)
        assert (caught.value.reason, caught.value.retry_after_s) == ("INSUFFICIENT_VRAM", None)


async def test_a_job_whose_turn_would_come_too_late_is_refused_at_once(queen):
    async with client_library.connect(queen.address) as client:
        options = {"tokens_per_second": "50", "completion_tokens": "10"}
        worker = await client.spawn_worker(MODEL, slots=1, engine_options=options)
        jobs = await client.submit_batch([("", {"model": MODEL, "prompt": "x"})] * 60)
        await anext(aiter(client.watch(jobs[20])))  # the slot is taken now, and twenty jobs have had it
        with pytest.raises(client_library.NoCapacity, match="a second are served: its turn would come in") as caught:
            await client.infer(model=MODEL, prompt="x", queue_timeout_s=1.0).text()
        assert caught.value.reason == "DEADLINE_UNREACHABLE"
        assert 1.0 <= caught.value.retry_after_s <= 60.0
        assert (await client.submit(model=MODEL, prompt="x", session="other", queue_timeout_s=30.0)).queue_position <= 2
        for job_id in jobs:
            await client.cancel(job_id)
        await client.stop_worker(worker.id, force=True)


async def test_a_job_for_a_model_larger_than_any_machine_is_refused_for_good(own_queen):
    with (own_queen.folder / "models" / "copy.gguf").open("r+b") as file:
        file.truncate(2**42)
    own_queen.start()
    async with client_library.connect(own_queen.address) as client:
        with pytest.raises(client_library.NoCapacity, match="the largest device is mill with") as caught:
            await client.infer(model="copy", prompt="x").text()
    assert (caught.value.reason, caught.value.retry_after_s) == ("INSUFFICIENT_VRAM", None)
