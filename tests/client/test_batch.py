"""A batch file becomes jobs: what its lines may say, which are refused, and what is noted beside it."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client import batch
from client.cli.app import run
from client.job import JobOptions
from wire import errors

DEFAULTS: JobOptions = {"model": "m", "temperature": 0.5, "labels": {"team": "a"}, "max_tokens": None, "grammar": "g"}


def written(folder: Path, *lines: Any) -> Path:
    file = folder / "file.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_a_line_speaks_before_the_command_line(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "b"}]
    file = written(
        tmp_path,
        '"a"',
        "",
        {"id": "two", "messages": chat, "temperature": 0, "labels": {"x": "y"}, "json_schema": {"type": "object"}},
        {"id": 3, "prompt": "c", "priority": "interactive", "model": "other", "temperature": None},
    )
    found = batch.read(file, DEFAULTS)
    assert [(one.line, one.id) for one in found.lines] == [(1, None), (3, "two"), (4, 3)]
    first, second, third = (one.options for one in found.lines)
    assert first == {
        "model": "m",
        "prompt": "a",
        "priority": "batch",
        "temperature": 0.5,
        "labels": {"team": "a", "batch": found.id},
        "grammar": "g",
    }
    assert (second["messages"], second["temperature"], "grammar" in second) == (chat, 0, False)
    assert second["labels"] == {"team": "a", "x": "y", "batch": found.id}
    assert (third["priority"], third["model"], third["temperature"]) == ("interactive", "other", 0.5)


def test_the_same_file_and_options_are_the_same_requests(tmp_path: Path) -> None:
    file = written(tmp_path, '"a"', '"a"')
    ids = [one.request_id for one in batch.read(file, DEFAULTS).lines]
    assert len(set(ids)) == 2
    assert all(len(one) == 32 for one in ids)
    assert [one.request_id for one in batch.read(file, DEFAULTS).lines] == ids
    assert not set(ids) & {one.request_id for one in batch.read(file, {"model": "n"}).lines}
    name = batch.read(file, DEFAULTS).id
    assert len(name) == 12
    assert batch.read(written(tmp_path, '"b"', '"a"'), DEFAULTS).id != name


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "a JSON object such as"),
        ("[1]", "a JSON object such as"),
        ("{}", "exactly one of prompt and messages"),
        ({"prompt": "a", "messages": []}, "exactly one of prompt and messages"),
        ({"promt": "a"}, "promt: no such option; prompt is meant?"),
        ({"prompt": 5}, "prompt: a text"),
        ({"prompt": "a", "id": [1]}, "id: a text or a whole number"),
        ({"prompt": "a", "id": "twice"}, "line 1 has 'twice' too"),
        ({"prompt": "a", "temperature": 9}, "temperature: 0 to 2, not 9"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens: a number within its range"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens: a number"),
        ({"prompt": "a", "raw": "yes"}, "raw: true or false"),
        ({"prompt": "a", "priority": "high"}, "priority: interactive or batch"),
        ({"prompt": "a", "stop": "x"}, "stop: a list of texts"),
        ({"prompt": "a", "labels": {"a": 1}}, "labels: an object of texts"),
        ({"prompt": "a", "timeout_s": 1e9}, "total: above 0 s"),
        ({"prompt": "a", "start_timeout_s": 0}, "start: above 0 s"),
        ({"messages": [{"role": "bee", "content": "a"}]}, "role: system, user, assistant or tool"),
        ({"messages": [{"role": "user"}]}, "messages: a list of"),
        ({"messages": []}, "at least one message"),
        ({"prompt": "\ud800"}, "surrogate"),
    ],
)
def test_a_bad_line_is_told_with_what_was_expected(tmp_path: Path, line: Any, told: str) -> None:
    file = written(tmp_path, {"prompt": "a", "id": "twice"}, line)
    with pytest.raises(errors.Invalid) as caught:
        batch.read(file, {"model": "m"})
    (fault,) = caught.value.faults
    assert fault.field == "line 2"
    assert told in fault.expected


def test_all_bad_lines_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, '"fine"', *[{"prompt": "a", "top_p": 7, "temperature": 9}] * 25)
    assert run(["jobs", "submit", str(file), "--model", "m"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "has 25 bad lines, nothing was submitted" in err
    assert "  line 2: temperature: 0 to 2, not 9.0; top_p: above 0 to 1, not 7.0" in err
    assert "  line 21: " in err
    assert "  line 22: " not in err
    assert "  and 5 more: bad lines" in err
    assert err.endswith("see: rbee jobs submit --help\n")


def test_a_line_that_is_no_utf_8_and_a_file_of_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf"a"\r\n"\xff"\n')
    with pytest.raises(errors.Invalid, match=r"1 bad line, nothing was submitted: line 2: text in UTF-8"):
        batch.read(file, {"model": "m"})
    file.write_bytes(b"\n \n")
    with pytest.raises(errors.Invalid, match=r"holds no prompts.*rbee jobs submit .*a\.jsonl --model m"):
        batch.read(file, {"model": "m"})


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["jobs", "collect", "{folder}/file.jsonl"], 3, "rbee jobs submit {folder}/file.jsonl --model MODEL"),
        (["jobs", "submit", "{folder}/absent.jsonl", "--model", "m"], 2, "there is no file"),
        (["jobs", "list", "--watch", "--json"], 2, "--watch"),
    ],
)
def test_errors_say_what_helps(
    tmp_path: Path, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, '"a"')
    assert run([argument.format(folder=tmp_path) for argument in arguments]) == code
    assert told.format(folder=tmp_path) in capsys.readouterr().err


def test_the_manifest_keeps_jobs_and_answers_and_survives_a_torn_line(tmp_path: Path) -> None:
    file = written(tmp_path, '"a"', '"b"')
    entries = [batch.Entry(1, None, "job-1"), batch.Entry(2, "b", "job-2")]
    manifest = batch.Manifest(file, "cafe", "m", entries)
    manifest.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.jsonl", "file.jsonl.rbee"]
    with manifest.path.open("a") as torn:
        torn.write('{"line": 1, "id": null, "job')
    with manifest.keeper() as opened:
        manifest.keep(entries[0].record(error={"reason": "R", "message": "m"}), opened)
        manifest.keep(entries[1].record(text="said"), opened)
        manifest.keep(entries[1].record(text="said again"), opened)
    found = batch.load(file)
    assert (found.batch, found.model, list(found.entries)) == ("cafe", "m", entries)
    assert found.answers == {"job-2": entries[1].record(text="said")}
    manifest.path.write_text('{"batch": "cafe", "model": "m", "jobs": 2}\n')
    with pytest.raises(errors.WrongState, match=r"damaged; write it anew with: rbee jobs submit"):
        batch.load(file)


def test_records_go_on_in_the_order_of_the_lines() -> None:
    seen: list[int] = []
    ordered = batch.InOrder([batch.Entry(n, None, "") for n in (1, 2, 4)], lambda record: seen.append(record["line"]))
    for line, so_far in ((4, []), (1, [1]), (2, [1, 2, 4])):
        ordered.add({"line": line})
        assert seen == so_far


async def test_a_full_queen_and_one_that_goes_away_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    full = errors.NoCapacity("full", "QUEUE_FULL", retry_after_s=7.0)
    troubles: list[Any] = [{1: full}, errors.Unreachable("gone")]
    asked: list[int] = []

    async def submit_batch(jobs: Any) -> Any:
        asked.append(len(jobs))
        trouble = troubles.pop(0) if troubles else {}
        if isinstance(trouble, errors.RbeeError):
            raise trouble
        return [trouble.get(place, f"job-{request_id}") for place, (request_id, _) in enumerate(jobs)]

    queen: Any = SimpleNamespace(submit_batch=submit_batch)
    found = batch.read(written(tmp_path, '"a"', '"b"', '"c"'), {"model": "m"})
    manifest = await batch.submit(queen, found, reattach_s=1.0)
    assert [entry.job_id for entry in manifest.entries] == [f"job-{one.request_id}" for one in found.lines]
    assert paused == [7.0, 0.1]
    assert asked == [3, 1, 1]
    assert batch.load(found.file).entries == manifest.entries
    troubles += [errors.Unreachable("nobody there")]
    with pytest.raises(errors.Unreachable, match="nobody"):
        await batch.submit(queen, found, reattach_s=1.0)
    troubles += [{2: errors.NotFound("no such model")}]
    with pytest.raises(errors.NotFound, match="no such model"):
        await batch.submit(queen, found, reattach_s=1.0)
    assert paused == [7.0, 0.1]


def test_portions_fit_a_call(tmp_path: Path) -> None:
    lines = ["x" * 400_000] * 5 + ["y" * 2_000_000] + ["z"] * 600
    found = batch.read(written(tmp_path, *(json.dumps(line) for line in lines)), {"model": "m"})
    portions = list(batch._portions(found.lines))
    assert [len(portion) for portion in portions] == [2, 2, 1, 1, 256, 256, 88]
    assert [asked.line for portion in portions for asked in portion] == list(range(1, 607))
