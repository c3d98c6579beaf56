"""Hives' messages as the queen's own values. Absent fields stay absent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from queen.core import model
from rbee.v1 import device_pb2, hive_pb2, model_pb2, telemetry_service_pb2, worker_pb2

_STATES: Final = {
    worker_pb2.WORKER_STATE_LOADING: model.WorkerState.LOADING,
    worker_pb2.WORKER_STATE_READY: model.WorkerState.READY,
    worker_pb2.WORKER_STATE_BUSY: model.WorkerState.READY,  # hives do not know of slots; the queen does
    worker_pb2.WORKER_STATE_DRAINING: model.WorkerState.DRAINING,
    worker_pb2.WORKER_STATE_FAILED: model.WorkerState.FAILED,
}

_DEVICE_NUMBERS: Final = (
    "memory_total_mb",
    "memory_free_mb",
    "memory_foreign_mb",
    "utilization_percent",
    "temperature_celsius",
    "power_draw_watts",
)


def backend_name(backend: device_pb2.Backend.ValueType) -> str:
    """Returns a backend in the words policies use: "cpu", "cuda", ...; "" when not known."""
    name = device_pb2.Backend.Name(backend).removeprefix("BACKEND_").lower()
    return "" if name == "unspecified" else name


def device(message: device_pb2.Device) -> model.Device:
    """Returns a device as reported."""
    present = {field.name for field, _ in message.ListFields()}
    return model.Device(
        message.id,
        message.name,
        backend_name(message.backend),
        message.uuid,
        message.compute_capability,
        **{name: getattr(message, name) for name in _DEVICE_NUMBERS if name in present},
    )


def model_file(message: model_pb2.ModelFile) -> model.ModelFile:
    """Returns a model file as reported."""
    return model.ModelFile(
        model_ref=message.model_ref,
        name=message.name,
        family=message.family,
        parameter_count=message.parameter_count,
        context_length=message.context_length,
        quantization=message.quantization,
        file_size_bytes=message.file_size_bytes,
        modify_time=message.modify_time.ToNanoseconds() / 1e9,
        block_count=message.block_count,
        kv_bytes_per_token=message.kv_bytes_per_token,
        defect=message.defect,
    )


def worker_spec(message: worker_pb2.WorkerSpec) -> model.WorkerSpec:
    """Returns how a worker was started."""
    return model.WorkerSpec(
        worker_id=message.worker_id,
        model_ref=message.model_ref,
        engine=message.engine,
        slots=message.slots,
        context_length=message.context_length,
        device_ids=tuple(message.device_ids),
        memory_mb=message.memory_mb,
        engine_options=dict(message.engine_options),
    )


def worker_exit(message: worker_pb2.WorkerExit) -> model.WorkerExit:
    """Returns how a worker ended."""
    return model.WorkerExit(message.exit_code, tuple(message.last_lines), message.exit_time.ToNanoseconds() / 1e9)


_WORKER_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "state": lambda value: _STATES[value],
    "spec": worker_spec,
    "address": str,
    "backend": backend_name,
    "pid": int,
    "slots_total": int,
    "context_length": int,
    "cpu_pct": float,
    "rss_mb": int,
    "gpu_util_pct": float,
    "vram_mb": int,
    "total_vram_mb": int,
    "start_time": lambda value: value.ToNanoseconds() / 1e9,
    "exit": worker_exit,
}


def worker_changes(message: telemetry_service_pb2.WorkerReport) -> dict[str, Any]:
    """Returns the fields of a worker that a report changes, as fields of `model.Worker`."""
    changes: dict[str, Any] = {
        field.name: _WORKER_FIELDS[field.name](value)
        for field, value in message.ListFields()
        if field.name in _WORKER_FIELDS
    }
    for name in message.absent.paths:
        if name in _WORKER_FIELDS:
            changes[name] = None
    return changes


def hello_changes(hello: telemetry_service_pb2.HiveHello) -> dict[str, Any]:
    """Returns the fields of a hive that its hello sets, as fields of `model.Hive`."""
    return {
        "address": hello.address,
        "managed": hello.mode == hive_pb2.HIVE_MODE_LOCAL,
        "instance_id": hello.instance_id,
        "platform": hello.platform,
        "version": hello.version,
        "pid": hello.pid,
        "devices": tuple(device(one) for one in hello.devices),
        "models": tuple(model_file(one) for one in hello.models),
    }


def report_changes(report: telemetry_service_pb2.HiveReport, known: model.Hive) -> dict[str, Any]:
    """Returns the fields of a hive that a report changes, as fields of `model.Hive`."""
    changes: dict[str, Any] = {}
    if report.full:
        changes["devices"] = tuple(device(one) for one in report.devices)
    elif report.devices:
        newer = {one.id: device(one) for one in report.devices}
        changes["devices"] = tuple(newer.get(old.id, old) for old in known.devices)
    if report.full or report.models_changed:
        changes["models"] = tuple(model_file(one) for one in report.models)
    if report.HasField("disk_free_bytes"):
        changes["disk_free_bytes"] = report.disk_free_bytes
    if report.HasField("ram_free_mb"):
        changes["ram_free_mb"] = report.ram_free_mb
    return changes
