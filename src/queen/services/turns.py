"""Turns at work that takes a processor: so many at once, the others in the order they came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wire import errors


class Turns:
    """Lets `at_once` callers work; `most_waiting` more wait for their turn, and who comes then is refused.

    `what` names the work in the plural, `reason` is that of the refusal; `retry_s` is when to ask again, seconds.
    """

    def __init__(self, what: str, reason: str, *, at_once: int, most_waiting: int, retry_s: float) -> None:
        self._what = what
        self._reason = reason
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._retry_s = retry_s
        self._free = asyncio.Semaphore(at_once)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn, which ends with the block; raises `NoCapacity` where too many wait."""
        if self._free.locked() and self._waiting >= self._most_waiting:
            raise errors.NoCapacity(
                f"{self._at_once} {self._what} run and {self._waiting} wait for their turn; ask again in "
                f"{self._retry_s:.0f} s",
                self._reason,
                retry_after_s=self._retry_s,
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
