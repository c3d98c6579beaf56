"""Runs the cases beside a policy: a cluster, jobs, and what the policy is to do about them (policies/README.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from queen.policy.language import Decided, Outcome, Program
from queen.policy.scenario import Reader, Scenario
from wire import errors
from wire.errors import FieldFault

DEFAULT_NOW: Final = datetime(2026, 1, 7, 12, 0, tzinfo=UTC)
"""When cases happen that do not say: a Wednesday at noon."""

CASE_SEED: Final = 1
DEADLINE_MS: Final = 1000.0
"""Cases are about what is decided, not how fast; the limit only ends what would never end."""

_CASE_FIELDS: Final = {"name", "job", "jobs", "cluster", "now", "call", "attempt", "error", "expect"}
_ACTIONS: Final = ("dispatch", "wait", "start_worker", "evict", "reject", "answer")


@dataclass(frozen=True, slots=True)
class Expected:
    """One decision a case expects. `target` is the worker(s), the fields of a start, or the answer; "" any."""

    action: str
    job_id: str | None
    target: Any
    because: str


@dataclass(frozen=True, slots=True)
class Case:
    """One case: where it stands in its file, what is there, which entry point is asked, and what is expected."""

    name: str
    line: int
    scenario: Scenario
    expected: tuple[Expected, ...]
    call: str = "schedule"
    attempt: int = 1
    error: Any = ""


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case went. `expected` and `got` are words for people; `got` of a passed case says what was decided."""

    name: str
    file: str
    line: int
    passed: bool
    expected: str
    got: str


def read(text: str, file: str) -> list[Case]:
    """Returns the cases of a file; raises `Invalid` BAD_CASES listing every fault."""
    try:
        document = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as problem:
        raise errors.Invalid(f"{file} is not YAML: {problem}", "BAD_CASES") from problem
    if not isinstance(document, Mapping) or not isinstance(document.get("cases"), list) or not document["cases"]:
        raise errors.Invalid(f"{file} has no cases; write `cases:` and a list", "BAD_CASES")
    entries = node.value if node is not None else []
    lines = next([item.start_mark.line + 1 for item in value.value] for key, value in entries if key.value == "cases")
    faults: list[FieldFault] = []
    cases = [_case(each, line, document, faults) for each, line in zip(document["cases"], lines, strict=True)]
    if faults:
        raise errors.Invalid(errors.invalid(faults, file).message, "BAD_CASES", faults=faults)
    return cases


def run(cases: list[Case], file: str, *, source: str, name: str, platform_source: str) -> list[CaseResult]:
    """Returns how each case went with a policy in Lua; each gets a state of its own."""
    return [_run(case, file, source, name, platform_source) for case in cases]


def _run(case: Case, file: str, source: str, name: str, platform_source: str) -> CaseResult:
    program = Program()
    problem = program.load_platform(platform_source) or program.load(source, name)
    outcome = Outcome(error=problem)
    if problem is None:
        case.scenario.fill(program)
        outcome = _ask(program, case)
    passed = outcome.error is None and _matches(case, outcome)
    expected = "; ".join(_expected_words(each) for each in case.expected)
    return CaseResult(case.name, file, case.line, passed, expected, _got_words(outcome))


def _ask(program: Program, case: Case) -> Outcome:
    now_ms = case.scenario.now_ms
    if case.call == "schedule":
        return program.decide(now_ms, CASE_SEED, DEADLINE_MS)
    args = {
        "job_id": case.scenario.queue[0] if case.scenario.queue else "",
        "attempt": case.attempt,
        "error": case.error,
    }
    return program.call(case.call, args, now_ms, CASE_SEED, DEADLINE_MS)


# What was decided against what was expected.


def _matches(case: Case, outcome: Outcome) -> bool:
    """Whether every expectation is met and nothing was done that was not expected; waiting is doing nothing."""
    left = [decided for decided in outcome.decisions if decided.action != "wait"]
    waits = {decided.job_id: decided.reason or "" for decided in outcome.decisions if decided.action == "wait"}
    for expected in case.expected:
        if expected.action == "answer":
            if outcome.answer is not expected.target or expected.because not in (outcome.answer_reason or ""):
                return False
        elif expected.action == "wait":
            taken = any(
                decided.job_id == expected.job_id and decided.action in ("dispatch", "reject") for decided in left
            )
            reason = waits.get(expected.job_id, waits.get(None, ""))
            if taken or expected.because not in reason:
                return False
        else:
            found = next((decided for decided in left if _is(decided, expected)), None)
            if found is None:
                return False
            left.remove(found)
    return not left


def _is(decided: Decided, expected: Expected) -> bool:
    if decided.action != expected.action or expected.because not in (decided.reason or ""):
        return False
    if expected.action in ("dispatch", "reject") and decided.job_id != expected.job_id:
        return False
    if expected.action == "start_worker":
        wanted = {f"{key.removesuffix('_id').removesuffix('_ref')}": value for key, value in expected.target.items()}
        has = {"model": decided.model_ref, "pool": decided.pool_id, "gpu": decided.gpu_id}
        return all(has.get(key) == value for key, value in wanted.items())
    return expected.action == "reject" or decided.worker_id in expected.target


def _expected_words(expected: Expected) -> str:
    words = [expected.action.replace("_", " ")]
    if expected.action == "start_worker":
        words += [f"{key} {value}" for key, value in expected.target.items()]
    elif expected.action == "answer":
        words = ["true" if expected.target else "false"]
    elif expected.target:
        words.append(" or ".join(expected.target))
    if expected.because:
        words.append(f"because {expected.because!r}")
    return " ".join(words)


def _got_words(outcome: Outcome) -> str:
    if outcome.error is not None:
        return outcome.error.message
    if outcome.answer is not None:
        return "true" if outcome.answer else f"false {outcome.answer_reason or ''}".strip()
    words = []
    for decided in outcome.decisions:
        target = [decided.worker_id, decided.model_ref, decided.pool_id and f"on {decided.pool_id}", decided.gpu_id]
        reason = f"({decided.reason})" if decided.reason else ""
        named = " ".join(part for part in (*target, reason) if part)
        words.append(f"{decided.job_id or ''} {decided.action.replace('_', ' ')} {named}".strip())
    return "; ".join(words) or "nothing"


# Reading.


def _case(written: Any, line: int, document: Mapping[str, Any], faults: list[FieldFault]) -> Case:
    path = f"line {line}"
    if not isinstance(written, Mapping):
        faults.append(FieldFault(path, "a map with name, job or jobs, and expect"))
        written = {}
    faults += [
        FieldFault(f"{path} {key}", f"one of {', '.join(sorted(_CASE_FIELDS))}")
        for key in written.keys() - _CASE_FIELDS
    ]
    now = _milliseconds(written.get("now", document.get("now")), path, faults)
    cluster = {**(document.get("cluster") or {}), **(written.get("cluster") or {})}
    jobs = written.get("jobs") or ([written["job"]] if "job" in written else [])
    reader = Reader(now)
    scenario = reader.scenario(cluster, jobs, f"{path} ")
    faults += reader.faults
    first = scenario.queue[0] if scenario.queue else None
    wanted = written.get("expect")
    wanted = wanted if isinstance(wanted, list) else [wanted]
    expected = tuple(found for each in wanted if (found := _expectation(each, first, path, faults)))
    return Case(
        name=str(written.get("name", path)),
        line=line,
        scenario=scenario,
        expected=expected,
        call=str(written.get("call", "schedule")),
        attempt=int(written.get("attempt", 1)),
        error=written.get("error", ""),
    )


def _milliseconds(written: Any, path: str, faults: list[FieldFault]) -> int:
    if written is None:
        written = DEFAULT_NOW
    if isinstance(written, int):
        return written
    if not isinstance(written, datetime):
        faults.append(FieldFault(f"{path} now", "a time such as 2026-01-07T12:00:00Z, or milliseconds since 1970"))
        return 0
    moment = written if written.tzinfo else written.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _expectation(written: Any, first_job: str | None, path: str, faults: list[FieldFault]) -> Expected | None:
    if isinstance(written, str):
        written = {written: ""}
    actions = [key for key in written if key in _ACTIONS] if isinstance(written, Mapping) else []
    if len(actions) != 1 or not set(written) <= {*actions, "job", "because"}:
        faults.append(FieldFault(f"{path} expect", f"one of {', '.join(_ACTIONS)}, with job and because if needed"))
        return None
    action, job, because = actions[0], written.get("job", first_job), str(written.get("because", ""))
    target = written[action]
    if action in ("wait", "reject"):
        return Expected(action, job, "", because or str(target or ""))
    if action == "start_worker":
        return Expected(action, job, dict(target or {}), because)
    if action == "answer":
        return Expected(action, job, bool(target), because)
    return Expected(action, job, [str(each) for each in (target if isinstance(target, list) else [target])], because)
