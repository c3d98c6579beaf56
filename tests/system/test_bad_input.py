"""Bad input gets a clear error with the right status, and nothing is left running."""

import os
import shutil
import subprocess
import sys

import pytest

import rbee
from programs import MODEL, Queen
from programs import rbee as keeper
from rbee.v1 import job_pb2


def infer(queen, *more, model="rbee-tiny"):
    return keeper(queen, "infer", "What is a hive?", "--model", model, *more)


def test_an_unknown_model_is_told_with_the_nearest_names(queen):
    said = infer(queen, model="rbee-tinny")
    assert said.returncode == 3
    assert said.stdout == ""
    assert "rbee-tiny" in said.stderr
    assert "rbee model list" in said.stderr


async def test_a_prompt_over_the_context_is_refused_before_it_becomes_a_job(queen):
    async with rbee.connect(queen.address) as client:
        await client.infer(model="rbee-tiny", prompt="x", max_tokens=1).text()  # a worker that can count is there
        before = [job.id async for job in client.list_jobs()]
        refusal = r"the prompt has 5,\d\d\d tokens, the context holds 2,048"
        with pytest.raises(rbee.Invalid, match=refusal) as caught:
            await client.infer(model="rbee-tiny", prompt="x" * 5000).text()
        assert caught.value.reason == "PROMPT_TOO_LONG"
        with pytest.raises(rbee.Invalid, match=refusal):
            await client.submit(model="rbee-tiny", prompt="x" * 5000)
        assert [job.id async for job in client.list_jobs()] == before
    said = infer(queen, "--system", "x" * 5000)
    assert said.returncode == 2
    assert "the context holds 2,048" in said.stderr


async def test_a_prompt_of_many_bytes_and_few_tokens_is_taken(queen):
    async with rbee.connect(queen.address) as client:
        worker = await client.spawn_worker("synthetic:words", slots=1)
        answer = client.infer(model="synthetic:words", prompt="a-long-word " * 2000, max_tokens=1)
        await answer.text()
        assert answer.done.usage.prompt_tokens == 2000
        await client.stop_worker(worker.id)


async def test_a_worker_refuses_a_prompt_over_its_own_context(queen):
    async with rbee.connect(queen.address) as client:
        worker = await client.spawn_worker("synthetic:small", slots=1, context_length=100)
        answer = client.infer(model="synthetic:small", prompt="word " * 200)
        with pytest.raises(rbee.Invalid, match=r"the prompt has 200 tokens, the context holds 100") as caught:
            [piece async for piece in answer]
        assert caught.value.reason == "PROMPT_TOO_LONG"
        job = await client.get_job(answer.job_id)
        assert job.state == job_pb2.JOB_STATE_FAILED
        assert job.failure.reason == "PROMPT_TOO_LONG"
        assert len(job.attempts) == 1, "it is not tried again"
        await client.stop_worker(worker.id)


async def test_all_bad_parameters_are_told_at_once(queen):
    async with rbee.connect(queen.address) as client:
        with pytest.raises(rbee.Invalid) as caught:
            [piece async for piece in client.infer(model="", prompt="x", temperature=9.0, top_p=0.0)]
        assert {"job.model", "job.sampling.temperature", "job.sampling.top_p"} <= {
            fault.field for fault in caught.value.faults
        }
    said = infer(queen, "--temperature", "9", "--top-p", "0")
    assert said.returncode == 2
    assert "temperature" in said.stderr


def test_a_corrupt_model_file_is_told_with_its_defect(queen, tmp_path):
    truncated = tmp_path / "truncated.gguf"
    truncated.write_bytes(MODEL.read_bytes()[:200_000])
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(os.urandom(5000))
    for file in (truncated, garbage):
        said = infer(queen, model=str(file))
        assert said.returncode == 1, said
        assert str(file) in said.stderr
        assert "cannot be loaded" in said.stderr


def test_a_model_by_path_is_run(queen, tmp_path):
    shutil.copy(MODEL, tmp_path / "elsewhere.gguf")
    said = infer(queen, "--temperature", "0", "--quiet", model=str(tmp_path / "elsewhere.gguf"))
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("A hive is ")


def test_a_missing_file_is_told(queen, tmp_path):
    said = infer(queen, model="file:/no/such/model.gguf")
    assert said.returncode == 3
    assert "/no/such/model.gguf" in said.stderr


def test_a_worker_that_dies_while_loading_is_told_with_its_last_words(queen):
    said = keeper(queen, "worker", "spawn", "synthetic:x", "--engine-option", "tokens_per_second=often")
    assert said.returncode != 0
    assert "tokens_per_second" in said.stderr


def test_jobs_that_wait_for_a_worker_that_cannot_start_fail_with_why(tmp_path):
    queen = Queen(tmp_path, RBEE_WORKER_ENGINE_OPTION="")
    try:
        queen.start()
        model = tmp_path / "models" / "odd.gguf"
        model.parent.mkdir(exist_ok=True)
        data = bytearray(MODEL.read_bytes())
        # A file whose tensors are all there but whose architecture llama.cpp does not know.
        place = data.find(b"general.architecture") + len(b"general.architecture") + 12
        assert data[place : place + 5] == b"llama"
        data[place : place + 5] = b"lhama"
        for key in (b"llama.",):
            data = data.replace(key, b"lhama.")
        model.write_bytes(bytes(data))
        said = keeper(queen, "infer", "Hi", "--model", str(model))
        assert said.returncode != 0
        assert "lhama" in said.stderr
        assert queen.stop() == 0
    finally:
        queen.end_everything()


def test_an_unreachable_queen_is_told_with_what_starts_one(tmp_path):
    nobody = Queen(tmp_path)
    said = infer(nobody)
    assert said.returncode == 4
    assert "rbee up" in said.stderr


def test_a_queen_killed_while_the_keeper_streams(own_queen):
    own_queen.start()
    spawned = keeper(own_queen, "worker", "spawn", "synthetic:k", "--engine-option", "completion_tokens=100000")
    assert spawned.returncode == 0, spawned.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "client.cli", "--queen", own_queen.address, "infer", "--model", "synthetic:k", "hi"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "RBEE_REATTACH": "0.5"},
    )
    assert process.stdout.read(14) == b"synthetic tok1"
    own_queen.kill()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 4
    assert out.endswith(b"\n"), "the line that was open is ended"
    assert b"rbee up" in err
    assert b"Traceback" not in err


def test_a_database_that_cannot_be_written(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "queen.db").mkdir()
    queen = Queen(tmp_path)
    assert queen.launch().wait(20) == 1
    assert "queen.db cannot be opened for writing" in queen.log
    assert "Traceback" not in queen.log


def test_bad_settings_are_told_all_at_once(tmp_path):
    queen = Queen(tmp_path, "--log-format", "xml", RBEE_QUEEN_HIVE_LISTEN="nowhere")
    assert queen.launch().wait(20) == 64
    assert "--log-format" in queen.log
    assert "RBEE_QUEEN_HIVE_LISTEN" in queen.log


async def test_what_does_not_exist_is_not_found(queen):
    async with rbee.connect(queen.address) as client:
        for call in (
            client.get_job("job-none"),
            client.cancel("job-none"),
            client.get_worker("w-none"),
            client.stop_worker("w-none"),
            client.get_hive("none"),
            client.stop_hive("none"),
            client.start_hive("none"),
        ):
            with pytest.raises(rbee.NotFound, match=r"rbee .* list"):
                await call
