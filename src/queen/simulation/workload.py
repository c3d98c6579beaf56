"""What a simulation is asked to serve: requests with their arrival and lengths, from a trace or from recorded jobs.

A trace is CSV as published with "Splitwise" (Patel et al., ISCA 2024; Azure LLM inference traces, CC-BY):
`TIMESTAMP,ContextTokens,GeneratedTokens`, a time as date or as seconds. Further columns, all optional: `Model`,
`Tenant`, `Priority`, `Session`, `MaxTokens`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from queen.core.model import Job, JobState, JobType, Priority
from wire import errors
from wire.errors import FieldFault

DEFAULT_MAX_TOKENS: Final = 1024
"""What a request without a limit of its own may generate at most, tokens; policies see it, not the true length."""

MAX_TOKENS: Final = 10_000_000
MAX_FAULTS: Final = 50
"""Faults of a trace that are listed: the rest are of the same kind, and a wrong file has one a line."""

REQUIRED_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
OPTIONAL_COLUMNS: Final = ("Model", "Tenant", "Priority", "Session", "MaxTokens")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `arrival` is in seconds since 1970; `model` "" and `tenant_id` "" are given by the traffic mix."""

    arrival: float
    prompt_tokens: int
    generated_tokens: int
    model: str = ""
    tenant_id: str = ""
    priority: Priority | None = None
    session_id: str = ""
    max_tokens: int = DEFAULT_MAX_TOKENS
    type: JobType = JobType.TEXT_GEN


def read_trace(source: str) -> list[Request]:
    """Returns the requests of a trace by arrival; raises `Invalid` naming the bad lines."""
    reader = csv.DictReader(io.StringIO(source.removeprefix("\ufeff"), newline=""))
    columns = reader.fieldnames or ()
    faults = [FieldFault("line 1", f"expected a column {name}") for name in REQUIRED_COLUMNS if name not in columns]
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    unknown = [name for name in columns if name not in known]
    faults += [FieldFault("line 1", f"no column '{name}' is known, only {', '.join(known)}") for name in unknown]
    if faults:
        raise errors.invalid(faults, "trace")
    requests = []
    for row in reader:
        try:
            requests.append(_request(row))
        except ValueError as error:
            faults.append(FieldFault(f"line {reader.line_num}", str(error)))
            if len(faults) == MAX_FAULTS:
                break
    if not requests and not faults:
        faults.append(FieldFault("line 2", "expected at least one request"))
    if faults:
        raise errors.invalid(faults, "trace")
    requests.sort(key=lambda request: request.arrival)
    return requests


def _request(row: dict[str, str]) -> Request:
    if None in row or None in row.values():
        raise ValueError("expected as many values as the first line has columns")
    generated = _count(row, "GeneratedTokens")
    limit = _count(row, "MaxTokens") if row.get("MaxTokens") else max(DEFAULT_MAX_TOKENS, generated)
    priority = row.get("Priority", "")
    if priority and priority not in set(Priority):
        raise ValueError(f"Priority: expected interactive or batch, not '{priority}'")
    return Request(
        arrival=_time(row["TIMESTAMP"]),
        prompt_tokens=_count(row, "ContextTokens"),
        generated_tokens=min(generated, limit),
        model=row.get("Model", ""),
        tenant_id=row.get("Tenant", ""),
        priority=Priority(priority) if priority else None,
        session_id=row.get("Session", ""),
        max_tokens=limit,
    )


def _count(row: dict[str, str], name: str) -> int:
    text = row[name]
    if not (text.isascii() and text.isdigit()) or int(text) > MAX_TOKENS:
        raise ValueError(f"{name}: expected a whole number up to {MAX_TOKENS:,}, not '{text[:40]}'")
    return int(text)


def _time(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"TIMESTAMP: expected a date and time or seconds, not '{text[:40]}'") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < 1e11:
        raise ValueError(f"TIMESTAMP: expected seconds since 1970 or since the start, not '{text[:40]}'")
    return seconds


def write_trace(requests: Iterable[Request]) -> str:
    """Returns requests as a trace with all columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS))
    for one in requests:
        lengths = (one.prompt_tokens, one.generated_tokens)
        names = (one.model, one.tenant_id, one.priority or "", one.session_id, one.max_tokens)
        writer.writerow((repr(one.arrival), *lengths, *names))
    return text.getvalue()


def recorded(jobs: Iterable[Job], tenant_name: Callable[[str], str] = str) -> list[Request]:
    """Returns the requests that completed jobs were, by arrival; jobs that did not complete have no known lengths."""
    requests = [
        Request(
            arrival=job.submit_time,
            prompt_tokens=job.usage.prompt_tokens,
            generated_tokens=job.usage.completion_tokens,
            model=job.model,
            tenant_id=tenant_name(job.tenant_id),
            priority=job.priority,
            session_id=job.session_id,
            max_tokens=max(DEFAULT_MAX_TOKENS, job.usage.completion_tokens),
            type=job.type,
        )
        for job in jobs
        if job.state is JobState.COMPLETE and job.usage is not None
    ]
    requests.sort(key=lambda request: request.arrival)
    return requests


def paced(requests: Sequence[Request], speed: float = 1.0, limit: int | None = None) -> list[Request]:
    """Returns the first requests, coming `speed` times as fast one after the other."""
    kept = requests[:limit]
    begin = kept[0].arrival if kept else 0.0
    return [replace(one, arrival=begin + (one.arrival - begin) / speed) for one in kept]
