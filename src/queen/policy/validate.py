"""Finds what is wrong with a policy before it runs: syntax, unknown names, bad decisions on random clusters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from queen.policy import bytecode, fuzz
from queen.policy.bytecode import Use, Uses
from queen.policy.fuzz import Randomness
from queen.policy.language import DEADLINE_MS, Outcome, PolicyError, Program, Vocabulary
from queen.policy.scenario import Scenario

CLUSTERS: Final = 100
PROBLEMS_MAX: Final = 20
ENTRY_POINTS: Final = frozenset({"schedule", "schedule_job", "should_admit", "should_retry", "on_idle"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. `line` and `column` count from 1, None where it is about what the policy decided.

    `cluster` is the number of the random cluster it was seen on.
    """

    message: str
    line: int | None = None
    column: int | None = None
    source_line: str = ""
    cluster: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How a validation went: what is wrong, on how many clusters it was tried, and what it decided there."""

    problems: tuple[Problem, ...]
    clusters: int
    decisions: int

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def validate(
    source: str,
    name: str,
    *,
    platform_source: str,
    randomness: Callable[[int], Randomness],
    seed: int = 0,
    clusters: int = CLUSTERS,
) -> Report:
    """Returns what is wrong with a policy in Lua. The same seed tries the same clusters.

    `randomness` makes a source of random numbers from a seed (`random.Random`). Runs the policy in this process: for a
    policy that is not trusted call it in a process with limits (queen.policy.trial).
    """
    program = _program(source, name, platform_source)
    if isinstance(program, PolicyError):
        return Report((_located(program, source, name),), 0, 0)
    problems = list(_unknown_names(bytecode.uses(source), source, program.vocabulary()))
    seen = {_kind(problem) for problem in problems}
    decisions = 0
    for number in range(clusters):
        scenario = fuzz.cluster(randomness(seed * 1_000_003 + number))
        fresh = _program(source, name, platform_source)
        assert isinstance(fresh, Program), "it loaded before"
        scenario.fill(fresh)
        outcome = fresh.decide(scenario.now_ms, number)
        decisions += len(outcome.decisions)
        found = _decided(fresh, scenario, outcome, number) + _other_entry_points(fresh, scenario, number)
        for problem in (_of(message, source, name, number) for message in found):
            if _kind(problem) not in seen:
                seen.add(_kind(problem))
                problems.append(problem)
        if len(problems) >= PROBLEMS_MAX:
            return Report(tuple(problems[:PROBLEMS_MAX]), number + 1, decisions)
    return Report(tuple(problems), clusters, decisions)


def _program(source: str, name: str, platform_source: str) -> Program | PolicyError:
    program = Program()
    return program.load_platform(platform_source) or program.load(source, name) or program


def _decided(program: Program, scenario: Scenario, outcome: Outcome, seed: int) -> list[str]:
    if outcome.error is not None:
        return [outcome.error.message]
    found = fuzz.violations(scenario, outcome)
    again = program.decide(scenario.now_ms, seed)
    if again.decisions != outcome.decisions:
        found.append("decides differently when asked again about the same state; keep no state between calls")
    return found


def _other_entry_points(program: Program, scenario: Scenario, seed: int) -> list[str]:
    found = []
    for name in sorted(program.entry_points() - {"schedule", "schedule_job"}):
        args = {"job_id": scenario.queue[0], "attempt": 1, "error": "WORKER_LOST"}
        outcome = program.call(name, args, scenario.now_ms, seed, DEADLINE_MS)
        if outcome.error is not None:
            found.append(outcome.error.message)
        elif name == "on_idle":
            idle = Scenario(scenario.now_ms, scenario.rows)  # no job waits for what on_idle does
            found += [f"on_idle: {problem}" for problem in fuzz.violations(idle, outcome)]
    return found


# Names.


def _unknown_names(used: Uses, source: str, vocabulary: Vocabulary) -> Iterator[Problem]:
    own = {use.name for use in used.written}
    for use in used.read:
        if use.library:
            members = vocabulary.libraries.get(use.library)
            if members is not None and use.name not in members and use.library not in own:
                yield _misnamed(f"{use.library}.{use.name} is not available to policies", use, members, source)
        elif use.name not in vocabulary.names and use.name not in own:
            yield _misnamed(f"unknown name {use.name}", use, vocabulary.names | own, source)
    methods = vocabulary.methods | vocabulary.libraries["string"]
    for use in used.methods:
        if use.name not in methods and use.name not in used.fields:
            yield _misnamed(f"lists have no method :{use.name}", use, methods, source)
    for use in used.written:
        near = difflib.get_close_matches(use.name, ENTRY_POINTS, 1, 0.8)
        if near and use.name not in ENTRY_POINTS and not any(read.name == use.name for read in used.read):
            yield _misnamed(f"{use.name} is never called", use, ENTRY_POINTS, source)


def _misnamed(message: str, use: Use, names: frozenset[str] | set[str], source: str) -> Problem:
    near = difflib.get_close_matches(use.name, sorted(names), 1)
    lines = source.splitlines()
    text = lines[use.line - 1] if use.line <= len(lines) else ""
    found = re.search(rf"\b{re.escape(use.name)}\b", text)
    return Problem(
        f"{message}{f'; did you mean {near[0]}?' if near else ''}",
        use.line,
        found.start() + 1 if found else None,
        text,
    )


# Where.


def _of(message: str, source: str, name: str, cluster: int) -> Problem:
    located = _located(PolicyError(message), source, name)
    return Problem(located.message, located.line, located.column, located.source_line, cluster)


def _kind(problem: Problem) -> tuple[int | None, str]:
    """Returns what tells a problem from another: its line and its words, whatever the ids in them."""
    return problem.line, re.sub(r"\d+", "", problem.message)


def _located(error: PolicyError, source: str, name: str) -> Problem:
    """Takes the place out of an error's text."""
    first = error.message.split("\n", 1)[0]
    found = re.match(rf"{re.escape(name)}:(\d+): (.*)", first)
    if found is None:
        return Problem(first)
    line, lines = int(found[1]), source.splitlines()
    return Problem(found[2], line, None, lines[line - 1] if 0 < line <= len(lines) else "")
