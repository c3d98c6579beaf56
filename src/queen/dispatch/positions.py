"""Tells waiting callers their places in the queue as these change."""

from __future__ import annotations

import asyncio
from typing import Final

from queen.links import events
from queen.registry.jobs import JobTable
from wire.clock import Clock

TOLD_EVERY_S: Final = 1.0
"""Least time between two passes, seconds: nobody is told two places within it."""


class Positions:
    """Appends an event to the feed of each waiting job that somebody reads and whose place has changed.

    The first change after a quiet second is told at once, those that follow gather for the next second. A pass looks at
    the jobs that are read alone, each place is found by bisection, and without such jobs there is none.
    """

    def __init__(self, jobs: JobTable, clock: Clock) -> None:
        self._jobs = jobs
        self._clock = clock

    async def run(self) -> None:
        """Runs passes until cancelled."""
        while True:
            await self._jobs.moved.wait()
            self._jobs.moved.clear()
            self.tell()
            await asyncio.sleep(TOLD_EVERY_S)

    def tell(self) -> None:
        """Makes one pass over the waiting jobs that somebody reads."""
        self._jobs.queue.promote(self._clock.now())
        for job_id, live in list(self._jobs.followed.items()):
            if not live.feed.readers:
                del self._jobs.followed[job_id]
                continue
            position = self._jobs.queue.position(job_id)
            if position != live.position_told:
                live.position_told = position
                live.feed.append(events.queued(live.feed.last_sequence + 1, position))
