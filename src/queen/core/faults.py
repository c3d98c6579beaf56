"""What can go wrong between a decision and its tokens: the scheduler's errors, each a kind of the shared taxonomy.

`RETRIABLE` is the one table that says which reasons may be tried again on another worker.
"""

from __future__ import annotations

from typing import Final

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
