"""Why a job ran where and when it did, or why it waits, in words for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from queen.core.model import Action, Attempt, Candidate, Decision, Job, JobState, Priority
from wire.words import span

MOST_CANDIDATES: Final = 20
"""Candidates told of one decision; the decisions themselves name the rest."""


def told(job: Job, decisions: Sequence[Decision], position: int, now: float) -> str:
    """Returns the story of a job, line by line. `decisions` are about it, oldest first; `position` as in its queue.

    Times are told from its submission on.
    """
    lines = [_headline(job, position, now)]
    ends = [*(later.decide_time for _, later in pairwise(decisions)), job.end_time or now]
    for decision, end in zip(decisions, ends, strict=False):
        lines.append(_decided(job, decision, end))
    if not decisions:
        lines.append("nobody has decided about it yet" if job.state is JobState.QUEUED else "no decision of it is kept")
    newest = next((one for one in reversed(decisions) if one.proposal.candidates), None)
    if newest is not None:
        lines += _candidates(newest)
    lines += [line for attempt in job.attempts for line in _attempt(job, attempt)]
    lines += _ending(job)
    return "\n".join(lines)


def _headline(job: Job, position: int, now: float) -> str:
    who = f"{job.id}, {'a batch' if job.priority is Priority.BATCH else 'an interactive'} job of tenant {job.tenant_id}"
    what = f"{who} for {job.model},"
    if job.state is JobState.QUEUED:
        place = f" at place {position}" if position else ""
        return f"{what} waits in the queue{place} since {span(now - job.queued_since)}"
    if job.resting and not job.attempts:
        return f"{what} was given to no worker: it is {job.state}"
    where = f"{job.attempt.worker_id} of {job.attempt.hive_id}"
    waited = span(job.attempts[0].dispatch_time - job.submit_time)
    stands = f"ran on {where}: it is {job.state}" if job.resting else f"runs on {where}"
    return f"{what} waited {waited} and {stands}"


def _decided(job: Job, decision: Decision, end: float) -> str:
    proposal = decision.proposal
    version = f" {decision.policy_version}" if decision.policy_version else ""
    by = "the scheduler without a policy" if decision.policy == "simple" else f"policy {decision.policy}{version}"
    after = f"after {span(decision.decide_time - job.submit_time)} {by}, in {span(decision.duration_s)}"
    what = {
        Action.DISPATCH: f"gave it to {proposal.worker_id}",
        Action.WAIT: "left it waiting",
        Action.START_WORKER: f"had a worker started on {proposal.hive_id}",
        Action.EVICT: f"had {proposal.worker_id} stopped to make room",
        Action.REJECT: "refused it",
    }[proposal.action]
    if decision.refusal:
        wanted = {Action.DISPATCH: f"give it to {proposal.worker_id}", Action.WAIT: "let it wait"}.get(
            proposal.action,
            f"{proposal.action.value.replace('_', ' ')} {proposal.worker_id or proposal.hive_id}".strip(),
        )
        return (
            f"{after}, wanted to {wanted} ({proposal.reason}), which was not allowed: {decision.refusal}; "
            f"for {span(end - decision.decide_time)}"
        )
    lasts = "" if proposal.action in (Action.DISPATCH, Action.REJECT) else f"; for {span(end - decision.decide_time)}"
    return f"{after}, {what}: {proposal.reason}{lasts}"


def _candidates(decision: Decision) -> Iterator[str]:
    candidates = decision.proposal.candidates
    yield "considered:" if len(candidates) <= MOST_CANDIDATES else f"considered, the first {MOST_CANDIDATES}:"
    for one in candidates[:MOST_CANDIDATES]:
        yield f"  {_name(one)}: {_verdict(decision, one)}"


def _name(candidate: Candidate) -> str:
    if candidate.alike:
        return f"{candidate.alike:,} more"
    return candidate.worker_id or f"a new worker on {candidate.hive_id}"


def _verdict(decision: Decision, one: Candidate) -> str:
    if one.reject_reason:
        return one.reject_reason
    score = "" if one.score is None else f", score {one.score:g}"
    proposal = decision.proposal
    # The name of a worker that is to be started is new: its place was the candidate.
    chosen = one.worker_id == proposal.worker_id or (not one.worker_id and one.hive_id == proposal.hive_id)
    if one.alike or not chosen or proposal.action not in (Action.DISPATCH, Action.START_WORKER):
        return f"possible{score}"
    return f"chosen{score}" + (f", but {decision.refusal}" if decision.refusal else "")


def _attempt(job: Job, attempt: Attempt) -> Iterator[str]:
    if attempt.failure is None:
        return
    ran = "" if attempt.end_time is None else f" after {span(attempt.end_time - attempt.dispatch_time)}"
    line = (
        f"try {attempt.number} on {attempt.worker_id} ended{ran}: {attempt.failure.reason}, {attempt.failure.message}"
    )
    following = job.attempts[attempt.number : attempt.number + 1]
    if following:
        begun = (
            job.first_token_time is not None
            and attempt.end_time is not None
            and job.first_token_time <= attempt.end_time
        )
        line += f"; {'it went on' if begun else 'it was tried again'} on {following[0].worker_id}"
    elif job.state is JobState.QUEUED:
        line += "; it waits to be tried again"
    yield line


def _ending(job: Job) -> Iterator[str]:
    if job.failure is not None:
        yield f"it failed: {job.failure.reason}, {job.failure.message}"
    if job.end_time is not None and job.attempts:
        took = span(job.end_time - job.attempts[0].dispatch_time)
        first = job.first_token_time
        token = "" if first is None else f", its first token came after {span(first - job.attempts[0].dispatch_time)}"
        yield f"from its first worker on it took {took}{token}"
