"""The queen's values as rows and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any

from queen.core.model import (
    Action,
    Asks,
    Attempt,
    Candidate,
    Decision,
    Failure,
    Hive,
    HiveState,
    Job,
    JobState,
    JobType,
    Priority,
    Proposal,
    Usage,
)
from queen.core.tenants import DEFAULT, Quota, Tenant, TenantUsage
from queen.core.versions import PolicyActivation, PolicyVersion, Turn

Row = dict[str, Any]

_SAME = (
    "id",
    "order",
    "model",
    "model_ref",
    "tenant_id",
    "session_id",
    "detached",
    "no_failover",
    "timeout_s",
    "submit_time",
    "first_token_time",
    "end_time",
    "finish_reason",
    "trace_id",
    "seed",
)


def _fields(value: Any) -> Row:
    """Returns the fields of a value as they are; `dataclasses.asdict` copies deeply and takes several times as long."""
    return {name: getattr(value, name) for name in value.__slots__}


def _fields_or_none(value: Any) -> Row | None:
    return None if value is None else _fields(value)


def from_job(job: Job) -> Row:
    """Returns a job's row."""
    return {
        **{name: getattr(job, name) for name in _SAME},
        "request_id": job.request_id or None,
        "state": job.state.value,
        "type": job.type.value,
        "priority": job.priority.value,
        "labels": dict(job.labels),
        "attempts": [{**_fields(attempt), "failure": _fields_or_none(attempt.failure)} for attempt in job.attempts],
        "usage": _fields_or_none(job.usage),
        "failure": _fields_or_none(job.failure),
    }


def to_job(row: Mapping[str, Any]) -> Job:
    """Returns the job of a row."""
    return Job(
        **{name: row[name] for name in _SAME},
        request_id=row["request_id"] or "",
        state=JobState(row["state"]),
        type=JobType(row["type"]),
        priority=Priority(row["priority"]),
        labels=row["labels"],
        attempts=tuple(_to_attempt(attempt) for attempt in row["attempts"]),
        usage=None if row["usage"] is None else Usage(**row["usage"]),
        failure=None if row["failure"] is None else Failure(**row["failure"]),
    )


UNFINISHED = (
    *("id", "order", "model", "model_ref", "submit_time", "request_id", "state", "type", "priority", "tenant_id"),
    *("session_id", "labels", "detached", "no_failover", "timeout_s", "first_token_time", "attempts", "trace_id"),
    "seed",
)
"""Columns of a job that is not at rest; the others are empty until it is."""

_STATES = {state.value: state for state in JobState}
_TYPES = {type_.value: type_ for type_ in JobType}
_PRIORITIES = {priority.value: priority for priority in Priority}
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


def to_unfinished(row: Sequence[Any], asks: Asks) -> Job:
    """Returns the job of `UNFINISHED` columns, `labels` and `attempts` as JSON text.

    A queen reads these by the hundred thousand before she serves: nothing is done here for a row that need not be.
    """
    job_id, order, model, model_ref, submit_time, request_id, state, type_, priority, tenant_id, *more = row
    session_id, labels, detached, no_failover, timeout_s, first_token_time, attempts, trace_id, seed = more
    return Job(
        job_id,
        order,
        model,
        model_ref,
        submit_time,
        request_id or "",
        _STATES[state],
        _TYPES[type_],
        _PRIORITIES[priority],
        tenant_id or DEFAULT,
        session_id,
        _NO_LABELS if labels == "{}" else json.loads(labels),
        detached,
        no_failover,
        timeout_s,
        first_token_time,
        attempts=() if attempts == "[]" else tuple(_to_attempt(attempt) for attempt in json.loads(attempts)),
        trace_id=trace_id,
        seed=seed,
        asks=asks,
    )


def _to_attempt(stored: Row) -> Attempt:
    failure = stored["failure"]
    return Attempt(**{**stored, "failure": None if failure is None else Failure(**failure)})


def from_decision(decision: Decision) -> Row:
    """Returns a decision's row."""
    proposal = decision.proposal
    return {
        "id": decision.id,
        "job_id": proposal.job_id,
        "policy": decision.policy,
        "policy_version": decision.policy_version,
        "action": proposal.action.value,
        "worker_id": proposal.worker_id,
        "hive_id": proposal.hive_id,
        "reason": proposal.reason,
        "candidates": [_from_candidate(candidate) for candidate in proposal.candidates],
        "decide_time": decision.decide_time,
        "duration_s": decision.duration_s,
        "refusal": decision.refusal,
    }


def _from_candidate(candidate: Candidate) -> Row:
    """Returns what a candidate says beside the defaults: a decision is kept for every job, with up to 64 of them."""
    row: Row = {"hive_id": candidate.hive_id, "worker_id": candidate.worker_id}
    if candidate.reject_reason:
        row["reject_reason"] = candidate.reject_reason
    if candidate.score is not None:
        row["score"] = candidate.score
    if candidate.alike:
        row["alike"] = candidate.alike
    return row


def to_decision(row: Mapping[str, Any]) -> Decision:
    """Returns the decision of a row."""
    proposal = Proposal(
        job_id=row["job_id"],
        action=Action(row["action"]),
        reason=row["reason"],
        worker_id=row["worker_id"],
        hive_id=row["hive_id"],
        candidates=tuple(Candidate(**candidate) for candidate in row["candidates"]),
    )
    return Decision(
        id=row["id"],
        proposal=proposal,
        policy=row["policy"],
        policy_version=row["policy_version"],
        decide_time=row["decide_time"],
        duration_s=row["duration_s"],
        refusal=row["refusal"],
    )


_HIVE = ("id", "address", "managed", "platform", "version", "last_report_time")


def from_hive(hive: Hive) -> Row:
    """Returns a hive's row: what is known of it without its telemetry."""
    # One that was not heard of since the queen started is as the queen before her knew it.
    unheard = hive.state is HiveState.REGISTERED and hive.was_online
    status = HiveState.HEALTHY if unheard else hive.state
    return {**{name: getattr(hive, name) for name in _HIVE}, "labels": dict(hive.labels), "status": status.value}


def to_hive(row: Mapping[str, Any]) -> Hive:
    """Returns the hive of a row, registered and not yet heard of."""
    was_online = Hive("", HiveState(row["status"])).online
    return Hive(**{name: row[name] for name in _HIVE}, labels=row["labels"], was_online=was_online)


def from_output(job_id: str, first_sequence: int, frames: Sequence[bytes]) -> Row:
    """Returns the row of a job's events."""
    return {
        "job_id": job_id,
        "first_sequence": first_sequence,
        "frames": b"".join(frames),
        "lengths": [len(frame) for frame in frames],
    }


def to_output(row: Mapping[str, Any]) -> tuple[int, list[bytes]]:
    """Returns the sequence of the first event of a row, and the events."""
    ends = accumulate(row["lengths"], initial=0)
    return row["first_sequence"], [row["frames"][start:end] for start, end in pairwise(ends)]


def from_policy(policy: PolicyVersion) -> Row:
    """Returns the row of a policy's version."""
    return {"id": f"{policy.name}@{policy.version}", **_fields(policy)}


def to_policy(row: Mapping[str, Any]) -> PolicyVersion:
    """Returns the version of a row."""
    return PolicyVersion(**{name: row[name] for name in PolicyVersion.__slots__})


def from_activation(activation: PolicyActivation) -> Row:
    """Returns the row of a change of who is in charge."""
    return {**_fields(activation), "turn": activation.turn.value, "request_id": activation.request_id or None}


def to_activation(row: Mapping[str, Any]) -> PolicyActivation:
    """Returns the change of a row."""
    return PolicyActivation(**{**row, "turn": Turn(row["turn"]), "request_id": row["request_id"] or ""})


_QUOTA = ("max_concurrent_jobs", "max_tokens_daily", "max_vram_mb")


def from_tenant(tenant: Tenant) -> Row:
    """Returns a tenant's row."""
    return {
        **{name: getattr(tenant, name) for name in ("id", "name", "weight", "create_time", "request_id")},
        **{name: getattr(tenant.quota, name) for name in _QUOTA},
        "allowed_models": list(tenant.quota.allowed_models),
    }


def to_tenant(row: Mapping[str, Any]) -> Tenant:
    """Returns the tenant of a row."""
    quota = Quota(**{name: row[name] for name in _QUOTA}, allowed_models=tuple(row["allowed_models"]))
    return Tenant(row["id"], row["name"], row["weight"], quota, row["create_time"], row["request_id"])


def from_usage(tenant_id: str, day: int, usage: TenantUsage) -> Row:
    """Returns the row of what a tenant used on a day."""
    return {"tenant_id": tenant_id, "day": day, **_fields(usage)}
