"""The processor, its memory and the processes on it, read through psutil."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Final

import psutil

from hive.core.model import Backend, Device, ProcessUse
from hive.devices.port import Reading

MB: Final = 2**20
_CPU_SENSORS: Final = ("coretemp", "k10temp", "zenpower", "cpu_thermal")


class CpuReader:
    """Reads the processor; keeps each process's counters, since use is a difference between two readings."""

    def __init__(self) -> None:
        self._name = _processor_name()
        self._seen: dict[int, psutil.Process] = {}
        # The first reading of a counter has nothing to compare with.
        psutil.cpu_percent(None)

    def read(self, own_pids: Collection[int]) -> Reading:
        """Returns the "cpu" device; `memory_foreign_mb` is what is neither free nor resident in our processes."""
        processes = {pid: use for pid in own_pids if (use := self._process(pid)) is not None}
        for pid in self._seen.keys() - set(own_pids):
            del self._seen[pid]
        memory = psutil.virtual_memory()
        own_mb = (
            sum(use.rss_mb or 0 for use in processes.values()) + psutil.Process(os.getpid()).memory_info().rss // MB
        )
        device = Device(
            id="cpu",
            name=self._name,
            backend=Backend.CPU,
            memory_total_mb=memory.total // MB,
            memory_free_mb=memory.available // MB,
            memory_foreign_mb=max(0, (memory.total - memory.available) // MB - own_mb),
            utilization_percent=round(psutil.cpu_percent(None), 1),
            temperature_celsius=_temperature(),
        )
        return Reading((device,), processes)

    def _process(self, pid: int) -> ProcessUse | None:
        known = self._seen.get(pid)
        try:
            process = known or psutil.Process(pid)
            cpu_pct = round(process.cpu_percent(None), 1)
            rss_mb = process.memory_info().rss // MB
        except psutil.Error:
            # It ended meanwhile; its exit is reported by its supervisor.
            self._seen.pop(pid, None)
            return None
        self._seen[pid] = process
        return ProcessUse(cpu_pct=None if known is None else cpu_pct, rss_mb=rss_mb)


def memory_available_mb() -> int:
    """Returns the machine's free memory, MB."""
    return int(psutil.virtual_memory().available // MB)


def disk_free_bytes(folder: Path) -> int | None:
    """Returns free space of the file system `folder` is or would be on, in whole MB; None when it cannot be told."""
    existing = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    if existing is None:
        return None
    try:
        return int(psutil.disk_usage(str(existing)).free) // MB * MB
    except OSError:
        return None


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _temperature() -> float | None:
    read = getattr(psutil, "sensors_temperatures", None)
    sensors = read() if read is not None else {}
    found = [reading.current for name in _CPU_SENSORS for reading in sensors.get(name, ())]
    return round(max(found), 1) if found else None
