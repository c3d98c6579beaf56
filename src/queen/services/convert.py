"""The queen's values as messages of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from queen.core import feasibility, model
from queen.registry.cluster import Cluster
from rbee.v1 import (
    decision_pb2,
    device_pb2,
    generation_pb2,
    hive_pb2,
    job_pb2,
    model_pb2,
    worker_pb2,
)

_FINISH_REASONS: Final = {
    "stop": generation_pb2.FINISH_REASON_STOP,
    "length": generation_pb2.FINISH_REASON_LENGTH,
    "tool_calls": generation_pb2.FINISH_REASON_TOOL_CALLS,
}

_JOB_TYPES: Final = {
    model.JobType.TEXT_GEN: job_pb2.JOB_TYPE_TEXT_GEN,
    model.JobType.EMBEDDING: job_pb2.JOB_TYPE_EMBEDDING,
}


def job_state(state: model.JobState) -> job_pb2.JobState.ValueType:
    """Returns a job state of the contract."""
    return job_pb2.JobState.Value(f"JOB_STATE_{state.name}")


def job_states(states: list[job_pb2.JobState.ValueType]) -> list[model.JobState]:
    """Returns the queen's states for those of a filter; "any state" is left out."""
    names = [job_pb2.JobState.Name(state).removeprefix("JOB_STATE_") for state in states if state]
    return [model.JobState[name] for name in names]


def job(value: model.Job, position: int = 0, decided: model.Decision | None = None) -> job_pb2.Job:
    """Returns a job as the contract has it; `position` is its place in the queue, 0 when it does not wait."""
    message = job_pb2.Job(
        id=value.id,
        state=job_state(value.state),
        model=value.model,
        model_ref=value.model_ref,
        type=_JOB_TYPES[value.type],
        priority=job_pb2.Priority.Value(f"PRIORITY_{value.priority.name}"),
        tenant_id=value.tenant_id,
        session_id=value.session_id,
        labels=dict(value.labels),
        detached=value.detached,
        queue_position=position,
        attempts=[_attempt(attempt) for attempt in value.attempts],
        finish_reason=_FINISH_REASONS.get(value.finish_reason, generation_pb2.FINISH_REASON_UNSPECIFIED),
        failure=_failure(value.failure),
        decision=None if decided is None else decision(decided),
        trace_id=value.trace_id,
        seed=value.seed,
    )
    _set_times(message, submit_time=value.submit_time, first_token_time=value.first_token_time, end_time=value.end_time)
    if value.usage is not None:
        message.usage.prompt_tokens = value.usage.prompt_tokens
        message.usage.completion_tokens = value.usage.completion_tokens
        message.usage.cached_prompt_tokens = value.usage.cached_prompt_tokens
    return message


def _attempt(value: model.Attempt) -> job_pb2.JobAttempt:
    message = job_pb2.JobAttempt(
        number=value.number, worker_id=value.worker_id, hive_id=value.hive_id, failure=_failure(value.failure)
    )
    _set_times(message, dispatch_time=value.dispatch_time, end_time=value.end_time)
    return message


def _failure(value: model.Failure | None) -> job_pb2.JobFailure | None:
    if value is None:
        return None
    return job_pb2.JobFailure(reason=value.reason, message=value.message, code=value.code, retriable=value.retriable)


def decision(value: model.Decision) -> decision_pb2.Decision:
    """Returns a decision as the contract has it."""
    proposal = value.proposal
    message = decision_pb2.Decision(
        id=value.id,
        job_id=proposal.job_id,
        policy=value.policy,
        policy_version=value.policy_version,
        action=decision_pb2.DecisionAction.Value(f"DECISION_ACTION_{proposal.action.name}"),
        worker_id=proposal.worker_id,
        hive_id=proposal.hive_id,
        reason=proposal.reason,
        candidates=[
            decision_pb2.Candidate(
                worker_id=one.worker_id,
                hive_id=one.hive_id,
                reject_reason=one.reject_reason,
                score=one.score,
                alike=one.alike,
            )
            for one in proposal.candidates
        ],
        refusal=value.refusal,
    )
    message.duration.FromNanoseconds(int(value.duration_s * 1e9))
    _set_times(message, decide_time=value.decide_time)
    return message


def worker(value: model.Worker, cluster: Cluster, now: float) -> worker_pb2.Worker:
    """Returns a worker as the contract has it, with the queen's own knowledge of its slots."""
    message = worker_pb2.Worker(
        id=value.id,
        hive_id=value.hive_id,
        state=worker_pb2.WorkerState.Value(f"WORKER_STATE_{value.state.name}"),
        model_ref=value.model_ref,
        model=cluster.models.name_of(value.model_ref),
        address=value.address,
        engine=value.spec.engine,
        backend=_backend(value.backend),
        device_ids=value.spec.device_ids,
        pid=value.pid,
        slots_total=value.slots_total,
        slots_available=cluster.slots_available(value.id),
        context_length=value.context_length,
        cpu_pct=value.cpu_pct,
        rss_mb=value.rss_mb,
        gpu_util_pct=value.gpu_util_pct,
        vram_mb=value.vram_mb,
        total_vram_mb=value.total_vram_mb,
        jobs_completed=cluster.jobs_completed(value.id),
        avg_tokens_per_sec=cluster.avg_tokens_per_sec(value.id),
        pinned=cluster.is_pinned(value.id),
        memory_claimed_mb=value.spec.memory_mb,
    )
    if value.start_time:
        message.uptime.FromNanoseconds(max(0, int((now - value.start_time) * 1e9)))
    if (idle_since := cluster.idle_since(value.id)) is not None:
        message.idle.FromNanoseconds(max(0, int((now - idle_since) * 1e9)))
    if value.exit is not None:
        message.exit.exit_code = value.exit.exit_code
        message.exit.last_lines.extend(value.exit.last_lines)
        _set_times(message.exit, exit_time=value.exit.exit_time)
    return message


def hive(value: model.Hive, claims_mb: Mapping[str, int]) -> hive_pb2.Hive:
    """Returns a hive as the contract has it; `claims_mb` is the memory promised to workers, by device id."""
    message = hive_pb2.Hive(
        id=value.id,
        address=value.address,
        mode=hive_pb2.HIVE_MODE_LOCAL if value.managed else hive_pb2.HIVE_MODE_NETWORK,
        labels=dict(value.labels),
        state=hive_pb2.HiveState.Value(f"HIVE_STATE_{value.state.name}"),
        devices=[_device(one, claims_mb.get(one.id, 0)) for one in value.devices],
        models=[model_file(one) for one in value.models],
        platform=value.platform,
        version=value.version,
        disk_free_bytes=value.disk_free_bytes,
        ram_free_mb=value.ram_free_mb,
        managed=value.managed,
    )
    _set_times(message, last_report_time=value.last_report_time)
    return message


def _device(value: model.Device, claimed_mb: int) -> device_pb2.Device:
    return device_pb2.Device(
        id=value.id,
        name=value.name,
        backend=_backend(value.backend),
        uuid=value.uuid,
        compute_capability=value.compute_capability,
        memory_total_mb=value.memory_total_mb,
        memory_free_mb=value.memory_free_mb,
        memory_foreign_mb=value.memory_foreign_mb,
        utilization_percent=value.utilization_percent,
        temperature_celsius=value.temperature_celsius,
        power_draw_watts=value.power_draw_watts,
        memory_claimed_mb=claimed_mb,
    )


def model_file(value: model.ModelFile) -> model_pb2.ModelFile:
    """Returns a model file as the contract has it."""
    message = model_pb2.ModelFile(
        model_ref=value.model_ref,
        name=value.name,
        family=value.family,
        parameter_count=value.parameter_count,
        context_length=value.context_length,
        quantization=value.quantization,
        file_size_bytes=value.file_size_bytes,
        block_count=value.block_count,
        kv_bytes_per_token=value.kv_bytes_per_token,
        defect=value.defect,
    )
    _set_times(message, modify_time=value.modify_time)
    return message


def known_model(model_ref: str, files: Mapping[str, model.ModelFile], cluster: Cluster) -> model_pb2.Model:
    """Returns a model as the contract has it; `files` is by hive."""
    file = next(iter(files.values()))
    return model_pb2.Model(
        model_ref=model_ref,
        name=file.name,
        file=model_file(file),
        hive_ids=sorted(files),
        worker_ids=[one.id for one in cluster.find_workers_with_model(model_ref)],
        memory_required_mb=feasibility.memory_required_mb(file),
    )


def _backend(name: str) -> device_pb2.Backend.ValueType:
    return device_pb2.Backend.Value(f"BACKEND_{name.upper() or 'UNSPECIFIED'}")


def _set_times(message: Message, **times: float | None) -> None:
    for name, seconds in times.items():
        if seconds:
            field: Any = getattr(message, name)
            assert isinstance(field, Timestamp), f"{name} is a time"
            field.FromNanoseconds(int(seconds * 1e9))
