"""Random clusters, and what must hold of every decision about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from queen.policy.language import Decided, Outcome
from queen.policy.scenario import Row, Scenario

_NOW_MS = 1_767_787_200_000
_REGIONS = (
    {"region": "eu", "latitude": 52.5, "longitude": 13.4},
    {"region": "us", "latitude": 42.4, "longitude": -71.1},
)


class Randomness(Protocol):
    """The part of `random.Random` that is used; passed in, so that a seed says everything."""

    def random(self) -> float:
        """Returns a number from 0 to below 1."""
        ...

    def randint(self, a: int, b: int) -> int:
        """Returns a whole number from `a` to `b`."""
        ...

    def choice(self, seq: Sequence[Any]) -> Any:
        """Returns one of several."""
        ...


def cluster(rng: Randomness) -> Scenario:
    """Returns a cluster of up to 6 pools, 16 workers, 5 models, 4 tenants and 24 queued jobs.

    Much of it is odd on purpose: fields that are not known, machines offline, full and failed workers, quotas used up.
    """
    models = {f"model-{n}": _model(rng) for n in range(rng.randint(1, 5))}
    tenants = {f"tenant-{n}": _tenant(rng) for n in range(rng.randint(0, 4))}
    pools = {f"pool-{n}": _pool(rng, f"pool-{n}", models) for n in range(rng.randint(0, 6))}
    workers = {}
    if pools:
        workers = {f"worker-{n:02}": _worker(rng, models, pools) for n in range(rng.randint(0, 16))}
    job_ids = [f"job-{n:02}" for n in range(rng.randint(1, 24))]
    jobs = {job_id: _job(rng, order, models, tenants, workers) for order, job_id in enumerate(job_ids)}
    rows: dict[Any, dict[str, Row]] = {
        "models": models,
        "tenants": tenants,
        "pools": pools,
        "workers": workers,
        "jobs": jobs,
    }
    return Scenario(_NOW_MS, rows, tuple(sorted(job_ids, key=lambda job_id: jobs[job_id]["priority"] != "interactive")))


def _some(rng: Randomness, row: Row) -> Row:
    """Leaves out a field in seven: policies must live with what is not known."""
    return {name: value for name, value in row.items() if rng.random() > 1 / 7}


def _model(rng: Randomness) -> Row:
    return _some(rng, {"vram_required_mb": rng.choice([500, 6000, 20000, 90000]), "family": "llama", "size": "8b"})


def _tenant(rng: Randomness) -> Row:
    quotas = {
        "quota_max_concurrent_jobs": rng.randint(1, 4),
        "concurrent_jobs": rng.randint(0, 4),
        "quota_tokens_daily": rng.choice([100, 1_000_000]),
        "tokens_used_today": rng.randint(0, 2000),
        "weight": rng.choice([1, 2, 0.5]),
        "tokens_counter": rng.randint(0, 10_000),
    }
    return _some(rng, quotas)


def _pool(rng: Randomness, pool_id: str, models: dict[str, Row]) -> Row:
    gpus = [
        {"id": f"gpu{n}", "pool_id": pool_id, "vram_total": 24000, **_some(rng, {"vram_free": rng.randint(0, 24000)})}
        for n in range(rng.randint(0, 2))
    ]
    optional = {"ram_free_mb": rng.randint(0, 32000), "geo": rng.choice(_REGIONS), "labels": {"work": "images"}}
    return {
        "status": rng.choice(["healthy", "healthy", "healthy", "degraded", "offline"]),
        "gpus": gpus,
        "cached_models": [ref for ref in models if rng.random() > 0.3],
        **_some(rng, optional),
    }


def _worker(rng: Randomness, models: dict[str, Row], pools: dict[str, Row]) -> Row:
    slots, pool_id = rng.randint(1, 4), rng.choice(sorted(pools))
    state = rng.choice(["loading", "ready", "ready", "ready", "ready", "draining", "failed"])
    taken = rng.randint(0, slots) if state == "ready" else 0
    optional = {
        "vram_free": rng.randint(0, 24000),
        "total_vram_mb": 24000,
        "memory_claimed_mb": rng.randint(100, 20000),
        "start_ms": _NOW_MS - rng.randint(1, 10**7),
        "avg_tokens_per_sec": rng.random() * 100,
        "backend": rng.choice(["cpu", "cuda"]),
        "cost_per_token": rng.random() / 10**5,
        "pinned": rng.random() < 0.2,
        "geo": rng.choice(_REGIONS),
        "jobs_completed": rng.randint(0, 50),
    }
    gpus = pools[pool_id]["gpus"]
    idle = {"idle_since_ms": _NOW_MS - rng.randint(1, 10**6)} if taken == 0 else {}
    return {
        "pool_id": pool_id,
        "model": rng.choice(sorted(models)),
        "status": "busy" if state == "ready" and taken == slots else state,
        "slots_total": slots,
        "slots_available": slots - taken,
        "in_flight": taken,
        "gpu_ids": [rng.choice(gpus)["id"]] if gpus else [],
        **idle,
        **_some(rng, optional),
    }


def _job(rng: Randomness, order: int, models: dict[str, Row], tenants: dict[str, Row], workers: dict[str, Row]) -> Row:
    optional = {
        "seed": rng.randint(0, 9),
        "max_tokens": rng.randint(1, 2000),
        "prompt_tokens": rng.randint(1, 4000),
        "tenant_id": rng.choice(sorted(tenants)) if tenants else "default",
        "user_geo": rng.choice(_REGIONS),
        "labels": {"region": "eu"},
        "deadline_at_ms": _NOW_MS + rng.randint(1, 10**6),
        "session_last_worker": rng.choice([*sorted(workers), "worker-gone"]),
    }
    return {
        "model": rng.choice([*sorted(models), "model-unknown"]),
        "order": order,
        "type": rng.choice(["text-gen", "text-gen", "embedding", "image-gen"]),
        "priority": rng.choice(["interactive", "batch"]),
        "submit_ms": _NOW_MS - rng.randint(0, 10**6),
        **_some(rng, optional),
    }


# What must hold.


def violations(scenario: Scenario, outcome: Outcome) -> list[str]:
    """Returns what is wrong with the decisions about a cluster: illegal ones, and jobs that wait needlessly."""
    given: Counter[str] = Counter()
    placed: set[str] = set()
    evicted = {decided.worker_id for decided in outcome.decisions if decided.action == "evict"}
    found = []
    for decided in outcome.decisions:
        problem = _illegal(decided, scenario, given, placed, evicted)
        if problem:
            found.append(problem)
        elif decided.action == "dispatch":
            given[str(decided.worker_id)] += 1
        if decided.action in ("dispatch", "reject") and decided.job_id is not None:
            placed.add(decided.job_id)
    return found + _needless_waits(scenario, outcome, given, placed, evicted)


def _illegal(
    decided: Decided, scenario: Scenario, given: Counter[str], placed: set[str], evicted: set[str | None]
) -> str:
    jobs, worker_id = scenario.rows["jobs"], str(decided.worker_id)
    worker = scenario.rows["workers"].get(worker_id)
    if decided.job_id is not None and decided.job_id not in jobs:
        return f"{decided.action}: there is no job {decided.job_id}"
    if decided.action in ("dispatch", "reject") and decided.job_id in placed:
        return f"{decided.action}: job {decided.job_id} was decided before"
    if decided.action == "start_worker":
        return _illegal_start(decided, scenario)
    if decided.action not in ("dispatch", "evict"):
        return ""
    if worker is None:
        return f"{decided.action}: there is no worker {decided.worker_id}"
    if decided.action == "evict":
        state = "is pinned" if worker.get("pinned") else "runs jobs" if worker["in_flight"] or given[worker_id] else ""
        return state and f"evict: worker {worker_id} {state}"
    if worker["model"] != jobs[str(decided.job_id)]["model"]:
        return f"dispatch: worker {worker_id} has another model than job {decided.job_id}"
    state = "being evicted" if worker_id in evicted else worker["status"]
    if state not in ("ready", "busy"):
        return f"dispatch: worker {worker_id} is {state}"
    return f"dispatch: worker {worker_id} has no free slot" if worker["slots_available"] <= given[worker_id] else ""


def _illegal_start(decided: Decided, scenario: Scenario) -> str:
    pool = scenario.rows["pools"].get(decided.pool_id or "")
    if pool is None:
        return f"start_worker: there is no pool {decided.pool_id}"
    if pool["status"] != "healthy":
        return f"start_worker: pool {decided.pool_id} is {pool['status']}"
    if decided.gpu_id is not None and all(gpu["id"] != decided.gpu_id for gpu in pool["gpus"]):
        return f"start_worker: pool {decided.pool_id} has no GPU {decided.gpu_id}"
    return ""


def _needless_waits(
    scenario: Scenario, outcome: Outcome, given: Counter[str], placed: set[str], evicted: set[str | None]
) -> list[str]:
    waits = [decided for decided in outcome.decisions if decided.action == "wait" and decided.reason]
    if any(decided.job_id is None for decided in waits):
        return []  # the whole queue waits for a reason
    reasoned = {decided.job_id for decided in outcome.decisions if decided.action == "start_worker"}
    reasoned |= {decided.job_id for decided in waits}
    found = []
    for job_id in scenario.queue:
        if job_id in placed or job_id in reasoned:
            continue
        model = scenario.rows["jobs"][job_id]["model"]
        for worker_id, worker in scenario.rows["workers"].items():
            idle = worker["status"] == "ready" and not worker["in_flight"] and not given[worker_id]
            if idle and worker["model"] == model and worker_id not in evicted:
                found.append(f"job {job_id} waits without a reason while idle worker {worker_id} has its model")
                break
    return found
