"""Virtual time: what happens next, and the clock that jumps there."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Calendar:
    """A `wire.clock.Clock` that moves only from one entry to the next. Entries of one moment happen in their order."""

    def __init__(self, begin: float) -> None:
        self._now = begin
        self._entries: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def now(self) -> float:
        """Returns seconds since 1970-01-01 UTC, or since the start of a workload that has no dates."""
        return self._now

    def monotonic(self) -> float:
        """Returns the same: virtual time never goes back."""
        return self._now

    def at(self, time: float, act: Callable[..., None], *arguments: Any) -> None:
        """Enters what happens at a time, now at the earliest."""
        self._count += 1
        heapq.heappush(self._entries, (max(time, self._now), self._count, act, arguments))

    def next_time(self) -> float | None:
        """Returns when something happens next; None when nothing will."""
        return self._entries[0][0] if self._entries else None

    def advance(self) -> None:
        """Moves to the next entry and lets everything of that moment happen."""
        entries = self._entries
        self._now = entries[0][0]
        while entries and entries[0][0] == self._now:
            _, _, act, arguments = heapq.heappop(entries)
            act(*arguments)
