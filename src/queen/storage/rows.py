"""The queen's values as rows and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from queen.core.model import (
    Action,
    Attempt,
    Candidate,
    Decision,
    Failure,
    Hive,
    Job,
    JobState,
    JobType,
    Priority,
    Proposal,
    Usage,
)

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


def from_job(job: Job) -> Row:
    """Returns a job's row."""
    return {
        **{name: getattr(job, name) for name in _SAME},
        "request_id": job.request_id or None,
        "state": job.state.value,
        "type": job.type.value,
        "priority": job.priority.value,
        "labels": dict(job.labels),
        "attempts": [asdict(attempt) for attempt in job.attempts],
        "usage": None if job.usage is None else asdict(job.usage),
        "failure": None if job.failure is None else asdict(job.failure),
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
    return {**{name: getattr(hive, name) for name in _HIVE}, "labels": dict(hive.labels)}


def to_hive(row: Mapping[str, Any]) -> Hive:
    """Returns the hive of a row, registered and not yet heard of."""
    return Hive(**{name: row[name] for name in _HIVE}, labels=row["labels"])
