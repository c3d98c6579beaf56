"""Between what the hive knows and the messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from hive.core.delta import Change
from hive.core.lifecycle import WorkerState
from hive.core.model import Backend, Device, ModelFile, Worker, WorkerExit, WorkerSpec
from rbee.v1 import device_pb2, model_pb2, telemetry_service_pb2, worker_pb2


def device_to_wire(device: Device) -> device_pb2.Device:
    """Returns a device's message; fields that are not known stay absent."""
    return device_pb2.Device(**(asdict(device) | {"backend": backend_to_wire(device.backend)}))


def backend_to_wire(backend: Backend) -> device_pb2.Backend.ValueType:
    """Returns a backend's number."""
    return device_pb2.Backend.Value(f"BACKEND_{backend}")


def backend_from_wire(number: device_pb2.Backend.ValueType) -> Backend:
    """Returns the backend of a number; unspecified for one of a later contract."""
    name = device_pb2.Backend.Name(number) if number in device_pb2.Backend.values() else "BACKEND_UNSPECIFIED"
    return Backend(name.removeprefix("BACKEND_"))


def model_to_wire(model: ModelFile) -> model_pb2.ModelFile:
    """Returns a model file's message."""
    facts = asdict(model)
    return model_pb2.ModelFile(modify_time=timestamp(facts.pop("modify_time_s")), **facts)


def spec_to_wire(spec: WorkerSpec) -> worker_pb2.WorkerSpec:
    """Returns a worker's spec as a message."""
    return worker_pb2.WorkerSpec(**(asdict(spec) | {"engine_options": dict(spec.engine_options)}))


def spec_from_wire(spec: worker_pb2.WorkerSpec) -> WorkerSpec:
    """Returns the spec in a message, as it stands; the service checks it."""
    return WorkerSpec(
        worker_id=spec.worker_id,
        model_ref=spec.model_ref,
        engine=spec.engine,
        slots=spec.slots,
        context_length=spec.context_length,
        device_ids=tuple(spec.device_ids),
        memory_mb=spec.memory_mb,
        engine_options=tuple(sorted(spec.engine_options.items())),
    )


def exit_to_wire(exit: WorkerExit) -> worker_pb2.WorkerExit:  # noqa: A002  the contract's word
    """Returns how a worker ended as a message."""
    return worker_pb2.WorkerExit(
        exit_code=exit.exit_code, last_lines=exit.last_lines, exit_time=timestamp(exit.exit_time_s)
    )


def worker_to_wire(worker: Worker) -> telemetry_service_pb2.WorkerReport:
    """Returns all that is known of a worker."""
    known = {name: getattr(worker, name) for name in Worker.__dataclass_fields__ if name != "worker_id"}
    return _report(worker.worker_id, {name: value for name, value in known.items() if value is not None})


def change_to_wire(change: Change, number: int, time_s: float) -> telemetry_service_pb2.HiveReport:
    """Returns the report that says a change. `number` counts from 1; `time_s` is when it was seen."""
    workers = []
    for each in change.workers:
        report = _report(each.worker_id, each.changed)
        if each.absent:
            report.absent.CopyFrom(FieldMask(paths=[_wire_name(name) for name in each.absent]))
        workers.append(report)
    return telemetry_service_pb2.HiveReport(
        number=number,
        sample_time=timestamp(time_s),
        full=change.full,
        devices=[device_to_wire(device) for device in change.devices],
        workers=workers,
        removed_worker_ids=change.removed_worker_ids,
        models=[model_to_wire(model) for model in change.models or ()],
        models_changed=change.models is not None,
        disk_free_bytes=change.disk_free_bytes,
        ram_free_mb=change.ram_free_mb,
    )


def timestamp(seconds: float) -> Timestamp:
    """Returns a time point, given in seconds since 1970-01-01 UTC."""
    point = Timestamp()
    point.FromNanoseconds(int(seconds * 1e9))
    return point


def _report(worker_id: str, facts: Mapping[str, Any]) -> telemetry_service_pb2.WorkerReport:
    fields = {_wire_name(name): _wire_value(value) for name, value in facts.items()}
    if "start_time" in fields:
        fields["start_time"] = timestamp(fields["start_time"])
    return telemetry_service_pb2.WorkerReport(worker_id=worker_id, **fields)


def _wire_name(name: str) -> str:
    return name.removesuffix("_s")


def _wire_value(value: Any) -> Any:
    match value:
        case WorkerState():
            return worker_pb2.WorkerState.Value(f"WORKER_STATE_{value}")
        case Backend():
            return backend_to_wire(value)
        case WorkerSpec():
            return spec_to_wire(value)
        case WorkerExit():
            return exit_to_wire(value)
        case _:
            return value
