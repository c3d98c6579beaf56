import os
from types import SimpleNamespace

import psutil

from hive.core.model import Backend, ProcessUse
from hive.devices.cpu import CpuReader, disk_free_bytes
from hive.devices.nvidia import NvidiaReader
from hive.telemetry.sampling import merged

MB = 2**20


class NotSupported(Exception):
    pass


class RecordedNvml:
    """What NVML said on a machine with two GPUs, the second of which tells little."""

    NVMLError = NotSupported
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(self, gpus=2):
        self.gpus = gpus
        self.asked_since = []

    def nvmlInit(self):
        if self.gpus is None:
            raise NotSupported("Driver Not Loaded")

    def nvmlDeviceGetCount(self):
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, gpu):
        return ["NVIDIA GeForce RTX 4090", "NVIDIA GB10"][gpu]

    def nvmlDeviceGetUUID(self, gpu):
        return f"GPU-{gpu}"

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return [(8, 9), (12, 1)][gpu]

    def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
        if gpu == 1:
            raise NotSupported
        return SimpleNamespace(total=24564 * MB, free=20000 * MB, used=4100 * MB, reserved=464 * MB)

    def nvmlDeviceGetUtilizationRates(self, gpu):
        return SimpleNamespace(gpu=37, memory=12)

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        return 61

    def nvmlDeviceGetPowerUsage(self, gpu):
        if gpu == 1:
            raise NotSupported
        return 211_500

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return [
            SimpleNamespace(pid=10, usedGpuMemory=3000 * MB if gpu == 0 else None),
            SimpleNamespace(pid=99, usedGpuMemory=1000 * MB),
        ]

    def nvmlDeviceGetProcessUtilization(self, gpu, since):
        self.asked_since.append(since)
        if gpu == 1 or since:
            raise NotSupported("Not Found")
        return [
            SimpleNamespace(pid=10, timeStamp=200, smUtil=80),
            SimpleNamespace(pid=10, timeStamp=100, smUtil=20),
        ]


def test_gpus_are_read_with_foreign_memory_told_apart():
    reading = NvidiaReader.open(RecordedNvml()).read({10})
    first, second = reading.devices
    assert (first.id, first.backend, first.uuid, first.compute_capability) == ("gpu0", Backend.CUDA, "GPU-0", "8.9")
    assert (first.memory_total_mb, first.memory_free_mb, first.memory_foreign_mb) == (24564, 20000, 1100)
    assert (first.utilization_percent, first.temperature_celsius, first.power_draw_watts) == (37.0, 61.0, 211.5)
    assert (second.memory_total_mb, second.memory_foreign_mb, second.power_draw_watts) == (None, None, None)
    assert reading.processes == {10: ProcessUse(gpu_util_pct=80.0, vram_mb=3000, total_vram_mb=24564)}


def test_utilisation_is_asked_since_the_newest_sample_and_absent_without_one():
    nvml = RecordedNvml(gpus=1)
    reader = NvidiaReader.open(nvml)
    reader.read({10})
    again = reader.read({10})
    assert nvml.asked_since == [0, 200]
    assert again.processes[10].gpu_util_pct is None


def test_without_a_driver_or_a_gpu_there_is_no_reader():
    assert NvidiaReader.open(RecordedNvml(gpus=None)) is None
    assert NvidiaReader.open(RecordedNvml(gpus=0)) is None


def test_the_processor_is_a_device_with_ram_for_memory():
    reader = CpuReader()
    reading = reader.read({os.getpid()})
    (cpu,) = reading.devices
    assert (cpu.id, cpu.backend) == ("cpu", Backend.CPU)
    assert cpu.memory_total_mb == psutil.virtual_memory().total // MB
    assert 0 < cpu.memory_free_mb <= cpu.memory_total_mb
    assert cpu.memory_foreign_mb < cpu.memory_total_mb
    assert reading.processes[os.getpid()].cpu_pct is None
    assert reading.processes[os.getpid()].rss_mb > 0
    assert reader.read({os.getpid()}).processes[os.getpid()].cpu_pct is not None


def test_a_process_that_is_gone_is_not_there():
    nobody = 2**22 + 1
    assert CpuReader().read({nobody}).processes == {}


def test_readings_of_one_process_are_put_together():
    cpu, gpu = ProcessUse(cpu_pct=1.0, rss_mb=2), ProcessUse(vram_mb=3)
    assert merged(cpu, gpu) == merged(gpu, cpu) == ProcessUse(cpu_pct=1.0, rss_mb=2, vram_mb=3)


def test_free_space_is_that_of_the_file_system_the_folder_would_be_on(tmp_path):
    assert disk_free_bytes(tmp_path / "not" / "yet") > 0
