"""What can go wrong between a decision and its tokens: the scheduler's errors, each a kind of the shared taxonomy.

`RETRIABLE` is the one table that says which reasons may be tried again on another worker.
"""

from __future__ import annotations

from typing import Final

from queen.core.model import Verdict
from wire import errors


class NoWorkersAvailable(errors.NoCapacity):
    """No worker has the model and none can be started."""

    default_reason = "NO_WORKERS_AVAILABLE"


class WorkerCommunicationFailed(errors.Unreachable):
    """The worker could not be asked."""

    default_reason = "WORKER_LOST"


class WorkerError(errors.Internal):
    """The worker's engine failed."""

    default_reason = "ENGINE_FAILED"


class ParseError(errors.Internal):
    """The worker sent what the contract does not have."""

    default_reason = "PARSE_ERROR"


class StreamConnectionFailed(errors.Unreachable):
    """The worker's stream could not be opened."""

    default_reason = "WORKER_LOST"


class StreamReadError(errors.Unreachable):
    """The worker's stream broke off."""

    default_reason = "WORKER_LOST"


RETRIABLE: Final = frozenset(
    {
        "WORKER_LOST",
        "NO_FREE_SLOT",
        "GENERATION_EXISTS",
        "WORKER_DRAINING",
        "ENGINE_FAILED",
        "PARSE_ERROR",
        "WORKER_STALLED",
        "QUEEN_STOPPED",
    }
)
"""Reasons after which another worker, or the same one later, may do better."""

MAX_ATTEMPTS: Final = 5
"""Tries at one job, the first included (architecture.md section 2)."""

_STATUSES: Final[dict[str, type[errors.RbeeError]]] = {
    "DEADLINE_EXCEEDED": errors.TimedOut,
    "FAILED_PRECONDITION": errors.WrongState,
    "INVALID_ARGUMENT": errors.Invalid,
    "NOT_FOUND": errors.NotFound,
    "PERMISSION_DENIED": errors.Denied,
    "RESOURCE_EXHAUSTED": errors.NoCapacity,
    "UNAVAILABLE": errors.Unreachable,
}
_REASONS: Final[dict[str, type[errors.RbeeError]]] = {
    "INSUFFICIENT_VRAM": NoWorkersAvailable,
    "MODEL_NOT_ALLOWED": errors.Denied,
    "NO_WORKERS_AVAILABLE": NoWorkersAvailable,
    "QUEUE_FULL": errors.NoCapacity,
    "QUOTA_EXCEEDED": errors.NoCapacity,
}


def refused(said: str, *, by: str = "", reason: str = "POLICY_REFUSED") -> errors.RbeeError:
    """Returns the error of a job that a scheduler refuses: RESOURCE_EXHAUSTED, unless what it said begins with another.

    "PERMISSION_DENIED: not from here" has that status, "QUOTA_EXCEEDED: no more today" that reason and its status; the
    rest is the message, behind `by`. `reason` is that of all others.
    """
    word, colon, rest = said.partition(": ")
    kind = (_STATUSES.get(word) or _REASONS.get(word)) if colon else None
    if kind is None:
        return errors.NoCapacity(f"{by}{said}", reason)
    return kind(f"{by}{rest}", word if word in _REASONS else reason)


def not_admitted(verdict: Verdict) -> errors.RbeeError:
    """Returns the error of a job that a policy does not let in: NOT_ADMITTED, or what its reason maps to."""
    who = f"policy {verdict.policy} {verdict.policy_version}".strip()
    return refused(verdict.reason or "it does not say why", by=f"{who} does not admit the job: ", reason="NOT_ADMITTED")
