"""NVIDIA GPUs, read through NVML (the `pynvml` module of nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Self

import pynvml

from hive.core.model import Backend, Device, ProcessUse
from hive.devices.cpu import MB
from hive.devices.port import Reading


class NvidiaReader:
    """Reads every GPU the driver shows. What a GPU or driver does not tell is absent, never 0."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        self._newest_sample_us = [0] * len(self._handles)

    @classmethod
    def open(cls, nvml: Any = pynvml) -> Self | None:
        """Returns a reader where a driver answers with at least one GPU; None on any other machine."""
        try:
            nvml.nvmlInit()
            reader = cls(nvml)
        except nvml.NVMLError:
            return None
        return reader if reader._handles else None

    def read(self, own_pids: Collection[int]) -> Reading:
        """Returns the GPUs as "gpu0", "gpu1", ... and what each own process uses, summed over them."""
        devices: list[Device] = []
        processes: dict[int, ProcessUse] = {}
        for index, handle in enumerate(self._handles):
            device, uses = self._gpu(index, handle, own_pids)
            devices.append(device)
            for pid, use in uses.items():
                processes[pid] = _sum(processes[pid], use) if pid in processes else use
        return Reading(tuple(devices), processes)

    def _gpu(self, index: int, handle: Any, own_pids: Collection[int]) -> tuple[Device, dict[int, ProcessUse]]:
        nvml = self._nvml
        # Version 2 keeps what the driver reserves apart from what processes use; older drivers have only version 1.
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        if memory is None:
            memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        total_mb = None if memory is None else memory.total // MB
        uses = self._processes(index, handle, own_pids, total_mb)
        own_mb = sum(use.vram_mb or 0 for use in uses.values())
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        temperature = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        capability = self._ask(nvml.nvmlDeviceGetCudaComputeCapability, handle)
        device = Device(
            id=f"gpu{index}",
            name=self._ask(nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU",
            backend=Backend.CUDA,
            uuid=self._ask(nvml.nvmlDeviceGetUUID, handle) or "",
            compute_capability="" if capability is None else f"{capability[0]}.{capability[1]}",
            memory_total_mb=total_mb,
            memory_free_mb=None if memory is None else memory.free // MB,
            memory_foreign_mb=None if memory is None else max(0, memory.used // MB - own_mb),
            utilization_percent=None if rates is None else float(rates.gpu),
            temperature_celsius=None if temperature is None else float(temperature),
            power_draw_watts=None if milliwatts is None else round(milliwatts / 1000, 1),
        )
        return device, uses

    def _processes(
        self, index: int, handle: Any, own_pids: Collection[int], total_mb: int | None
    ) -> dict[int, ProcessUse]:
        running = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
        samples = self._ask(self._nvml.nvmlDeviceGetProcessUtilization, handle, self._newest_sample_us[index]) or ()
        use_of: dict[int, float] = {}
        for sample in sorted(samples, key=lambda sample: sample.timeStamp):
            use_of[sample.pid] = float(sample.smUtil)
            self._newest_sample_us[index] = sample.timeStamp
        return {
            process.pid: ProcessUse(
                gpu_util_pct=use_of.get(process.pid),
                # The driver tells no size where it manages memory itself (Windows, some virtual GPUs).
                vram_mb=None if process.usedGpuMemory is None else process.usedGpuMemory // MB,
                total_vram_mb=total_mb,
            )
            for process in running
            if process.pid in own_pids
        }

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Returns NVML's answer, None when this GPU or driver has none."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


def _sum(one: ProcessUse, other: ProcessUse) -> ProcessUse:
    """Adds up one process's use of two GPUs; utilisation is that of the busier one."""
    return ProcessUse(
        gpu_util_pct=_known(max, one.gpu_util_pct, other.gpu_util_pct),
        vram_mb=_known(sum, one.vram_mb, other.vram_mb),
        total_vram_mb=_known(sum, one.total_vram_mb, other.total_vram_mb),
    )


def _known(combine: Callable[[list[Any]], Any], *values: float | None) -> Any:
    present = [value for value in values if value is not None]
    return combine(present) if present else None
