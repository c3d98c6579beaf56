"""Puts together what the hive sees of its machine at one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hive.core.model import Device, ProcessUse, Snapshot, Worker
from hive.devices.cpu import disk_free_bytes, memory_available_mb
from hive.devices.port import DeviceReader
from hive.models.catalogue import Catalogue
from hive.processes.supervisor import Supervisor
from wire.clock import Clock


class Sampler:
    """Takes snapshots; devices and processes are read in a thread, one reading at a time."""

    def __init__(
        self,
        readers: Sequence[DeviceReader],
        supervisor: Supervisor,
        catalogue: Catalogue,
        model_folder: Path,
        clock: Clock,
    ) -> None:
        self._readers = tuple(readers)
        self._supervisor = supervisor
        self._catalogue = catalogue
        self._model_folder = model_folder
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._uses: dict[int, ProcessUse] = {}
        self.devices: tuple[Device, ...] = ()

    async def take(self) -> Snapshot:
        """Returns the machine as it is now."""
        async with self._one_at_a_time:
            pids = [worker.pid for worker in self._supervisor.views() if worker.pid is not None]
            self.devices, self._uses = await asyncio.to_thread(self._read, pids)
            disk_free = await asyncio.to_thread(disk_free_bytes, self._model_folder)
        return Snapshot(
            time_s=self._clock.now(),
            devices=self.devices,
            workers=self.workers(),
            models=self._catalogue.models,
            disk_free_bytes=disk_free,
            ram_free_mb=memory_available_mb(),
        )

    def workers(self) -> tuple[Worker, ...]:
        """Returns the workers as they are now, with what they used when it was last read."""
        return tuple(self.with_use(worker) for worker in self._supervisor.views())

    def with_use(self, worker: Worker) -> Worker:
        """Returns a worker with what it used when that was last read."""
        use = None if worker.pid is None else self._uses.get(worker.pid)
        if use is None:
            return worker
        return replace(
            worker,
            cpu_pct=use.cpu_pct,
            rss_mb=use.rss_mb,
            gpu_util_pct=use.gpu_util_pct,
            vram_mb=use.vram_mb,
            total_vram_mb=use.total_vram_mb,
        )

    def _read(self, pids: Sequence[int]) -> tuple[tuple[Device, ...], dict[int, ProcessUse]]:
        devices: list[Device] = []
        uses: dict[int, ProcessUse] = {}
        for reader in self._readers:
            reading = reader.read(pids)
            devices += reading.devices
            for pid, use in reading.processes.items():
                uses[pid] = merged(uses.get(pid, ProcessUse()), use)
        return tuple(devices), uses


def merged(one: ProcessUse, other: ProcessUse) -> ProcessUse:
    """Returns what either reading knows of a process; the second goes first where both do."""
    known = {name: value for name in ProcessUse.__dataclass_fields__ if (value := getattr(other, name)) is not None}
    return replace(one, **known)
