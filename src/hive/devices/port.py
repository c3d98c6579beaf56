"""The seam between the hive and what it runs on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from hive.core.model import Device, ProcessUse


@dataclass(frozen=True, slots=True)
class Reading:
    """Devices as they are now, and what each of our processes uses of them, by process id."""

    devices: tuple[Device, ...]
    processes: Mapping[int, ProcessUse]


class DeviceReader(Protocol):
    """Reads one kind of device. Calls block for up to some 10 ms: not for the event loop."""

    def read(self, own_pids: Collection[int]) -> Reading:
        """Returns the devices now; memory of processes outside `own_pids` counts as foreign."""
        ...
