"""How fast a queue empties, measured from the jobs that leave it."""

from __future__ import annotations

from collections import deque
from typing import Final

RECENT_S: Final = 300.0
"""How far back is looked, seconds: long enough for a few answers of a slow model, short enough to see a change."""

MOST_SAMPLES: Final = 256
ENOUGH_SAMPLES: Final = 16
"""Departures before the rate is known: four slots have then each served four jobs."""


class DrainRate:
    """Departures per second of one queue, while somebody waited.

    A sample is the time between two departures with a job waiting all the while. Idle times say nothing about how fast
    a queue would empty, and a job that found a free slot says nothing about how fast one becomes free.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)  # (when, seconds since the one before)
        self._last: float | None = None

    def left(self, now: float, waiting: int) -> None:
        """Notes that a job was given to a worker; `waiting`: how many still wait behind it."""
        if self._last is not None:
            self._samples.append((now, max(0.0, now - self._last)))
        self._last = now if waiting else None

    def stopped(self) -> None:
        """Notes that nobody waits any more."""
        self._last = None

    def per_s(self, now: float) -> float | None:
        """Returns departures per second over the recent past; None while there are too few to tell.

        The time since the last departure counts too, so that a queue that has stopped is seen to be slow.
        """
        samples = self._samples
        while samples and samples[0][0] < now - RECENT_S:
            samples.popleft()
        if len(samples) < ENOUGH_SAMPLES:
            return None
        spent = sum(seconds for _, seconds in samples)
        if self._last is not None:
            spent += max(0.0, now - self._last)
        return len(samples) / max(spent, 1e-3)

    def idle(self, now: float) -> bool:
        """Whether it has nothing to tell any more."""
        return self._last is None and (not self._samples or self._samples[-1][0] < now - RECENT_S)
