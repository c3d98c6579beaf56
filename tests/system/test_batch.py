"""A file of prompts becomes jobs once, however often it is handed in, and answers in its own order."""

import json
import os
import pty
import select
import signal
import subprocess
import sys

from programs import rbee, wait_for

SAMPLING = ("--temperature", "0", "--max-tokens", "8")


def test_a_batch_is_handed_in_once_and_collected_in_order(queen, tmp_path):
    file, out = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    prompts = [f"What is the number {n}?" for n in range(1, 41)]
    lines = [{"id": f"q{n}", "prompt": prompt} for n, prompt in enumerate(prompts, start=1)]
    lines[9]["max_tokens"] = 3
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    submit = ("jobs", "submit", str(file), "--model", "rbee-tiny", *SAMPLING)

    told = rbee(queen, *submit, "--no-wait", "--json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert (summary["jobs"], summary["waited"]) == (40, False)
    early = rbee(queen, "jobs", "collect", str(file), "--no-wait")
    assert len(early.stdout.splitlines()) == 40

    def job_ids():
        return [
            json.loads(line)["job_id"] for line in (tmp_path / "questions.jsonl.rbee").read_text().splitlines()[1:41]
        ]

    first = job_ids()
    assert len(set(first)) == 40
    told = rbee(queen, *submit)
    assert told.returncode == 0, told.stderr
    assert told.stdout == f"{summary['batch']}\n"
    assert "40 jobs: 40 complete, 0 failed" in told.stderr
    assert job_ids() == first

    told = rbee(queen, "jobs", "collect", str(file), "-o", str(out))
    assert told.returncode == 0, told.stderr
    assert told.stdout == ""
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["line"], one["id"], one["job_id"]) for one in records] == [
        (n, f"q{n}", job_id) for n, job_id in enumerate(first, start=1)
    ]
    assert records[9]["usage"]["completion_tokens"] == 3
    assert records[9]["finish_reason"] == "length"
    assert all(set(one) == {"line", "id", "job_id", "text", "finish_reason", "usage", "seed"} for one in records)
    assert records[4]["text"] == rbee(queen, "infer", prompts[4], "--model", "rbee-tiny", "--quiet", *SAMPLING).stdout
    shown = json.loads(rbee(queen, "jobs", "show", first[0], "--json").stdout)
    assert (shown["labels"], shown["priority"]) == ({"batch": summary["batch"]}, "PRIORITY_BATCH")


def test_a_batch_of_more_jobs_than_the_queen_keeps_answers_of_loses_none_while_somebody_waits(queen, tmp_path):
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'"Say {n}"\n' for n in range(300)))
    told = rbee(queen, "jobs", "submit", str(file), "--model", "rbee-tiny", "--max-tokens", "2")
    assert told.returncode == 0, told.stderr
    told = rbee(queen, "jobs", "collect", str(file))
    assert told.returncode == 0, told.stderr
    assert [json.loads(line)["line"] for line in told.stdout.splitlines()] == list(range(1, 301))


def test_answers_nobody_waited_for_are_kept(own_queen, tmp_path):
    own_queen.start()
    file = tmp_path / "many.jsonl"
    file.write_text("".join(f'"Say {n}"\n' for n in range(700)))
    pace = ("--engine-option", "tokens_per_second=0", "--engine-option", "completion_tokens=3", "--slots", "64")
    spawned = rbee(own_queen, "worker", "spawn", "synthetic:batch", "--engine", "synthetic", *pace)
    assert spawned.returncode == 0, spawned.stderr
    told = rbee(own_queen, "jobs", "submit", str(file), "--model", "synthetic:batch", "--no-wait")
    assert told.returncode == 0, told.stderr

    def unfinished():
        return json.loads(rbee(own_queen, "jobs", "list", "--queue", "--json").stdout)

    wait_for(lambda: not unfinished(), "all jobs are at rest", 60)
    told = rbee(own_queen, "jobs", "collect", str(file))
    assert told.returncode == 0, told.stderr
    records = [json.loads(line) for line in told.stdout.splitlines()]
    assert [(one["line"], one["usage"]["completion_tokens"]) for one in records] == [(n, 3) for n in range(1, 701)]
    # And so they are after she was killed.
    own_queen.kill()
    own_queen.start()
    (tmp_path / "many.jsonl.rbee").write_text(
        "".join((tmp_path / "many.jsonl.rbee").read_text().splitlines(keepends=True)[:701])
    )
    assert rbee(own_queen, "jobs", "collect", str(file)).stdout == told.stdout


def test_a_failed_line_is_told_and_the_others_are_answered(queen, tmp_path):
    file = tmp_path / "mixed.jsonl"
    file.write_text(json.dumps("x" * 5000) + "\n" + json.dumps("What is a hive?") + "\n")
    ready = rbee(queen, "infer", "x", "--model", "rbee-tiny", "--max-tokens", "1", "--quiet")
    assert ready.returncode == 0, "a worker that can count prompts is there"
    told = rbee(queen, "jobs", "submit", str(file), "--model", "rbee-tiny", *SAMPLING)
    assert told.returncode == 1, told.stderr
    assert "1 complete, 1 failed" in told.stderr
    told = rbee(queen, "jobs", "collect", str(file))
    assert told.returncode == 1
    failed, fine = (json.loads(line) for line in told.stdout.splitlines())
    assert failed["error"]["reason"] == "PROMPT_TOO_LONG"
    assert fine["text"]


def test_ctrl_c_leaves_the_batch_running(queen, tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text('"go on"\n')
    pace = ("--engine-option", "tokens_per_second=20", "--engine-option", "completion_tokens=60")
    spawned = rbee(queen, "worker", "spawn", "synthetic:batch", "--engine", "synthetic", *pace)
    assert spawned.returncode == 0, spawned.stderr
    command = [sys.executable, "-m", "client.cli", "jobs", "submit", str(file), "--model", "synthetic:batch"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "RBEE_QUEEN": queen.address}
    ) as submitting:
        wait_for((tmp_path / "long.jsonl.rbee").exists, "the batch is submitted")
        submitting.send_signal(signal.SIGINT)
        told = submitting.stderr.read()
    assert submitting.returncode == 130, told
    assert f"the jobs go on; come back with: rbee jobs collect {file}" in told
    told = rbee(queen, "jobs", "collect", str(file))
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["usage"]["completion_tokens"] == 60
    assert rbee(queen, "worker", "stop", spawned.stdout.split()[1]).returncode == 0


def test_what_was_handed_in_before_a_bad_line_is_noted_and_the_rest_can_follow(queen, tmp_path):
    file = tmp_path / "half.jsonl"
    lines = [json.dumps(f"Say {n}") for n in range(200)]
    file.write_text("\n".join([*lines, '{"prompt": "x", "model": "nobody-has-it"}']) + "\n")
    submit = ("jobs", "submit", str(file), "--model", "rbee-tiny", "--max-tokens", "1", "--no-wait")
    told = rbee(queen, *submit)
    assert told.returncode == 3, told.stderr
    assert f" of 201 jobs were handed in; go on with the same command: rbee jobs submit {file}" in told.stderr
    header, *noted = (json.loads(line) for line in (tmp_path / "half.jsonl.rbee").read_text().splitlines())
    assert header["jobs"] == len(noted) > 100
    assert header["missing"] == 201 - len(noted)
    collected = rbee(queen, "jobs", "collect", str(file))
    assert collected.returncode == 0, collected.stderr
    assert "more were never handed in" in collected.stderr
    assert [json.loads(line)["job_id"] for line in collected.stdout.splitlines()] == [one["job_id"] for one in noted]
    assert rbee(queen, *submit).returncode == 3
    again = [json.loads(line) for line in (tmp_path / "half.jsonl.rbee").read_text().splitlines()]
    ids = {one["line"]: one["job_id"] for one in again[1 : again[0]["jobs"] + 1]}
    assert all(ids[one["line"]] == one["job_id"] for one in noted), "nothing was handed in twice"


def test_the_bar_is_drawn_on_a_terminal_and_the_jobs_outlive_it(queen, tmp_path):
    file = tmp_path / "terminal.jsonl"
    file.write_text('"go on"\n"and on"\n')
    pace = ("--engine-option", "tokens_per_second=20", "--engine-option", "completion_tokens=80")
    spawned = rbee(queen, "worker", "spawn", "synthetic:terminal", "--engine", "synthetic", *pace)
    assert spawned.returncode == 0, spawned.stderr
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "client.cli", "jobs", "submit", str(file), "--model", "synthetic:terminal"]
    with subprocess.Popen(
        ["setsid", "--ctty", *command],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env={**os.environ, "RBEE_QUEEN": queen.address, "TERM": "xterm", "COLUMNS": "80"},
    ) as submitting:
        os.close(inside)
        shown = b""

        def drawn():
            nonlocal shown
            if select.select([terminal], [], [], 0)[0]:
                shown += os.read(terminal, 65536)
            return b"running" in shown and b"0/2" in shown

        wait_for(drawn, "the bar is drawn")
        os.close(terminal)
        assert submitting.wait(20) == 130
    told = rbee(queen, "jobs", "collect", str(file))
    assert told.returncode == 0, told.stderr
    assert [json.loads(line)["usage"]["completion_tokens"] for line in told.stdout.splitlines()] == [80, 80]
    assert rbee(queen, "worker", "stop", spawned.stdout.split()[1]).returncode == 0
