"""Checks of a request to start a worker: every bad field at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from hive.config import NAME
from rbee.v1 import hive_agent_service_pb2
from wire.errors import FieldFault

ENGINES: Final = ("llamacpp", "synthetic")
FILE_REF: Final = "file"
SYNTHETIC_REF: Final = "synthetic"
MAX_SLOTS: Final = 256
MAX_READY_TIMEOUT_S: Final = 3600.0
DEFAULT_READY_TIMEOUT_S: Final = 300.0


def spawn_faults(request: hive_agent_service_pb2.SpawnWorkerRequest, device_ids: Collection[str]) -> list[FieldFault]:
    """Returns every bad field; whether the model's file is there and sound is looked at afterwards."""
    return list(_faults(request, device_ids))


def _faults(request: hive_agent_service_pb2.SpawnWorkerRequest, device_ids: Collection[str]) -> Iterator[FieldFault]:
    spec = request.spec
    if not NAME.fullmatch(spec.worker_id):
        yield FieldFault("spec.worker_id", "1 to 63 letters, digits, '.', '_' and '-'")
    if spec.engine not in ENGINES:
        yield FieldFault("spec.engine", f"one of {', '.join(ENGINES)}, not '{spec.engine}'")
    yield from _ref_faults(spec.model_ref, spec.engine)
    if not 1 <= spec.slots <= MAX_SLOTS:
        yield FieldFault("spec.slots", f"1 to {MAX_SLOTS}, not {spec.slots}")
    for index, device_id in enumerate(spec.device_ids):
        if device_id not in device_ids:
            yield FieldFault(f"spec.device_ids[{index}]", f"one of {', '.join(sorted(device_ids))}, not '{device_id}'")
    for key in spec.engine_options:
        if not key or "=" in key or "\0" in key + spec.engine_options[key]:
            yield FieldFault(f"spec.engine_options[{key[:32]}]", "a name without '=', a value without NUL")
    timeout_s = request.ready_timeout.ToNanoseconds() / 1e9
    if request.HasField("ready_timeout") and not 0 < timeout_s <= MAX_READY_TIMEOUT_S:
        yield FieldFault("ready_timeout", f"above 0 s to {MAX_READY_TIMEOUT_S:,.0f} s, not {timeout_s:g} s")


def _ref_faults(model_ref: str, engine: str) -> Iterator[FieldFault]:
    scheme, _, rest = model_ref.partition(":")
    if "\0" in model_ref or not rest or scheme not in (FILE_REF, SYNTHETIC_REF):
        yield FieldFault("spec.model_ref", f"file:/abs/path or synthetic:NAME, not '{model_ref}'")
    elif scheme == FILE_REF and not Path(rest).is_absolute():
        yield FieldFault("spec.model_ref", f"file: and an absolute path on the hive's machine, not '{model_ref}'")
    elif scheme == SYNTHETIC_REF and engine != SYNTHETIC_REF:
        yield FieldFault("spec.model_ref", f"a synthetic model needs the engine synthetic, not '{engine}'")
