"""The lines of a batch file: what each may say, and what is wrong with those that say something else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast

from client.job import JobOptions, job_spec
from wire import errors, validation
from wire.errors import FieldFault

MOST_FAULTS: Final = 20
"""Bad lines that are told; of the others the number."""

_EXAMPLE: Final = '{"prompt": "What is a hive?"}'
_TEXTS: Final = {"model", "prompt", "system", "grammar", "priority", "session", "tenant"}
_FLAGS: Final = {"raw", "no_failover"}
_OPTIONS: Final = set(JobOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class Asked:
    """One line that has been read."""

    line: int
    """Its number in the file, from 1."""
    id: str | int | None
    """What its writer calls it."""
    request_id: str
    """The same for the same line of the same batch."""
    options: JobOptions


def read_lines(file: Path, content: bytes, defaults: Mapping[str, Any], seal: str) -> Sequence[Asked]:
    """Returns what every line asks for; empty lines ask for nothing. Raises `Invalid` with every bad line.

    `seal` stands for the file and its options.
    """
    found: list[Asked] = []
    faults: list[FieldFault] = []
    lines_by_id: dict[str | int, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        said = _parsed(line)
        wrong = [said] if isinstance(said, str) else list(_shape_faults(said))
        if not wrong and not isinstance(said, str):
            name = said.pop("id", None)
            if name is not None and (first := lines_by_id.setdefault(name, number)) != number:
                wrong.append(f"id: one of its own, line {first} has {name!r} too")
            options = merged(defaults, said)
            wrong += _value_faults(options)
            request_id = sha256(f"{seal}:{number}".encode()).hexdigest()[:32]
            found.append(Asked(number, name, request_id, options))
        if wrong:
            faults.append(FieldFault(f"line {number}", "; ".join(wrong)))
    if faults:
        raise _refused(file, faults)
    if not found:
        raise errors.Invalid(
            f"{file} holds no prompts; write one JSON object a line, such as {_EXAMPLE}, then: "
            f"rbee jobs submit {file} --model {defaults['model']}",
            "BAD_BATCH",
        )
    return found


def merged(defaults: Mapping[str, Any], said: Mapping[str, Any]) -> JobOptions:
    """Returns what a line asks for: its own words before the command line's; labels of both."""
    options = {**defaults, **{key: value for key, value in said.items() if value is not None}}
    options["labels"] = {**defaults["labels"], **(said.get("labels") or {}), "batch": defaults["labels"]["batch"]}
    # A line that wants another output format does not want the command line's.
    for mine, other in (("json_schema", "grammar"), ("grammar", "json_schema")):
        if said.get(mine) is not None and said.get(other) is None:
            options.pop(other, None)
    return cast("JobOptions", options)


def _parsed(line: bytes) -> dict[str, Any] | str:
    """Returns what a line holds; a text says what is wrong with it."""
    try:
        said = json.loads(line.decode())
    except UnicodeDecodeError:
        return "text in UTF-8"
    except (ValueError, RecursionError) as error:
        return f"a JSON object such as {_EXAMPLE}, not broken JSON ({error})"
    if isinstance(said, str):
        return {"prompt": said}
    if not isinstance(said, dict):
        return f"a JSON object such as {_EXAMPLE}, or a JSON string"
    return said


def _shape_faults(said: Mapping[str, Any]) -> Iterator[str]:
    """Yields what no job can be made of."""
    for key, value in said.items():
        if key == "id":
            fits, wanted = isinstance(value, str | int) and not isinstance(value, bool), "a text or a whole number"
        elif key not in _OPTIONS:
            near = get_close_matches(key, _OPTIONS, 1)
            yield f"{key}: no such option{f'; {near[0]} is meant?' if near else ''}"
            continue
        else:
            fits, wanted = _fit(key, value)
        if value is not None and not fits:
            yield f"{key}: {wanted}"


def _fit(key: str, value: Any) -> tuple[bool, str]:
    """Tells whether a value has the form its option wants, and which that is."""
    if key in _TEXTS:
        return isinstance(value, str), "a text"
    if key in _FLAGS:
        return isinstance(value, bool), "true or false"
    if key == "messages":
        return isinstance(value, list) and all(map(_is_message, value)), 'a list of {"role": ..., "content": ...}'
    if key == "stop":
        return isinstance(value, list) and all(isinstance(one, str) for one in value), "a list of texts"
    if key == "labels":
        return isinstance(value, dict) and all(isinstance(one, str) for one in value.values()), "an object of texts"
    if key == "json_schema":
        return isinstance(value, str | dict), "a JSON Schema"
    return isinstance(value, int | float) and not isinstance(value, bool), "a number"


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"role", "content"}
        and all(isinstance(v, str) for v in value.values())
    )


def _value_faults(options: JobOptions) -> Iterator[str]:
    """Yields what the queen would refuse."""
    try:
        faults: Sequence[FieldFault] = validation.job_faults(job_spec(options))
    except errors.Invalid as error:
        faults = error.faults
    except UnicodeEncodeError:
        yield "text without halves of surrogate pairs"
        return
    for fault in faults:
        name = fault.field.removeprefix("job.").removeprefix("sampling.").removeprefix("timeouts.")
        yield f"{name}: {fault.expected}"


def _refused(file: Path, faults: Sequence[FieldFault]) -> errors.Invalid:
    told, more = list(faults[:MOST_FAULTS]), len(faults) - MOST_FAULTS
    if more > 0:
        told.append(FieldFault(f"and {more:,} more", "bad lines"))
    count = f"{len(faults):,} bad line{'s' * (len(faults) != 1)}"
    text = "; ".join(f"{fault.field}: {fault.expected}" for fault in told)
    return errors.Invalid(f"{file} has {count}, nothing was submitted: {text}", "BAD_BATCH", faults=told)
