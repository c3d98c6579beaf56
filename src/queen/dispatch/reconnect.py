"""The first seconds of a queen, in which the hives of the one before her come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from queen.registry.cluster import Cluster
from wire.clock import Clock

RECONNECT_S: Final = 10.0
"""How long hives that were there may take to report to a new queen; they try at least every 2 s."""


class Reconnect:
    """Waits for hives as long as they may still come back: `RECONNECT_S` seconds from when it was made."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._over_s = clock.monotonic() + RECONNECT_S

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when a condition on the cluster holds, or nobody is waited for any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._over_s - self._clock.monotonic())):
                await self._cluster.until(holds)
