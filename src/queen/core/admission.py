"""Whether the queue takes a job in: room in its class, and a chance to be served before its time is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from queen.core.model import Job
from queen.core.queue import JobQueue
from wire import errors

PLATFORM_CAPACITY: Final = 100
"""Jobs of one class that may wait in platform mode unless told otherwise (architecture.md section 2)."""

RETRY_UNKNOWN_S: Final = 5.0
"""When to ask again while too few jobs have left the queue to tell how fast it empties, seconds."""
RETRY_LEAST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0


def capacity(mode: str, told: int | None) -> int:
    """Returns how many jobs of one class may wait, 0 for any number: what was told, else what the mode has."""
    if told is not None:
        return told
    return PLATFORM_CAPACITY if mode == "platform" else 0


def refusal(
    job: Job,
    queue: JobQueue,
    *,
    capacity: int,
    patience_s: float | None,
    slot_is_free: Callable[[], bool],
    now: float,
) -> errors.NoCapacity | None:
    """Returns why a job may not join the queue now; None when it may.

    `capacity`: jobs of its class that may wait, 0 for any number. `patience_s`: seconds it may wait at most, None when
    nothing limits them. `slot_is_free` tells whether a worker could take it at once, and is asked last.

    QUEUE_FULL when its class has no place; DEADLINE_UNREACHABLE when, as fast as jobs of its model have been served
    lately, its turn would come too late. The latter only where that is known well, and counting no more jobs before it
    than there can be: a job that could be served in time is never refused. Both say when to ask again.
    """
    found = _full(job, queue, capacity, now)
    if found is None and (late := _too_late(job, queue, patience_s, now)) is not None and not slot_is_free():
        return late
    return found


def _full(job: Job, queue: JobQueue, capacity: int, now: float) -> errors.NoCapacity | None:
    depth = queue.depth(job.priority)
    if not capacity or depth < capacity:
        return None
    rate = queue.drain_per_s(job.priority, now)
    retry_s = RETRY_UNKNOWN_S if rate is None else _clamped((depth - capacity + 1) / rate)
    return errors.NoCapacity(
        f"the queue of {job.priority} jobs is full: {depth:,} wait, its capacity is {capacity:,}; ask again in "
        f"{retry_s:.0f} s. See: rbee jobs list --queue",
        "QUEUE_FULL",
        retry_after_s=retry_s,
    )


def _too_late(job: Job, queue: JobQueue, patience_s: float | None, now: float) -> errors.NoCapacity | None:
    rate = queue.drain_per_s(job.model_ref, now)
    if rate is None or patience_s is None:
        return None
    # Both are at least the number of jobs of its model up to and with this one.
    place = min(queue.position_of_new(job), queue.waiting_for(job.model_ref, job.priority) + 1)
    wait_s = place / rate
    if wait_s <= patience_s:
        return None
    retry_s = _clamped(wait_s - patience_s)
    return errors.NoCapacity(
        f"{place - 1:,} jobs of {job.model} come first and {rate:.2g} a second are served: its turn would come "
        f"in about {wait_s:.0f} s and it may wait {patience_s:.0f} s; ask again in {retry_s:.0f} s, or allow more with "
        "--queue-timeout and --timeout",
        "DEADLINE_UNREACHABLE",
        retry_after_s=retry_s,
    )


def _clamped(seconds: float) -> float:
    return min(RETRY_MOST_S, max(RETRY_LEAST_S, seconds))
