"""The keeper and the library against the real programs and the real model."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rbee
from client.cli.app import run
from programs import wait_for
from rbee.v1 import generation_pb2, job_pb2

from .conftest import MODELS, SLOW, Keeper

QUESTION = "What is a hive?"
ASK = ("infer", QUESTION, "--temperature", "0")


@pytest.fixture(scope="module")
def answer(cluster: Keeper) -> str:
    """The model's answer to the question, as `--quiet` prints it."""
    result = cluster.run(*ASK, "--quiet")
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.startswith("A hive ")
    return result.stdout


@pytest.fixture
def here(cluster: Keeper, monkeypatch: pytest.MonkeyPatch) -> Keeper:
    """Lets `run` in this process talk to the cluster."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def jobs_of(keeper: Keeper) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(keeper.ok("jobs", "list", "--json"))
    return found


def test_answer_on_stdout_everything_else_on_stderr(cluster: Keeper, answer: str) -> None:
    result = cluster.run(*ASK)
    assert result.returncode == 0
    assert result.stdout == f"{answer}\n"
    decision, figures = result.stderr.splitlines()[-2:]
    assert decision.startswith("→ worker ")
    assert " on hive " in decision
    assert "rbee-tiny" in figures
    assert "first token after" in figures
    assert "\x1b" not in result.stderr


def test_json_is_one_event_per_line(here: Keeper, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*ASK, "--json", "--logprobs", "1"]) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["tokens"]["text"] for event in events if "tokens" in event) == answer
    assert all(len(event["tokens"]["logprobs"]) == event["tokens"]["count"] for event in events if "tokens" in event)
    assert events[-1]["done"]["finish_reason"] == "FINISH_REASON_STOP"
    assert len({event["job_id"] for event in events}) == 1


def test_question_may_be_piped_and_the_model_be_a_file(cluster: Keeper, answer: str) -> None:
    file = str(MODELS / "rbee-tiny.gguf")
    result = cluster.run("infer", "--model", file, "--temperature", "0", "--quiet", piped=f"{QUESTION}\n")
    assert result.stdout == answer


def test_every_option_is_understood(here: Keeper, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grammar = tmp_path / "digits.gbnf"
    grammar.write_text("root ::= [0-9]+")
    numbers = "-n 8 -t 1.5 --top-p 0.9 --top-k 0 --min-p 0 --repetition-penalty 1.1 --presence-penalty 1 "
    numbers += "--frequency-penalty -1 --seed 7 --timeout 60 --priority batch --session s --label team=a --no-failover"
    command = ["infer", "count", *numbers.split(), "--system", "be brief", "--stop", "x", "--grammar", str(grammar)]
    assert run([*command, "--quiet"]) == 0
    first = capsys.readouterr().out
    assert first.isdigit()
    assert run([*command, "--quiet"]) == 0
    assert capsys.readouterr().out == first
    newest = jobs_of(here)[0]
    assert newest["labels"] == {"team": "a"}
    assert newest["priority"] == "PRIORITY_BATCH"
    assert newest["session_id"] == "s"
    assert newest["seed"] == 7


def test_raw_prompt_and_json_schema(here: Keeper, capsys: pytest.CaptureFixture[str]) -> None:
    schema = (
        '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}'
    )
    assert run(["infer", "--raw", "hive: ", "--json-schema", schema, "--quiet", "-n", "40"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out)["a"], bool)


def test_ctrl_c_cancels_the_job_and_keeps_what_was_printed(cluster: Keeper) -> None:
    asking = cluster.start("infer", "go on", "--model", SLOW)
    assert asking.stdout is not None
    begun = asking.stdout.read(14)
    asking.send_signal(signal.SIGINT)
    rest, err = asking.communicate(timeout=10)
    assert asking.returncode == 130
    assert begun.startswith("synthetic tok1")
    assert rest.endswith("\n")
    assert "cancelled job" in err.splitlines()[-1]
    assert jobs_of(cluster)[0]["state"] == "JOB_STATE_CANCELLED"


def test_ctrl_c_leaves_a_detached_job_alone(cluster: Keeper) -> None:
    asking = cluster.start("infer", "go on", "--model", SLOW, "--detach", "--json")
    assert asking.stdout is not None
    job_id = json.loads(asking.stdout.readline())["job_id"]
    asking.stdout.readline()
    asking.send_signal(signal.SIGINT)
    asking.communicate(timeout=10)
    assert asking.returncode == 130
    assert jobs_of(cluster)[0]["state"] in ("JOB_STATE_DISPATCHED", "JOB_STATE_RUNNING")
    assert cluster.ok("jobs", "cancel", job_id) == f"{job_id} cancelled\n"


@pytest.mark.parametrize("how", ["killed", "pipe closed"])
def test_a_keeper_that_goes_away_frees_its_slot_within_a_second(cluster: Keeper, how: str) -> None:
    with rbee.connect_sync(cluster.address) as queen:

        def free_slots() -> int:
            return sum(worker.slots_available for worker in queen.workers() if worker.model == SLOW)

        before = free_slots()
        asking = cluster.start("infer", "go on", "--model", SLOW)
        assert asking.stdout is not None
        asking.stdout.read(14)
        assert free_slots() == before - 1
        if how == "killed":
            asking.kill()
        asking.stdout.close()
        wait_for(lambda: free_slots() == before, "the slot is free again", 1)
    assert asking.stderr is not None
    told = asking.stderr.read()
    asking.stderr.close()
    assert asking.wait(timeout=10) != 0
    assert "error" not in told
    assert "Traceback" not in told


def test_submit_then_watch_all_or_after_a_sequence(
    here: Keeper, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["jobs", "submit", QUESTION, "--temperature", "0"]) == 0
    job_id = capsys.readouterr().out.strip()
    assert run(["jobs", "watch", job_id, "--quiet"]) == 0
    assert capsys.readouterr().out == answer
    assert run(["jobs", "watch", job_id, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    half = len(events) // 2
    assert run(["jobs", "watch", job_id, "--after", str(half), "--quiet"]) == 0
    assert capsys.readouterr().out == "".join(event["tokens"]["text"] for event in events[half:] if "tokens" in event)


def test_show_tells_tries_usage_and_decision(here: Keeper, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "submit", "hi", "-n", "2", "--json"]) == 0
    job_id = json.loads(capsys.readouterr().out)["id"]
    assert run(["jobs", "watch", job_id, "--quiet"]) == 0
    capsys.readouterr()
    assert run(["jobs", "show", job_id]) == 0
    shown = capsys.readouterr().out
    for part in (job_id, "complete", "2 out", "length", "dispatch", "CANDIDATE", "chosen", "platform"):
        assert part in shown
    assert run(["jobs", "show", job_id, "--json"]) == 0
    job = json.loads(capsys.readouterr().out)
    assert job["usage"]["completion_tokens"] == 2
    assert [candidate["worker_id"] for candidate in job["decision"]["candidates"]]


@pytest.mark.parametrize("noun", ["jobs", "hive", "worker", "model"])
def test_every_list_is_a_table_and_an_array(
    here: Keeper, answer: str, noun: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([noun, "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    ids = [item.get("id") or item["name"] for item in listed]
    assert ids
    assert run([noun, "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("ID ")
    assert [row.split()[0] for row in rows] == ids


def test_status_at_a_glance(here: Keeper, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["queen"] == {"address": here.address, "serving": True}
    assert told["jobs"]["queued"] == 0
    assert {worker["model"] for worker in told["workers"]} == {"rbee-tiny", SLOW}
    assert run(["status"]) == 0
    shown = capsys.readouterr().out
    for part in (here.address, "healthy", "cpu", told["workers"][0]["id"], told["hives"][0]["id"]):
        assert part in shown
    assert run(["hive", "show", told["hives"][0]["id"]]) == 0
    assert "rbee-tiny" in capsys.readouterr().out
    assert run(["model", "show", "rbee-tiny"]) == 0
    assert "llama" in capsys.readouterr().out


def test_worker_spawn_and_stop(here: Keeper, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worker", "spawn", "synthetic:brief", "--engine", "synthetic", "--slots", "3", "--json"]) == 0
    worker = json.loads(capsys.readouterr().out)
    assert worker["slots_total"] == 3
    assert run(["worker", "stop", worker["id"]]) == 0
    assert run(["worker", "stop", worker["id"]]) == 3
    assert capsys.readouterr().err.count("rbee worker list") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["infer", "hi", "--model", "rbee-tin"], 3, "rbee-tiny"),
        (["infer", "hi", "--top-p", "3", "--temperature", "5"], 2, "job.sampling.temperature"),
        (["jobs", "show", "nope"], 3, "rbee jobs list"),
        (["jobs", "watch", "nope"], 3, "rbee jobs list"),
        (["hive", "show", "nope"], 3, "rbee hive list"),
        (["model", "show", "nope"], 3, "rbee model list"),
    ],
)
def test_errors_say_what_helps(
    here: Keeper, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) <= 4


def test_up_again_finds_all_serving(cluster: Keeper) -> None:
    assert "serves already" in cluster.ok("up", "--detach")
    other = cluster.run("up", "--detach", "--listen", "127.0.0.1:1")
    assert other.returncode == 1
    assert "rbee down" in other.stderr


async def test_the_library_in_full(cluster: Keeper, answer: str) -> None:
    async with rbee.connect(cluster.address) as queen:
        streamed = queen.infer(model="rbee-tiny", prompt=QUESTION, temperature=0)
        assert "".join([piece.text async for piece in streamed]) == answer
        assert streamed.done is not None
        assert streamed.done.usage.completion_tokens > 10
        assert streamed.done.finish_reason == generation_pb2.FINISH_REASON_STOP
        job = await queen.get_job(streamed.job_id)
        assert job.state == job_pb2.JOB_STATE_COMPLETE
        said = queen.infer(model="rbee-tiny", messages=[{"role": "user", "content": QUESTION}], temperature=0)
        assert await said.text() == answer
        submitted = await queen.submit(model=SLOW, prompt="go on", request_id="once")
        assert (await queen.submit(model=SLOW, prompt="go on", request_id="once")).id == submitted.id
        assert (await queen.cancel(submitted.id)).state == job_pb2.JOB_STATE_CANCELLED
        with pytest.raises(rbee.Cancelled) as caught:
            await queen.watch(submitted.id).text()
        assert caught.value.reason == "JOB_CANCELLED"
        paged = [job.id async for job in queen.list_jobs(page_size=2)]
        assert paged == [job.id async for job in queen.list_jobs()]
        assert (await queen.resolve_model("rbee-tiny")).name == "rbee-tiny"


def test_the_synchronous_twin(cluster: Keeper, answer: str) -> None:
    with rbee.connect_sync(cluster.address) as queen:
        streamed = queen.infer(model="rbee-tiny", prompt=QUESTION, temperature=0)
        assert "".join(str(piece) for piece in streamed) == answer
        assert streamed.done is not None
        for _ in queen.infer(model=SLOW, prompt="go on"):
            break
        newest = next(iter(queen.list_jobs()))
        wait_for(lambda: queen.get_job(newest.id).state == job_pb2.JOB_STATE_CANCELLED, "leaving cancels the job", 2)
        with pytest.raises(rbee.NotFound):
            queen.get_worker("nope")


def test_ctrl_c_in_a_synchronous_program_cancels_the_job(cluster: Keeper) -> None:
    script = f"""
import rbee
with rbee.connect_sync({cluster.address!r}) as queen:
    try:
        for piece in queen.infer(model={SLOW!r}, prompt="go on"):
            print(piece, flush=True)
    except KeyboardInterrupt:
        print(next(iter(queen.list_jobs())).state)
"""
    program = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    program.stdout.readline()
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=10)
    assert out.split()[-1] == str(job_pb2.JOB_STATE_CANCELLED)
    assert err == ""


def test_hive_stop_and_start(cluster: Keeper) -> None:
    [hive] = json.loads(cluster.ok("hive", "list", "--json"))
    assert cluster.ok("hive", "stop", hive["id"]) == f"hive {hive['id']} stopped\n"
    assert json.loads(cluster.ok("worker", "list", "--json")) == []
    assert "healthy" in cluster.ok("hive", "start")
