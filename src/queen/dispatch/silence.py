"""Hives that fall silent are degraded, then offline, when their time comes: no sooner, and without polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from queen.core.model import HiveState
from queen.registry.cluster import DEGRADED_AFTER_S, OFFLINE_AFTER_S, Cluster
from wire.clock import Clock

log = logging.getLogger(__name__)

STOPPED_S: Final = 1.0
"""A timer that fires this late means that the queen did not run in between."""


class Silence:
    """Watches for hives that are not heard of. `lost` gets a hive that is offline, and how long it was silent at least.

    `heard` is to be set whenever something of the cluster has changed.
    """

    def __init__(self, cluster: Cluster, clock: Clock, lost: Callable[[str, float], None]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._lost = lost
        self.heard = asyncio.Event()

    async def run(self) -> None:
        """Watches until cancelled."""
        awake = 0.0
        while True:
            self.heard.clear()
            due = self._cluster.next_silence()
            delay = None if due is None else max(0.0, max(due, awake + DEGRADED_AFTER_S) - self._clock.now())
            expected = self._clock.monotonic() + (delay or 0.0)
            try:
                async with asyncio.timeout(delay):
                    await self.heard.wait()
            except TimeoutError:
                if self._clock.monotonic() > expected + STOPPED_S:
                    # The queen herself was stopped: what the hives sent meanwhile has yet to be read.
                    awake = self._clock.now()
                    continue
                self._expire()

    def _expire(self) -> None:
        for hive in self._cluster.expire(self._clock.now()):
            log.warning("hive %s is %s: silent since its last report", hive.id, hive.state)
            if hive.state is HiveState.OFFLINE:
                self._lost(hive.id, OFFLINE_AFTER_S / 2)
