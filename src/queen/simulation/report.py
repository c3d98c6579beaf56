"""What a run says in numbers, as plain values: for tables, for JSON, for comparisons."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from queen.core.model import JobState, Priority
from queen.core.shares import ANSWER_TOKEN, PROMPT_TOKEN
from queen.simulation.records import DeviceRecord, JobOutcome, Level, Run, WorkerRecord
from queen.simulation.timeline import Timeline, draw

MOST_REASONS: Final = 20
"""Reasons of failed jobs that are listed; the rest are added up."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of spans in seconds, over `count` jobs; 0 where there is none."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class GroupReport:
    """Jobs of one class, or of one tenant. `share` is its part of all tokens; only completed jobs' tokens count.

    `service` is its tokens as fair shares count them, a generated one twice; `contended_service` that of jobs that got
    their worker while at least two tenants had jobs waiting.
    """

    name: str
    weight: float
    jobs: int
    completed: int
    failed: int
    waiting: int
    running: int
    prompt_tokens: int
    generated_tokens: int
    service: int
    contended_service: int
    share: float
    wait: Spread
    first_token: Spread


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker: seconds it loaded, lived and ran at least one job; the share of its slots that was taken."""

    id: str
    hive: str
    device: str
    kind: str
    model: str
    slots: int
    loading_s: float
    alive_s: float
    busy_s: float
    slot_use: float
    completed: int
    generated_tokens: int
    cached_prompt_tokens: int
    end_reason: str


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device: seconds at least one worker was on it, and at least one job ran; `utilisation` of the whole time."""

    hive: str
    device: str
    kind: str
    held_s: float
    busy_s: float
    utilisation: float


@dataclass(frozen=True, slots=True)
class Reason:
    """Why jobs failed, and how many did."""

    reason: str
    message: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. Times in seconds; `cost` in the currency of the cluster file.

    `fairness` is Jain's index of the tenants' service by weight, 1 when all had their share (Jain, Chiu, Hawe 1984);
    `fairness_contended` the same of what was given while at least two tenants waited, None when that never was.
    """

    cluster: str
    policy: str
    policy_version: str
    jobs: int
    completed: int
    failed: int
    waiting: int
    running: int
    makespan_s: float
    tokens_per_s: float
    prompt_tokens: int
    generated_tokens: int
    cached_prompt_tokens: int
    wait: Spread
    first_token: Spread
    fairness: float
    fairness_contended: float | None
    queue_mean: float
    queue_most: int
    starts: int
    evictions: int
    gpu_hours: float
    cost: float
    cycles: int
    refused: dict[str, int]
    failures: tuple[Reason, ...]
    classes: tuple[GroupReport, ...]
    tenants: tuple[GroupReport, ...]
    workers: tuple[WorkerReport, ...]
    devices: tuple[DeviceReport, ...]
    timeline: Timeline


def report_on(run: Run) -> Report:
    """Returns a run's report."""
    end = run.end
    span_s = end - run.begin
    states = Counter(job.state for job in run.jobs)
    tenants = _groups(run, lambda job: job.request.tenant_id)
    generated = sum(group.generated_tokens for group in tenants)
    contended = [group.contended_service / group.weight for group in tenants]
    workers = [_worker(worker, end) for worker in run.workers]
    devices = [_device(device, end, span_s) for device in run.devices]
    return Report(
        cluster=run.plan.name,
        policy=run.policy,
        policy_version=run.policy_version,
        jobs=len(run.jobs),
        completed=states[JobState.COMPLETE],
        failed=states[JobState.FAILED],
        waiting=states[JobState.QUEUED],
        running=states[JobState.DISPATCHED] + states[JobState.RUNNING],
        makespan_s=span_s,
        tokens_per_s=generated / span_s if span_s else 0.0,
        prompt_tokens=sum(group.prompt_tokens for group in tenants),
        generated_tokens=generated,
        cached_prompt_tokens=sum(worker.cached_tokens for worker in run.workers),
        wait=_spread(job.wait_s for job in run.jobs),
        first_token=_spread(job.first_token_s for job in run.jobs),
        fairness=jain([one.service / one.weight for one in tenants]),
        fairness_contended=jain(contended) if any(contended) else None,
        queue_mean=_until(run.queue, end)[1] / span_s if span_s else 0.0,
        queue_most=max((value for _, value in run.queue.changes), default=0),
        starts=sum(worker.started for worker in run.workers),
        evictions=sum(worker.end is not None for worker in run.workers),
        gpu_hours=sum(one.held_s for one, device in zip(devices, run.devices, strict=True) if device.gpu) / 3600,
        cost=_cost(run, end),
        cycles=run.cycles,
        refused=dict(run.refused),
        failures=_failures(run.jobs),
        classes=_groups(run, lambda job: job.request.priority or Priority.INTERACTIVE),
        tenants=tenants,
        workers=tuple(workers),
        devices=tuple(devices),
        timeline=draw(run, end),
    )


def to_json(report: Report) -> str:
    """Returns a report as one line of JSON, fields named as here."""
    return json.dumps(asdict(report), separators=(",", ":"))


def jain(amounts: Sequence[float]) -> float:
    """Returns Jain's fairness index of amounts: 1 when all are equal, 1/n when one has everything."""
    squares = sum(amount * amount for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else 1.0


def _spread(spans: Iterable[float | None]) -> Spread:
    known = sorted(span for span in spans if span is not None)
    if not known:
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    mean = sum(known) / len(known)
    return Spread(len(known), mean, _at(known, 0.5), _at(known, 0.95), _at(known, 0.99), known[-1])


def _at(ordered: Sequence[float], part: float) -> float:
    """Returns a percentile by the nearest rank: a value that did occur."""
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def _groups(run: Run, name_of: Callable[[JobOutcome], str]) -> tuple[GroupReport, ...]:
    members: defaultdict[str, list[JobOutcome]] = defaultdict(list)
    for job in run.jobs:
        members[name_of(job)].append(job)
    total = sum(_tokens(job) for job in run.jobs) or 1
    return tuple(_group(name, members[name], run.weights.get(name, 1.0), total) for name in sorted(members))


def _group(name: str, jobs: list[JobOutcome], weight: float, total: int) -> GroupReport:
    states = Counter(job.state for job in jobs)
    done = [job.request for job in jobs if job.state is JobState.COMPLETE]
    return GroupReport(
        name=name,
        weight=weight,
        jobs=len(jobs),
        completed=len(done),
        failed=states[JobState.FAILED],
        waiting=states[JobState.QUEUED],
        running=states[JobState.DISPATCHED] + states[JobState.RUNNING],
        prompt_tokens=sum(request.prompt_tokens for request in done),
        generated_tokens=sum(request.generated_tokens for request in done),
        service=sum(_service(job) for job in jobs),
        contended_service=sum(_service(job) for job in jobs if job.contended),
        share=sum(_tokens(job) for job in jobs) / total,
        wait=_spread(job.wait_s for job in jobs),
        first_token=_spread(job.first_token_s for job in jobs),
    )


def _tokens(job: JobOutcome) -> int:
    return job.request.prompt_tokens + job.request.generated_tokens if job.state is JobState.COMPLETE else 0


def _service(job: JobOutcome) -> int:
    if job.state is not JobState.COMPLETE:
        return 0
    return PROMPT_TOKEN * job.request.prompt_tokens + ANSWER_TOKEN * job.request.generated_tokens


def _until(level: Level, end: float) -> tuple[float, float]:
    """Returns a level's seconds above zero and its integral up to a time."""
    left_s = max(0.0, end - level.since) if level.value else 0.0
    return level.above_zero_s + left_s, level.area_s + left_s * level.value


def _worker(worker: WorkerRecord, end: float) -> WorkerReport:
    over = end if worker.end is None else worker.end
    ready = over if worker.ready is None else worker.ready
    busy_s, slot_s = _until(worker.jobs, end)
    alive_s = max(0.0, over - ready)
    return WorkerReport(
        id=worker.worker_id,
        hive=worker.device.hive_id,
        device=worker.device.device_id,
        kind=worker.device.kind,
        model=worker.model,
        slots=worker.slots,
        loading_s=max(0.0, min(ready, end) - worker.start),
        alive_s=alive_s,
        busy_s=busy_s,
        slot_use=slot_s / (worker.slots * alive_s) if alive_s else 0.0,
        completed=worker.completed,
        generated_tokens=worker.generated_tokens,
        cached_prompt_tokens=worker.cached_tokens,
        end_reason=worker.end_reason,
    )


def _device(device: DeviceRecord, end: float, span_s: float) -> DeviceReport:
    busy_s = _until(device.jobs, end)[0]
    utilisation = busy_s / span_s if span_s else 0.0
    held_s = _until(device.workers, end)[0]
    return DeviceReport(device.hive_id, device.device_id, device.kind, held_s, busy_s, utilisation)


def _cost(run: Run, end: float) -> float:
    """Returns what the machines cost while at least one worker was on them, and what their tokens did."""
    tokens: Counter[str] = Counter()
    for worker in run.workers:
        tokens[worker.device.hive_id] += worker.generated_tokens
    return sum(
        machine.cost_per_hour * _until(run.machines[machine.name], end)[0] / 3600
        + (machine.cost_per_token or 0.0) * tokens[machine.name]
        for machine in run.plan.machines
    )


def _failures(jobs: Iterable[JobOutcome]) -> tuple[Reason, ...]:
    failures = [job.failure for job in jobs if job.failure is not None]
    counts = Counter(failure.reason for failure in failures)
    texts = {failure.reason: failure.message for failure in reversed(failures)}
    return tuple(Reason(reason, texts[reason], count) for reason, count in counts.most_common(MOST_REASONS))
