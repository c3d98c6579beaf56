"""How long jobs at rest are kept: purged in small groups when they are due."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from wire import errors
from wire.clock import Clock

log = logging.getLogger(__name__)

CHUNK: Final = 500
"""Jobs purged in one transaction: some 10 ms in which other writes wait."""
LONGEST_SLEEP_S: Final = 3600.0
"""A machine that was suspended has purged what is due an hour after it woke, whatever its timers say."""
PATIENCE: Final = 0.01
"""Share of the time to keep by which jobs may be kept longer, so that those of a while go together."""


class Purged(Protocol):
    """Where jobs at rest are."""

    async def oldest_end(self) -> float | None:
        """Returns when the job that has been at rest longest ended; None when none is at rest."""
        ...

    async def purge(self, ended_before: float, limit: int) -> int:
        """Forgets up to `limit` jobs that ended before that, and all that belongs to them; returns how many."""
        ...


class Retention:
    """Forgets jobs `keep_s` seconds after their end; 0 keeps them for ever."""

    def __init__(self, store: Purged, keep_s: float, clock: Clock) -> None:
        self._store = store
        self._keep_s = keep_s
        self._clock = clock

    async def run(self) -> None:
        """Purges until cancelled; returns at once when all is kept."""
        while self._keep_s:
            look_again_in = await self.purge()
            await asyncio.sleep(look_again_in)

    async def purge(self) -> float:
        """Forgets all that is due and returns in how many seconds to look again."""
        pause = min(LONGEST_SLEEP_S, max(1.0, self._keep_s * PATIENCE))
        gone = 0
        try:
            while count := await self._store.purge(self._clock.now() - self._keep_s, CHUNK):
                gone += count
            oldest = await self._store.oldest_end()
        except errors.Unreachable as error:
            log.warning("finished jobs that are due are not purged yet: %s", error)
            return pause
        if gone:
            log.info("finished jobs that were due are purged: %d", gone)
        now = self._clock.now()
        due_in = (now if oldest is None else oldest) + self._keep_s - now
        return min(LONGEST_SLEEP_S, max(pause, due_in))
