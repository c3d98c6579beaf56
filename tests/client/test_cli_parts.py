"""The keeper's own small decisions: what an argument means, how an error reads, how a number is put into words."""

import ast
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from google.protobuf.timestamp_pb2 import Timestamp

from client.cli import jobs, policy, status
from client.cli.app import run, with_globals_first
from client.cli.job_options import file_or_text, model_reference, pairs, prompt_text
from client.cli.queen_process import DataDir, environment_of
from client.render import trouble, words
from rbee.v1 import decision_pb2, generation_pb2, job_pb2, policy_pb2, policy_service_pb2
from wire import errors


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("rbee-tiny", "rbee-tiny"),
        ("plain", "plain"),
        ("hf:org/repo::a.gguf", "hf:org/repo::a.gguf"),
        ("file:/models/a.gguf", "file:/models/a.gguf"),
        ("/models/../models/a.gguf", "file:/models/a.gguf"),
        ("a.gguf", "file:{folder}/a.gguf"),
        ("sub/b", "file:{folder}/sub/b"),
        ("sub/../a.gguf", "file:{folder}/a.gguf"),
        ("absent.gguf", "absent.gguf"),
        ("org/name", "org/name"),
    ],
)
def test_a_file_becomes_a_reference_and_a_name_stays(tmp_path: Path, given: str, wanted: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.gguf", "sub/b", "plain"):
        (tmp_path / name).touch()
    assert model_reference(given, tmp_path) == wanted.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("given", "raw", "wanted"),
    [("-", False, "häh?"), (None, False, "häh?"), (None, True, "häh?\n"), ("said", False, "said")],
)
def test_prompt_comes_from_the_argument_or_the_pipe(
    monkeypatch: pytest.MonkeyPatch, given: str | None, raw: bool, wanted: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("häh?\n".encode())))
    assert prompt_text(given, raw=raw) == wanted


@pytest.mark.parametrize(("piped", "told"), [(b"\xff", "not UTF-8"), (b"\n", "empty")])
def test_a_prompt_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, piped: bytes, told: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
    with pytest.raises(typer.BadParameter, match=told):
        prompt_text("-", raw=False)


def test_a_schema_is_a_file_or_the_text_itself(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "array"}')
    assert file_or_text(str(file), "{", "--json-schema") == '{"type": "array"}'
    assert file_or_text('{"type": "object"}', "{", "--json-schema") == '{"type": "object"}'
    assert file_or_text(None, "{", "--json-schema") is None
    with pytest.raises(typer.BadParameter, match=r"absent\.json"):
        file_or_text("absent.json", "{", "--json-schema")


def test_labels_keep_what_follows_the_first_equals_sign() -> None:
    assert pairs(["a=b=c", "d="], "--label") == {"a": "b=c", "d": ""}
    with pytest.raises(typer.BadParameter, match="KEY=VALUE"):
        pairs(["a"], "--label")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["status", "--queen", "h:1"], ["--queen", "h:1", "status"]),
        (["jobs", "list", "--queen=h:1", "--json"], ["--queen=h:1", "jobs", "list", "--json"]),
        (["infer", "--", "--queen", "h:1"], ["infer", "--", "--queen", "h:1"]),
        (["status", "--queen"], ["--queen", "status"]),
    ],
)
def test_global_options_may_follow_the_command(given: list[str], wanted: list[str]) -> None:
    assert with_globals_first(given) == wanted


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Internal("x"), 1),
        (errors.Cancelled("x", "JOB_CANCELLED"), 1),
        (errors.Unreachable("x", "WORKER_LOST"), 1),
        (errors.Invalid("x"), 2),
        (errors.NotFound("x", "JOB_NOT_FOUND"), 3),
        (errors.Unreachable("x", "QUEEN_UNREACHABLE"), 4),
        (errors.Unreachable("x", "QUEEN_LOST"), 4),
        (errors.NoCapacity("x", "QUEUE_FULL"), 5),
        (errors.Unreachable("x", "NO_HIVES", retry_after_s=1), 5),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: errors.RbeeError, code: int) -> None:
    assert trouble.exit_code(error) == code
    assert code in trouble.EXIT_CODES


def test_bad_fields_are_told_one_per_line_with_the_remedy() -> None:
    error = errors.invalid([errors.FieldFault("job.a", "1 to 2"), errors.FieldFault("job.b", "3: or so")])
    assert trouble.lines(error) == [
        "the request has 2 bad fields",
        "  job.a: 1 to 2",
        "  job.b: 3: or so",
        "see: rbee infer --help",
    ]


def test_retry_time_and_job_are_told() -> None:
    error = errors.NoCapacity("the queue is full", "SOMETHING", retry_after_s=4, metadata={"job_id": "j1"})
    assert trouble.lines(error) == ["the queue is full", "try again in 4 s", "see: rbee jobs show j1"]


def test_a_remedy_in_the_message_is_not_repeated() -> None:
    error = errors.NotFound("no model 'x'; see: rbee model list", "MODEL_NOT_FOUND")
    assert trouble.lines(error) == ["no model 'x'; see: rbee model list"]


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.0354, "35 ms"), (1.94, "1.9 s"), (42, "42 s"), (180, "3 min"), (7200, "2 h"), (400_000, "5 d")],
)
def test_spans_in_words(seconds: float, wanted: str) -> None:
    assert words.span(seconds) == wanted


def test_moments_sizes_and_states_in_words() -> None:
    assert words.ago(Timestamp(seconds=1000), 1180) == "3 min ago"
    assert words.ago(Timestamp(seconds=1000), 1000.2) == "now"
    assert words.ago(Timestamp(), 1000) == "-"
    assert [words.size(count) for count in (812, 3_900_000, 41_000_000_000)] == ["812 B", "3.9 MB", "41 GB"]
    assert [words.memory(count) for count in (850, 24_064)] == ["850 MB", "23.5 GB"]
    assert [words.amount(count) for count in (812, 1_900_000, 70_000_000_000)] == ["812", "1.9 M", "70 B"]
    assert words.state(job_pb2.Job(state=job_pb2.JOB_STATE_QUEUED), "state") == "queued"
    assert words.state(job_pb2.Job(), "finish_reason") == "-"
    assert (
        words.state(job_pb2.Job(finish_reason=generation_pb2.FINISH_REASON_TOOL_CALLS), "finish_reason") == "tool calls"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["infer", "hi"], "--model"),
        (["infer", "hi", "--model", "m", "--label", "x"], "KEY=VALUE"),
        (["infer", "hi", "--model", "m", "--max-tokens", "many"], "--max-tokens"),
        (
            ["infer", "hi", "--model", "m", "--max-tokens", "-1", "--temperature", "9"],
            "job.sampling.temperature: 0 to 2",
        ),
        (["jobs", "lst"], "Did you mean 'list'"),
        (["up", "--listen", "127.0.0.1:0"], "--listen"),
        (["status", "--queen", "nowhere"], "host:port"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.delenv("RBEE_MODEL", raising=False)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert told in err


def test_unreachable_queen_exits_4_with_the_remedy(capsys: pytest.CaptureFixture[str], unused_tcp_port: int) -> None:
    assert run(["status", "--queen", f"127.0.0.1:{unused_tcp_port}"]) == 4
    assert capsys.readouterr().err == (
        f"error: no queen answers at 127.0.0.1:{unused_tcp_port}; start one with: rbee up\n"
    )


def test_down_with_nothing_running(tmp_path: Path, capsys: pytest.CaptureFixture[str], unused_tcp_port: int) -> None:
    assert run(["down", "--queen", f"127.0.0.1:{unused_tcp_port}", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing to stop\n"


def test_a_pid_given_out_anew_is_not_taken_for_the_queen(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        data.note(other.pid)
        assert data.running() is None
        assert not data.pid_file.exists()
        assert other.poll() is None
        other.communicate(b"\n")


def test_model_directories_are_handed_over_as_absolute_paths(tmp_path: Path) -> None:
    assert environment_of([]) == {}
    assert environment_of([tmp_path, Path("models")]) == {"RBEE_MODEL_DIR": f"{tmp_path}:{Path.cwd() / 'models'}"}


def test_help_explains_every_command_option_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    command = typer.main.get_command(typer_app())
    told = explained(command)
    assert {"rbee infer --top-p", "rbee worker spawn --slots", "rbee up --model-dir"} <= told.keys()
    assert [name for name, text in told.items() if not text] == []
    assert run(["infer", "--help"]) == 0
    assert "Default: 0.95." in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert run(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for code in trouble.EXIT_CODES:
        assert f"{code} " in shown


def typer_app() -> typer.Typer:
    from client.cli.app import app

    return app


def explained(command: object, path: str = "rbee") -> dict[str, str]:
    """Returns the help text of each command, argument and option below a command."""
    found = {path: getattr(command, "help", None) or ""}
    for parameter in command.params:  # type: ignore[attr-defined]
        found[f"{path} {parameter.opts[0]}"] = getattr(parameter, "help", None) or ""
    for name, child in getattr(command, "commands", {}).items():
        found |= explained(child, f"{path} {name}")
    return found


def test_import_rbee_and_help_stay_light() -> None:
    heavy = ["grpc", "google.protobuf", "opentelemetry", "asyncio", "psutil", "rich.live"]
    for program in ("import rbee", "import client.cli"):
        script = f"{program}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
        loaded = json.loads(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout)
        assert [name for name in heavy if name in loaded] == []


def test_the_public_face_is_whole() -> None:
    import rbee

    tree = ast.parse(Path(rbee.__file__).read_text(encoding="utf-8"))
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(rbee.__all__) <= typed
    assert all(getattr(rbee, name) is not None for name in rbee.__all__)
    assert rbee.NotFound is errors.NotFound
    with pytest.raises(AttributeError, match="queenbee"):
        _ = rbee.queenbee  # type: ignore[attr-defined]


def test_candidates_that_are_not_named_are_counted() -> None:
    decision = decision_pb2.Decision(
        action=decision_pb2.DECISION_ACTION_DISPATCH,
        worker_id="w1",
        hive_id="mill",
        candidates=[
            decision_pb2.Candidate(worker_id="w1", hive_id="mill"),
            decision_pb2.Candidate(alike=1200, reject_reason="all 4 slots are taken"),
            decision_pb2.Candidate(alike=3),
        ],
    )
    assert jobs._candidate_rows(decision) == [
        ["w1", "mill", words.NOTHING, "chosen"],
        ["1,200 more", words.NOTHING, words.NOTHING, "all 4 slots are taken"],
        ["3 more", words.NOTHING, words.NOTHING, "eligible"],
    ]


def test_a_problem_is_shown_with_its_line_and_a_mark_below_its_column() -> None:
    problems = [
        policy_pb2.PolicyProblem(line=2, column=9, message="unknown", source_line="\treturn dispach()", fatal=True),
        policy_pb2.PolicyProblem(line=3, message="odd", source_line="end"),
        policy_pb2.PolicyProblem(message="waits for ever", fatal=True),
    ]
    assert list(policy.problem_lines(problems, Path("a/mine.lua"))) == [
        "a/mine.lua:2:9: unknown",
        "    \treturn dispach()",
        "    \t       ^",
        "a/mine.lua:3: warning: odd",
        "    end",
        "a/mine.lua: waits for ever",
    ]


@pytest.mark.parametrize(("file", "name"), [("Night Batch.lua", "night-batch"), ("a.b.yaml", "a-b"), ("_x_.lua", "x")])
def test_a_policy_is_named_after_its_file(file: str, name: str) -> None:
    assert policy.name_of(Path(file)) == name


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "no policy decides: the queen runs with --scheduler simple"),
        ({"policy": {"name": "platform"}}, "policy platform decides"),
        (
            {"policy": {"name": "mine", "version": "1.0.1"}, "failures": 2, "last_failure": "error: oh"},
            "policy mine 1.0.1 decides|  2 failures, the newest: error: oh",
        ),
        (
            {"policy": {"name": "mine", "suspension": "error: oh"}, "failures": 3, "last_failure": "error: oh"},
            (
                "policy mine is suspended, the platform policy decides: error: oh"
                "|  mend it and save it, or activate it again: rbee policy activate mine"
            ),
        ),
        (
            {
                "policy": {"name": "platform"},
                "last_failure": "mine 1.0.0 cannot be used: oh",
                "protections": ["a", "b"],
            },
            "policy platform decides|  mine 1.0.0 cannot be used: oh|policies run in a sandbox: a, b",
        ),
        (
            {"policy": {"name": "p"}, "faulty_files": [{"file_name": "m.lua", "message": "m.lua:1: oh"}]},
            "policy p decides|policy file m.lua is not used, the version before stays: m.lua:1: oh",
        ),
    ],
)
def test_status_says_who_decides_and_what_is_wrong(fields: dict[str, object], told: str) -> None:
    standing = policy_service_pb2.PolicyServiceGetStandingResponse(**fields)  # type: ignore[arg-type]
    assert "|".join(status.policy_lines(standing)) == told
