"""Two runs of the same requests side by side: what differs in all, and which jobs were treated differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from queen.core.model import JobState
from queen.simulation.records import JobOutcome, Run
from queen.simulation.report import Report

THRESHOLD_S: Final = 1.0
"""Waits that differ by less are the same to whoever waits."""

TOP: Final = 20
"""Jobs that are listed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of both reports."""

    name: str
    unit: str
    ours: float
    theirs: float


@dataclass(frozen=True, slots=True)
class Treatment:
    """What one policy did with a job, and why: its last decision about it."""

    outcome: str
    worker: str
    kind: str
    wait_s: float | None
    first_token_s: float | None
    decision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A job that was treated differently; `wait_difference_s` is positive when it waited longer under ours."""

    job: str
    model: str
    tenant: str
    priority: str
    prompt_tokens: int
    generated_tokens: int
    wait_difference_s: float
    ours: Treatment
    theirs: Treatment


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies: `ours` against `theirs`. `jobs` has the largest differences; the counts are over all."""

    ours: str
    theirs: str
    figures: tuple[Figure, ...]
    outcome_differs: int
    kind_differs: int
    waited_longer: int
    waited_shorter: int
    jobs: tuple[Difference, ...]


def compare(
    ours: tuple[Run, Report], theirs: tuple[Run, Report], *, threshold_s: float = THRESHOLD_S, top: int = TOP
) -> Comparison:
    """Returns how two runs of the same requests differ; a job's place is the same in both."""
    pairs = [(one, other) for one, other in zip(ours[0].jobs, theirs[0].jobs, strict=False) if one.id == other.id]
    waits = [_wait(one, ours[0].end) - _wait(other, theirs[0].end) for one, other in pairs]
    differing = sorted(
        (
            (one.state is other.state, -abs(wait), one.id, index)
            for index, ((one, other), wait) in enumerate(zip(pairs, waits, strict=True))
            if one.state is not other.state or one.device_kind != other.device_kind or abs(wait) > threshold_s
        )
    )
    return Comparison(
        ours=ours[0].policy,
        theirs=theirs[0].policy,
        figures=_figures(ours[1], theirs[1]),
        outcome_differs=sum(one.state is not other.state for one, other in pairs),
        kind_differs=sum(one.device_kind != other.device_kind for one, other in pairs),
        waited_longer=sum(wait > threshold_s for wait in waits),
        waited_shorter=sum(wait < -threshold_s for wait in waits),
        jobs=tuple(_difference(*pairs[index], waits[index]) for *_, index in differing[:top]),
    )


def _wait(job: JobOutcome, end: float) -> float:
    """Returns how long a job waited for its worker; one that got none, until it ended or the run did."""
    until = job.dispatch_time if job.dispatch_time is not None else job.end_time
    return (end if until is None else until) - job.request.arrival


def _difference(ours: JobOutcome, theirs: JobOutcome, wait_s: float) -> Difference:
    request = ours.request
    return Difference(
        job=ours.id,
        model=request.model,
        tenant=request.tenant_id,
        priority=(request.priority or "interactive"),
        prompt_tokens=request.prompt_tokens,
        generated_tokens=request.generated_tokens,
        wait_difference_s=wait_s,
        ours=_treatment(ours),
        theirs=_treatment(theirs),
    )


def _treatment(job: JobOutcome) -> Treatment:
    proposal = job.decision.proposal if job.decision else None
    refusal = job.decision.refusal if job.decision else ""
    said = proposal.reason if proposal else job.failure.message if job.failure else ""
    return Treatment(
        outcome=job.failure.reason if job.failure and job.state is JobState.FAILED else job.state.value,
        worker=job.worker_id,
        kind=job.device_kind,
        wait_s=job.wait_s,
        first_token_s=job.first_token_s,
        decision=proposal.action.value if proposal else "",
        reason=f"{said}; refused: {refusal}" if refusal else said,
    )


def _figures(ours: Report, theirs: Report) -> tuple[Figure, ...]:
    return (
        Figure("completed", "jobs", ours.completed, theirs.completed),
        Figure("failed", "jobs", ours.failed, theirs.failed),
        Figure("wait, mean", "s", ours.wait.mean, theirs.wait.mean),
        Figure("wait, p50", "s", ours.wait.p50, theirs.wait.p50),
        Figure("wait, p95", "s", ours.wait.p95, theirs.wait.p95),
        Figure("wait, p99", "s", ours.wait.p99, theirs.wait.p99),
        Figure("first token, p50", "s", ours.first_token.p50, theirs.first_token.p50),
        Figure("first token, p95", "s", ours.first_token.p95, theirs.first_token.p95),
        Figure("first token, p99", "s", ours.first_token.p99, theirs.first_token.p99),
        Figure("makespan", "s", ours.makespan_s, theirs.makespan_s),
        Figure("generated", "tok/s", ours.tokens_per_s, theirs.tokens_per_s),
        Figure("prompt tokens from cache", "", ours.cached_prompt_tokens, theirs.cached_prompt_tokens),
        Figure("workers started", "", ours.starts, theirs.starts),
        Figure("workers evicted", "", ours.evictions, theirs.evictions),
        Figure("GPU hours", "h", ours.gpu_hours, theirs.gpu_hours),
        Figure("cost", "", ours.cost, theirs.cost),
        Figure("fairness", "", ours.fairness, theirs.fairness),
    )
