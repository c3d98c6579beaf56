"""Each stage of a job has its limit, and a stalled worker is left for another."""

import json
import os
import signal

import grpc
import pytest

import rbee
from programs import alive, running_queen, wait_for
from programs import rbee as keeper
from rbee.v1 import inference_service_pb2, inference_service_pb2_grpc, job_pb2


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


async def test_a_start_that_takes_too_long_fails_those_who_cannot_wait_and_serves_the_others(tmp_path):
    with running_queen(tmp_path, RBEE_WORKER_ENGINE_OPTION="load_ms=3000") as queen:
        async with rbee.connect(queen.address) as client:
            patient = await client.submit(model="synthetic:slow", prompt="x", max_tokens=2)
            with pytest.raises(
                rbee.TimedOut, match=r"waited 0\.[5-9] s .*still loads .* limit there is 0\.5 s"
            ) as caught:
                await client.infer(model="synthetic:slow", prompt="x", start_timeout_s=0.5).text()
            assert caught.value.reason == "START_TIMED_OUT"
            assert "--start-timeout" in caught.value.message
            assert await client.watch(patient.id).text() == "synthetic tok1"
            assert len((await client.get_job(patient.id)).attempts) == 1


async def test_a_start_nobody_waits_for_any_more_is_given_up(tmp_path):
    with running_queen(tmp_path, "--start-timeout", "1500ms", RBEE_WORKER_ENGINE_OPTION="load_ms=600000") as queen:
        async with rbee.connect(queen.address) as client:
            first = client.infer(model="synthetic:never", prompt="x", start_timeout_s=0.3)
            second = await client.submit(model="synthetic:never", prompt="x")
            for answer, limit in ((first, r"0\.3"), (client.watch(second.id), r"1\.5")):
                with pytest.raises(rbee.TimedOut, match=rf"its limit there is {limit} s"):
                    await answer.text()
            wait_for(lambda: "nobody waits for its start any more" in queen.log, "the start is given up")
            wait_for(
                lambda: not any("worker" in one.cmdline() for one in alive(queen.descendants())), "its process ends"
            )
            wait_for(lambda: json.loads(keeper(queen, "worker", "list", "--json").stdout) == [], "it is forgotten")


async def test_a_model_has_limits_of_its_own_in_the_file(tmp_path):
    file = tmp_path / "queen.toml"
    file.write_text(
        'first_token_timeout = "700ms"\n[models."synthetic:quick".timeouts]\nfirst_token = "300ms"\ntotal = "20s"\n'
    )
    with running_queen(tmp_path, "--config", str(file)) as queen:
        async with rbee.connect(queen.address) as client:
            for model in ("synthetic:quick", "synthetic:other"):
                await client.spawn_worker(model, engine_options={"first_token_ms": "1500", "completion_tokens": "1"})
            for model, limit in (("synthetic:quick", r"0\.3"), ("synthetic:other", r"0\.7")):
                with pytest.raises(rbee.TimedOut, match=rf"the limit is {limit} s"):
                    await client.infer(model=model, prompt="x").text()
            asked = client.infer(model="synthetic:quick", prompt="x", first_token_timeout_s=30.0)
            assert await asked.text() == "synthetic", "what a request asks for wins"


async def test_a_request_may_ask_for_as_much_as_the_queen_allows(tmp_path):
    with running_queen(tmp_path, "--max-job-timeout", "2h") as queen:
        async with rbee.connect(queen.address) as client:
            await client.infer(model="synthetic:long", prompt="x", max_tokens=1, timeout_s=7200).text()
            with pytest.raises(rbee.Invalid, match="above 0 s to 7,200 s, not 7201 s"):
                await client.infer(model="synthetic:long", prompt="x", timeout_s=7201).text()


async def test_a_callers_own_deadline_is_told_apart_from_the_jobs(queen):
    async with rbee.connect(queen.address) as client:
        options = {"tokens_per_second": "5", "completion_tokens": "100000"}
        worker = await client.spawn_worker("synthetic:hurry", slots=1, engine_options=options)
        job = job_pb2.JobSpec(model="synthetic:hurry", prompt="x")
        async with grpc.aio.insecure_channel(queen.address) as channel:
            call = inference_service_pb2_grpc.InferenceServiceStub(channel).Infer(
                inference_service_pb2.InferRequest(job=job), timeout=0.6
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                [message async for message in call]
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with pytest.raises(
            rbee.TimedOut, match=r"not done after 0\.[3-9] s, while .* generated; its limit in all is 0\.3"
        ):
            await client.infer(model="synthetic:hurry", prompt="x", timeout_s=0.3).text()
        await client.stop_worker(worker.id, force=True)
