"""Where a worker's process stands: one table of states and events."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from wire import errors


class WorkerState(StrEnum):
    """States as in the contract; STOPPED is known to the hive alone, which then forgets the worker."""

    LOADING = "LOADING"
    READY = "READY"
    DRAINING = "DRAINING"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


class WorkerEvent(StrEnum):
    """What can happen to a worker's process."""

    ANNOUNCED = "ANNOUNCED"
    STOP_REQUESTED = "STOP_REQUESTED"
    EXITED = "EXITED"


TRANSITIONS: Final[dict[tuple[WorkerState, WorkerEvent], WorkerState]] = {
    (WorkerState.LOADING, WorkerEvent.ANNOUNCED): WorkerState.READY,
    (WorkerState.LOADING, WorkerEvent.STOP_REQUESTED): WorkerState.DRAINING,
    (WorkerState.LOADING, WorkerEvent.EXITED): WorkerState.FAILED,
    (WorkerState.READY, WorkerEvent.STOP_REQUESTED): WorkerState.DRAINING,
    (WorkerState.READY, WorkerEvent.EXITED): WorkerState.FAILED,
    (WorkerState.DRAINING, WorkerEvent.STOP_REQUESTED): WorkerState.DRAINING,
    (WorkerState.DRAINING, WorkerEvent.EXITED): WorkerState.STOPPED,
    (WorkerState.FAILED, WorkerEvent.STOP_REQUESTED): WorkerState.STOPPED,
}
"""Every transition there is. An announcement while DRAINING is refused before it gets here: its token is void."""


def next_state(state: WorkerState, event: WorkerEvent) -> WorkerState:
    """Returns the state after an event; raises `WrongState` for one the table does not have."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise errors.WrongState(f"a worker that is {state} cannot be {event}", "WORKER_STATE")
    return after
