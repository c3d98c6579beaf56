"""The lifecycle tables: every state change of a job, a worker or a hive is a row here. docs/states.md says the same."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from queen.core.model import HiveState, JobState, WorkerState


class JobEvent(StrEnum):
    """What can happen to a job."""

    DISPATCHED = "dispatched"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    RETRIED = "retried"
    CANCELLED = "cancelled"


class IllegalTransitionError(Exception):
    """A state change that is not in the table: a defect of the queen, never of a caller."""


JOB_TRANSITIONS: Final[dict[tuple[JobState, JobEvent], JobState]] = {
    (JobState.QUEUED, JobEvent.DISPATCHED): JobState.DISPATCHED,
    (JobState.QUEUED, JobEvent.FAILED): JobState.FAILED,
    (JobState.QUEUED, JobEvent.CANCELLED): JobState.CANCELLED,
    (JobState.DISPATCHED, JobEvent.STARTED): JobState.RUNNING,
    (JobState.DISPATCHED, JobEvent.COMPLETED): JobState.COMPLETE,
    (JobState.DISPATCHED, JobEvent.RETRIED): JobState.QUEUED,
    (JobState.DISPATCHED, JobEvent.FAILED): JobState.FAILED,
    (JobState.DISPATCHED, JobEvent.CANCELLED): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.COMPLETED): JobState.COMPLETE,
    (JobState.RUNNING, JobEvent.RETRIED): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.FAILED): JobState.FAILED,
    (JobState.RUNNING, JobEvent.CANCELLED): JobState.CANCELLED,
}

WORKER_TRANSITIONS: Final[dict[WorkerState, frozenset[WorkerState]]] = {
    WorkerState.LOADING: frozenset({WorkerState.READY, WorkerState.DRAINING, WorkerState.FAILED}),
    WorkerState.READY: frozenset({WorkerState.BUSY, WorkerState.DRAINING, WorkerState.FAILED}),
    WorkerState.BUSY: frozenset({WorkerState.READY, WorkerState.DRAINING, WorkerState.FAILED}),
    WorkerState.DRAINING: frozenset({WorkerState.FAILED}),
    WorkerState.FAILED: frozenset(),
}

HIVE_TRANSITIONS: Final[dict[HiveState, frozenset[HiveState]]] = {
    HiveState.REGISTERED: frozenset({HiveState.STARTING, HiveState.HEALTHY, HiveState.OFFLINE}),
    HiveState.STARTING: frozenset({HiveState.HEALTHY, HiveState.OFFLINE}),
    HiveState.HEALTHY: frozenset({HiveState.DEGRADED, HiveState.OFFLINE}),
    HiveState.DEGRADED: frozenset({HiveState.HEALTHY, HiveState.OFFLINE}),
    HiveState.OFFLINE: frozenset({HiveState.STARTING, HiveState.HEALTHY}),
}


def next_job_state(state: JobState, event: JobEvent) -> JobState:
    """Returns the state a job enters; raises `IllegalTransitionError` when the table has no such row."""
    try:
        return JOB_TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransitionError(f"a {state} job cannot be {event}") from None


def check_worker(before: WorkerState, after: WorkerState) -> None:
    """Raises `IllegalTransitionError` unless a worker may go from one state to the other, or stays."""
    if before != after and after not in WORKER_TRANSITIONS[before]:
        raise IllegalTransitionError(f"a {before} worker cannot become {after}")


def check_hive(before: HiveState, after: HiveState) -> None:
    """Raises `IllegalTransitionError` unless a hive may go from one state to the other, or stays."""
    if before != after and after not in HIVE_TRANSITIONS[before]:
        raise IllegalTransitionError(f"a {before} hive cannot become {after}")
