"""The error taxonomy: what can go wrong, independent of gRPC. `wire.status` maps it to status codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One bad field of a request: its path, such as "job.sampling.top_p", and what was expected there."""

    field: str
    expected: str


class RbeeError(Exception):
    """What happened, to what, and the command that fixes it; `reason` is for programs to switch on.

    `retry_after_s` is set where asking again helps; `faults` lists every bad field of an invalid request.
    """

    default_reason: ClassVar[str] = "INTERNAL"
    default_retriable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        reason: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        faults: Iterable[FieldFault] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.faults = tuple(faults)

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later or elsewhere."""
        return self.default_retriable or self.retry_after_s is not None


class Internal(RbeeError):
    """A fault of rbee's own; logged with its trace id."""


class NotFound(RbeeError):
    """What was named does not exist."""

    default_reason = "NOT_FOUND"


class AlreadyExists(RbeeError):
    """What was to be made exists already."""

    default_reason = "ALREADY_EXISTS"


class Invalid(RbeeError):
    """The request is wrong and will stay wrong; `faults` lists the bad fields."""

    default_reason = "INVALID"


class WrongState(RbeeError):
    """The request is right but not in the present state."""

    default_reason = "WRONG_STATE"


class Conflict(RbeeError):
    """Somebody else changed the same thing at the same time."""

    default_reason = "CONFLICT"
    default_retriable = True


class NoCapacity(RbeeError):
    """There is no room now: queue, slots, memory, disk or quota."""

    default_reason = "NO_CAPACITY"


class Unreachable(RbeeError):
    """A program or machine does not answer."""

    default_reason = "UNREACHABLE"
    default_retriable = True


class Denied(RbeeError):
    """The caller may not do this."""

    default_reason = "DENIED"


class Unauthenticated(RbeeError):
    """The caller did not say who it is, or not credibly."""

    default_reason = "UNAUTHENTICATED"


class TimedOut(RbeeError):
    """A time limit passed; the message names the stage."""

    default_reason = "TIMED_OUT"


class Cancelled(RbeeError):
    """Somebody asked to end it."""

    default_reason = "CANCELLED"


class Unserved(RbeeError):
    """The contract has it, this version does not serve it yet."""

    default_reason = "UNSERVED"


def invalid(faults: Iterable[FieldFault], what: str = "request") -> Invalid:
    """Builds the error that lists every bad field at once."""
    faults = tuple(faults)
    lines = "; ".join(f"{fault.field}: {fault.expected}" for fault in faults)
    return Invalid(f"the {what} has {len(faults)} bad field{'s' * (len(faults) != 1)}: {lines}", faults=faults)


def prompt_too_long(prompt_tokens: int, context_length: int) -> Invalid:
    """Builds the error for a prompt that leaves no room for an answer."""
    return Invalid(f"the prompt has {prompt_tokens:,} tokens, the context holds {context_length:,}", "PROMPT_TOO_LONG")
