"""What rbee adds to OpenAI's requests: X-Rbee-* headers, and the object `rbee` of the body, which wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import Scope

from rbee.v1 import job_pb2
from wire import errors, settings

PREFIX: Final = "x-rbee-"
_LABEL: Final = "label-"
_PRIORITIES: Final = {"interactive": job_pb2.PRIORITY_INTERACTIVE, "batch": job_pb2.PRIORITY_BATCH}


@dataclass(frozen=True, slots=True)
class Extras:
    """How a request is to be treated. `deadline_s`: seconds after which its caller gives up."""

    priority: job_pb2.Priority.ValueType = job_pb2.PRIORITY_UNSPECIFIED
    session: str = ""
    deadline_s: float | None = None
    tenant: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def read(scope: Scope, body: Mapping[str, Any]) -> Extras:
    """Returns the extras of a request whose body is right; raises `Invalid` naming every bad header."""
    told = _headers(scope)
    labels = told.pop("labels")
    said = {name: value for name, value in (body.get("rbee") or {}).items() if value is not None}
    labels |= body.get("metadata") or {}
    labels |= {name: body[name] for name in ("user", "safety_identifier") if body.get(name)}
    labels |= said.pop("labels", {})
    merged = told | said
    return Extras(
        priority=_PRIORITIES[merged["priority"]] if "priority" in merged else job_pb2.PRIORITY_UNSPECIFIED,
        session=merged.get("session") or body.get("prompt_cache_key") or "",
        deadline_s=merged.get("deadline"),
        tenant=merged.get("tenant", ""),
        labels=labels,
    )


def _headers(scope: Scope) -> dict[str, Any]:
    """Returns what the headers say, with `labels` in any case."""
    faults: list[errors.FieldFault] = []
    told: dict[str, Any] = {"labels": {}}
    for name, raw in ((key.decode("latin-1"), value) for key, value in scope["headers"] if key[:7] == b"x-rbee-"):
        what = name.removeprefix(PREFIX)
        try:
            value = raw.decode()
            if what.startswith(_LABEL) and what != _LABEL:
                told["labels"][what.removeprefix(_LABEL)] = value
            elif what == "priority" and value not in _PRIORITIES:
                faults.append(errors.FieldFault(name, f"interactive or batch, not '{value[:40]}'"))
            elif what == "deadline":
                told[what] = settings.seconds(value)
            elif what in ("priority", "session", "tenant"):
                told[what] = value
            else:
                faults.append(errors.FieldFault(name, "no such header; there are X-Rbee-Priority, -Session, -Deadline, "
                                                      "-Tenant and -Label-NAME"))  # fmt: skip
        except UnicodeDecodeError:
            faults.append(errors.FieldFault(name, "UTF-8"))
        except ValueError as error:
            faults.append(errors.FieldFault(name, str(error)))
    if faults:
        raise errors.invalid(faults)
    return told
