"""Checks a policy as a person wrote it, Lua or YAML, before it is saved: what it would run as, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from queen.policy import platform, trial, yaml_compiler
from queen.policy import validate as lua
from queen.policy.yaml_compiler import Problem
from wire import errors
from wire.errors import FieldFault

LUA: Final = "lua"
YAML: Final = "yaml"
MOST_BYTES: Final = 2**20
"""Largest text of a policy, and of each file beside it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a text came to. `compiled_lua` is empty when it does not compile; `said_version` where it does not say."""

    language: str
    compiled_lua: str
    problems: tuple[Problem, ...]
    said_version: str = ""

    @property
    def valid(self) -> bool:
        """Whether it may be saved."""
        return not any(problem.fatal for problem in self.problems)


def language_of(source: str, file_name: str, language: str) -> str:
    """Returns "lua" or "yaml": as said, else told from the file's name and the text."""
    return language or (YAML if yaml_compiler.is_yaml(source, file_name) else LUA)


def size_faults(**texts: str) -> list[FieldFault]:
    """Returns the texts that are larger than a policy may be, or have what no database keeps."""
    faults = [FieldFault(name, "at most 1 MiB") for name, text in texts.items() if len(text.encode()) > MOST_BYTES]
    return faults + [FieldFault(name, "text without NUL characters") for name, text in texts.items() if "\0" in text]


async def compiled(source: str, file_name: str, language: str) -> Checked:
    """Returns the Lua of a policy; only YAML can have problems at this point. Works in a process of its own."""
    if language_of(source, file_name, language) == LUA:
        return Checked(LUA, source, ())
    made = await trial.compile_apart(source, file_name)
    return Checked(YAML, made.lua, made.problems, made.version)


async def check(source: str, file_name: str, language: str = "") -> Checked:
    """Returns what is wrong with a policy: its syntax, the names it uses, what it decides on random clusters.

    Runs it in processes of their own, which end when they take too long.
    """
    made = await compiled(source, file_name, language)
    if not made.valid:
        return made
    report = await trial.validate_apart(made.compiled_lua, file_name, platform_source=platform.source())
    found = tuple(_problem(one, made.language, file_name) for one in report.problems)
    problems = tuple(sorted((*made.problems, *found), key=lambda problem: (problem.line, problem.column)))
    return Checked(made.language, made.compiled_lua, problems, made.said_version)


def refused(problems: tuple[Problem, ...], file_name: str, *, one_line: bool = True) -> errors.Invalid:
    """Returns the error that lists everything that keeps a policy from running, by place."""
    fatal = [problem for problem in problems if problem.fatal]
    faults = [FieldFault(place(problem, file_name), problem.message) for problem in fatal]
    lines = [f"{fault.field}: {fault.expected}" for fault in faults]
    listed = f" {'; '.join(lines)}" if one_line else "".join(f"\n  {line}" for line in lines)
    count = f"{len(fatal)} problem{'s' * (len(fatal) != 1)}"
    return errors.Invalid(f"{file_name} cannot be used, it has {count}:{listed}", "POLICY_INVALID", faults=faults)


def place(problem: Problem, file_name: str) -> str:
    """Returns where a problem is: file, line and column as far as they are known."""
    return ":".join([file_name, *(str(number) for number in (problem.line, problem.column) if number)])


def _problem(found: lua.Problem, language: str, file_name: str) -> Problem:
    seen = f" (on random cluster {found.cluster})" if found.cluster is not None else ""
    if language == LUA or found.line is None:
        return Problem(found.line or 0, found.column or 0, f"{found.message}{seen}", found.source_line[:500])
    message = f"{found.message}{seen}, in line {found.line} of the Lua it is compiled to: {found.source_line.strip()}"
    return Problem(0, 0, message, "")
