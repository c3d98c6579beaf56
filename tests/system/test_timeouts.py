"""Each stage of a job has its limit, and a stalled worker is left for another."""

import os
import signal

import pytest

import rbee
from programs import wait_for


async def test_every_stage_has_its_limit_and_the_error_names_it(queen):
    async with rbee.connect(queen.address) as client:
        options = {"tokens_per_second": "20", "completion_tokens": "100000", "first_token_ms": "1500"}
        worker = await client.spawn_worker("synthetic:limits", slots=1, engine_options=options)
        try:
            with pytest.raises(rbee.TimedOut, match=r"no first token for .* limit is 0\.5 s") as caught:
                await client.infer(model="synthetic:limits", prompt="x", first_token_timeout_s=0.5).text()
            assert caught.value.reason == "FIRST_TOKEN_TIMED_OUT"
            holder = await client.submit(model="synthetic:limits", prompt="x")
            with pytest.raises(rbee.TimedOut, match=r"in the queue \(.*taken\); its limit there is 0\.5 s") as caught:
                await client.infer(model="synthetic:limits", prompt="x", queue_timeout_s=0.5).text()
            assert caught.value.reason == "QUEUE_TIMED_OUT"
            await client.cancel(holder.id)
        finally:
            await client.stop_worker(worker.id, force=True)


async def test_a_stalled_worker_is_left_and_the_answer_goes_on_elsewhere(queen):
    async with rbee.connect(queen.address) as client:
        options = {"tokens_per_second": "50", "completion_tokens": "60"}
        one = await client.spawn_worker("synthetic:stall", slots=1, engine_options=options)
        other = await client.spawn_worker("synthetic:stall", slots=1, engine_options=options)
        answer = client.infer(model="synthetic:stall", prompt="x", stall_timeout_s=1.0)
        text, stopped = "", None
        async for piece in answer:
            text += piece.text
            if stopped is None and "tok5" in text:
                (attempt,) = (await client.get_job(answer.job_id)).attempts
                stopped = (await client.get_worker(attempt.worker_id)).id
                os.kill((await client.get_worker(stopped)).pid, signal.SIGSTOP)
        assert text == "synthetic" + "".join(f" tok{n}" for n in range(1, 60))
        assert answer.done.usage.completion_tokens == 60
        job = await client.get_job(answer.job_id)
        assert [attempt.failure.reason for attempt in job.attempts] == ["WORKER_STALLED", ""]
        assert {attempt.worker_id for attempt in job.attempts} == {one.id, other.id}
        wait_for(lambda: f"worker {stopped} is drained and ended" in queen.log, "the stuck worker is reported")
        await client.stop_worker(job.attempts[-1].worker_id, force=True)


async def test_a_limit_in_the_queue_outlives_the_queen(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        options = {"tokens_per_second": "20", "completion_tokens": "100000"}
        await client.spawn_worker("synthetic:held", slots=1, engine_options=options)
        await client.submit(model="synthetic:held", prompt="x")
        waiting = await client.submit(model="synthetic:held", prompt="x", queue_timeout_s=5.0)
    own_queen.kill()
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        with pytest.raises(rbee.TimedOut, match=r"in the queue.*limit there is 5 s"):
            await client.watch(waiting.id).text()
