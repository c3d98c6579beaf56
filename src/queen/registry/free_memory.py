"""Whether the machines have more free memory than before: enough to look again at jobs that wait for some."""

from __future__ import annotations

from typing import Final

from queen.core.model import Hive

FREED_MB: Final = 64
"""Free memory a device must gain before a job that waits for memory is looked at again, MB: less comes and goes."""


class FreeMemory:
    """The least free memory of each device since it last rose."""

    def __init__(self) -> None:
        self._least_mb: dict[tuple[str, str], int] = {}

    def has_risen(self, hive: Hive) -> bool:
        """Whether a device has clearly more free memory than at its fullest since the last time this was so."""
        risen = False
        for device in hive.devices:
            if device.memory_free_mb is None:
                continue
            least = self._least_mb.setdefault((hive.id, device.id), device.memory_free_mb)
            rises = device.memory_free_mb - least >= FREED_MB
            if rises or device.memory_free_mb < least:
                self._least_mb[hive.id, device.id] = device.memory_free_mb
            risen = risen or rises
        return risen
