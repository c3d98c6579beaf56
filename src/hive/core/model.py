"""What a hive knows of its machine, as plain values; field names are those of the contract."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hive.core.lifecycle import WorkerState


class Backend(StrEnum):
    """What a worker can compute on; names as in the contract without their prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    CPU = "CPU"
    CUDA = "CUDA"
    ROCM = "ROCM"
    METAL = "METAL"


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or the processor. None: not known; never 0 for that. Memory in MB of 2^20 bytes."""

    id: str
    name: str
    backend: Backend
    uuid: str = ""
    compute_capability: str = ""
    memory_total_mb: int | None = None
    memory_free_mb: int | None = None
    memory_foreign_mb: int | None = None
    utilization_percent: float | None = None
    temperature_celsius: float | None = None
    power_draw_watts: float | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model on disk; `defect` says why it cannot be loaded, empty when it can. 0 or "": not known."""

    model_ref: str
    name: str
    family: str = ""
    parameter_count: int = 0
    context_length: int = 0
    quantization: str = ""
    file_size_bytes: int = 0
    modify_time_s: float = 0.0
    block_count: int = 0
    kv_bytes_per_token: int = 0
    defect: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How a worker is to be started. `context_length` 0: the model's own; `device_ids` empty: the engine's choice."""

    worker_id: str
    model_ref: str
    engine: str
    slots: int
    context_length: int = 0
    device_ids: tuple[str, ...] = ()
    memory_mb: int = 0
    engine_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """How a worker's process ended: exit status (negative: the signal) and its last lines, oldest first."""

    exit_code: int
    last_lines: tuple[str, ...]
    exit_time_s: float


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process uses. None: not known. `cpu_pct` in percent of one core, memory in MB."""

    cpu_pct: float | None = None
    rss_mb: int | None = None
    gpu_util_pct: float | None = None
    vram_mb: int | None = None
    total_vram_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """What a hive sees of one worker; None: not known (yet, or any more)."""

    worker_id: str
    state: WorkerState
    spec: WorkerSpec
    address: str | None = None
    backend: Backend | None = None
    pid: int | None = None
    slots_total: int | None = None
    context_length: int | None = None
    cpu_pct: float | None = None
    rss_mb: int | None = None
    gpu_util_pct: float | None = None
    vram_mb: int | None = None
    total_vram_mb: int | None = None
    start_time_s: float | None = None
    exit: WorkerExit | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine at one moment. `time_s` in seconds since 1970-01-01 UTC."""

    time_s: float
    devices: tuple[Device, ...] = ()
    workers: tuple[Worker, ...] = ()
    models: tuple[ModelFile, ...] = ()
    disk_free_bytes: int | None = None
    ram_free_mb: int | None = None
