"""Compiles and validates a policy or runs its cases in a process of its own, which may use little and open nothing.

Run as `python -m queen.policy.trial`: a JSON request comes on standard input, a JSON answer goes to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from queen.policy import cases, yaml_compiler
from queen.policy.cases import CaseResult
from queen.policy.fuzz import Randomness
from queen.policy.scenario import kinds
from queen.policy.validate import Problem, Report, validate
from queen.policy.yaml_compiler import Compiled
from wire import errors

TIMEOUT_S: Final = 30.0
"""Longest time a trial may take; a policy that hangs beyond the reach of the deadline is found by this."""

NICENESS: Final = 10
"""A trial is never worth a token that comes late."""

_MEMORY_BYTES: Final = 1 << 30
_ANSWER_BYTES_MAX: Final = 8 << 20


async def validate_apart(source: str, name: str, *, platform_source: str, seed: int = 0) -> Report:
    """Returns what is wrong with a policy in Lua, found in a process of its own."""
    request = {"do": "validate", "source": source, "name": name, "platform": platform_source, "seed": seed}
    try:
        answer = await _ask(request)
    except errors.TimedOut as problem:
        return Report((Problem(problem.message),), 0, 0)
    problems = tuple(Problem(**problem) for problem in answer["problems"])
    return Report(problems, answer["clusters"], answer["decisions"])


async def compile_apart(text: str, file_name: str) -> Compiled:
    """Returns a YAML policy as Lua with everything that is wrong with it, found in a process of its own."""
    try:
        answer = await _ask({"do": "compile", "source": text, "name": file_name})
    except errors.TimedOut as problem:
        return Compiled("", (yaml_compiler.Problem(0, 0, problem.message, ""),), "", "")
    return Compiled(**{**answer, "problems": tuple(yaml_compiler.Problem(**one) for one in answer["problems"])})


async def run_cases_apart(text: str, file: str, *, source: str, name: str, platform_source: str) -> list[CaseResult]:
    """Returns how each case of a file went with a policy in Lua; raises `Invalid` BAD_CASES for a wrong file."""
    cases.read(text, file)
    request = {"do": "cases", "text": text, "file": file, "source": source, "name": name, "platform": platform_source}
    return [CaseResult(**result) for result in (await _ask(request))["results"]]


async def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "queen.policy.trial",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer, complaint = await child.communicate(json.dumps(request).encode())
    except TimeoutError as problem:
        raise errors.TimedOut(
            f"{request['name']} did not return within {TIMEOUT_S:.0f} s; look for a loop or a pattern that never ends",
            "POLICY_HANGS",
        ) from problem
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0 or len(answer) > _ANSWER_BYTES_MAX:
        last = complaint.decode(errors="replace").strip().splitlines()
        raise errors.Invalid(
            f"{request['name']} ended its process ({child.returncode}): {last[-1] if last else 'no message'}",
            "POLICY_CRASHES",
        )
    return dict(json.loads(answer))


def answer(request: Mapping[str, Any], randomness: Callable[[int], Randomness]) -> dict[str, Any]:
    """Does what a request asks for, in this process; returns the answer as JSON takes it."""
    if request["do"] == "compile":
        return asdict(yaml_compiler.compile(request["source"], request["name"]))
    if request["do"] == "cases":
        results = cases.run(
            cases.read(request["text"], request["file"]),
            request["file"],
            source=request["source"],
            name=request["name"],
            platform_source=request["platform"],
        )
        return {"results": [asdict(result) for result in results]}
    report = validate(
        request["source"],
        request["name"],
        platform_source=request["platform"],
        randomness=randomness,
        seed=request["seed"],
    )
    return asdict(report)


def limit_this_process() -> None:
    """Takes from this process what a policy could abuse: memory, processor time, files, processes and its priority."""
    kinds()  # reads the prelude while files can still be opened, as the next line does what YAML is read with
    yaml_compiler.compile("rules: [{name: r, condition: always, action: {select: workers.first()}}]", "r.yaml")
    os.nice(NICENESS)
    seconds = int(TIMEOUT_S)
    for which, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, 3),  # those it has; no other can be opened
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (most, most))


if __name__ == "__main__":
    from random import Random  # noqa: TID251 - this is the program

    wanted = json.load(sys.stdin)
    limit_this_process()
    sys.stdout.write(json.dumps(answer(wanted, Random)))
