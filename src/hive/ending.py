"""Why and how a hive ends: asked once, read by whoever has to stop something."""

from __future__ import annotations

import asyncio
from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 64
"""EX_USAGE of sysexits.h: what was asked for is wrong and will stay wrong."""
TAKEN: Final = 75
"""EX_TEMPFAIL of sysexits.h: another hive has the name now."""


class Ending:
    """A request to end; the first one counts."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self.exit_code = OK
        self.grace_s = 0.0

    @property
    def is_requested(self) -> bool:
        """Whether the hive is to end."""
        return self._requested.is_set()

    def request(self, exit_code: int, grace_s: float = 0.0) -> None:
        """Asks the hive to end; its workers may finish what they run for `grace_s` seconds."""
        if not self.is_requested:
            self.exit_code, self.grace_s = exit_code, grace_s
            self._requested.set()

    async def requested(self) -> None:
        """Returns when the hive is to end."""
        await self._requested.wait()
