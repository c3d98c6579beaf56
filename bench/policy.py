"""How long does a policy take, in its sandbox and around it? Targets 5, 6 and 7; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import psutil
import rig

from queen.core import applier
from queen.core.model import Action, Device, Hive, Job, ModelFile, WorkerSpec, WorkerState
from queen.policy import platform
from queen.policy.failure import Source
from queen.policy.language import Program
from queen.policy.mirror import Mirror
from queen.policy.rows import Rows, patch
from queen.policy.sandbox.host import PolicyHost
from queen.registry.cluster import Cluster
from queen.scheduler.policy import PolicyScheduler
from queen.scheduler.simple import SimpleScheduler

SIZES: Final = {10: 5.0, 100: 15.0, 1_000: 150.0, 10_000: 1_300.0}
"""Workers, and the microseconds a decision may take among so many (performance.md 5)."""
AFRESH: Final = 10.0
HOP_US: Final = 250.0
PLACEMENTS: Final = 2_000.0
MODELS: Final = 10
SLOTS: Final = 4
QUEUE: Final = 1_000

PICK: Final = Source(
    "pick.lua",
    "function schedule_job(job, pools, workers)\n"
    "  local worker = workers:with_model(job.model):idle():least_loaded()\n"
    "  return worker and dispatch(job, worker)\n"
    "end",
)
LOOK_AT_ALL: Final = Source(
    "all.lua",
    "function schedule_job(job, pools, workers)\n"
    "  local best, least\n"
    "  for _, worker in ipairs(workers) do\n"
    "    if worker.model == job.model and worker.slots_available > 0 then\n"
    "      if least == nil or worker.in_flight < least then best, least = worker, worker.in_flight end\n"
    "    end\n"
    "  end\n"
    "  return best and dispatch(job, best)\n"
    "end",
)


def model_ref(number: int) -> str:
    """Returns the reference of one of the models."""
    return f"file:/models/m{number % MODELS}.gguf"


def cluster_of(workers: int) -> Cluster:
    """Returns a cluster of idle workers, eight on a hive, with ten models among them."""
    cluster = Cluster(lambda: None)
    files = tuple(ModelFile(model_ref(n), f"m{n}", file_size_bytes=2**30, context_length=4096) for n in range(MODELS))
    device = Device("gpu0", "GPU", "cuda", memory_total_mb=80_000, memory_free_mb=10_000)
    for number in range(workers):
        hive = f"h{number // 8:05}"
        if number % 8 == 0:
            cluster.register_hive(Hive(hive))
            cluster.heard(hive, 0.0, {"devices": (device,), "models": files})
        spec = WorkerSpec("", model_ref(number), slots=SLOTS, device_ids=("gpu0",), memory_mb=2000)
        changes = {"spec": spec, "state": WorkerState.READY, "slots_total": SLOTS, "backend": "cuda", "pid": number + 1}
        telemetry = {"cpu_pct": 10.0, "rss_mb": 900, "gpu_util_pct": 0.0, "vram_mb": 2000, "total_vram_mb": 80_000}
        cluster.heard_worker(hive, f"w{number:05}", 0.0, {**changes, **telemetry})
        cluster.settle(f"w{number:05}")
    return cluster


def jobs(count: int, start: int = 0) -> list[Job]:
    """Returns waiting jobs for the models in turns."""
    return [Job(f"job-{n:07}", n, "m", model_ref(n), submit_time=0.0) for n in range(start, start + count)]


@asynccontextmanager
async def sandbox() -> AsyncIterator[tuple[PolicyScheduler, PolicyHost]]:
    """Yields a scheduler over a real sandbox, and its host."""
    async with asyncio.TaskGroup() as group:
        host = PolicyHost(platform=platform.source(), rows=Rows(), group=group)
        await host.start()
        try:
            yield PolicyScheduler(host, lambda hive: f"{hive}-new"), host
        finally:
            await host.close()


def median_us(act: Callable[[int], object], runs: int) -> tuple[float, float]:
    """Returns p50 and p99 of the time an act takes, microseconds."""
    took = []
    for run in range(runs):
        begun = time.perf_counter()
        act(run)
        took.append(1e6 * (time.perf_counter() - begun))
    return rig.percentile(took, 50), rig.percentile(took, 99)


def state_of(workers: int) -> Rows:
    """Returns the rows of a cluster with one waiting job."""
    rows = Rows()
    Mirror(cluster_of(workers), rows).sync(jobs(1), 0.0)
    return rows


def decisions(runs: int) -> list[list[str]]:
    """Returns target 5: one decision in a Lua state with every limit on, as in the sandbox, the hop left out."""
    lines = []
    for workers, target in SIZES.items():
        changes = state_of(workers).everything()
        program = Program()
        program.load_platform(platform.source())
        patch(program, changes)
        cells = [f"{workers:,} workers"]
        for source in (LOOK_AT_ALL, PICK, None):
            program.load(source.text, source.name) if source else program.unload()
            in_lua, in_lua_p99 = median_us(lambda run: program._decide(run, run, 50.0), runs)  # noqa: B023, SLF001
            p50, _ = median_us(lambda run: _decided(program, run), runs)  # noqa: B023
            cells += [f"{in_lua:,.0f}", f"{in_lua_p99:,.0f}", f"{p50:,.0f}"]
            if source is LOOK_AT_ALL:
                cells.append(rig.beside(in_lua, target, "us"))
        program.load(LOOK_AT_ALL.text, LOOK_AT_ALL.name)
        few = max(5, runs // 100)
        plain, _ = median_us(lambda run: _decided(program, run), few)  # noqa: B023
        afresh, _ = median_us(lambda run: (patch(program, changes), _decided(program, run)), few)  # noqa: B023
        times = afresh / plain
        cells.append(
            f"{times:,.0f}x" + (f" >= {AFRESH:g}x {'met' if times >= AFRESH else 'MISSED'}" if workers == 1_000 else "")
        )
        lines.append(cells)
    return lines


def _decided(program: Program, run: int) -> None:
    outcome = program.decide(run, run)
    assert outcome.decisions[0].action == "dispatch", outcome


async def hops(runs: int) -> list[list[str]]:
    """Returns target 6: the way to the sandbox and back, which is what a decision takes less what it takes inside."""
    lines = []
    for count in (1, 10, 100):
        async with sandbox() as (_, host):
            await host.load(Source("none.lua", "function schedule_job(job, pools, workers) end"))
            host.rows.queue([])
            for job in jobs(count):
                host.rows.put("jobs", job.id, {"model": job.model_ref, "submit_ms": 0})
            host.rows.queue([job.id for job in jobs(count)])
            took = []
            for run in range(runs):
                host.rows.patch("jobs", "job-0000000", {"order": run})
                begun = time.perf_counter()
                outcome = await host.decide(run, run, most=count)
                took.append(1e6 * (time.perf_counter() - begun) - host.last_duration_us)
                assert len(outcome.decisions) == count
            p50 = rig.percentile(took, 50)
            shown = (f"{value:,.1f}" for value in (p50, rig.percentile(took, 99), p50 / count))
            lines.append([f"{count} jobs in the cycle", *shown, rig.beside(p50 / count, HOP_US, "us")])
    return lines


async def placements(rounds: int) -> list[list[str]]:
    """Returns target 7: jobs given to 1,000 workers per second of processor time, of queen and sandbox together."""
    lines = []
    async with sandbox() as (scheduler, host):
        for name, one, batch in (
            ("platform policy", scheduler, QUEUE),
            ("platform policy", scheduler, 10),
            ("platform policy", scheduler, 1),
            ("pick.lua", scheduler, 100),
            ("simple", SimpleScheduler(str), QUEUE),
        ):
            if one is scheduler:
                await scheduler.activate(PICK if name == "pick.lua" else None)
            rates, walls = [], []
            for _ in range(rounds):
                placed, cpu_s, wall_s = await _place(one, host.pid if one is scheduler else None, batch)
                rates.append(placed / cpu_s)
                walls.append(placed / wall_s)
            middle = statistics.median(rates)
            span, wall = f"{min(rates):,.0f}-{max(rates):,.0f}", f"{statistics.median(walls):,.0f}"
            verdict = f">= {PLACEMENTS:,.0f}/s {'met' if middle >= PLACEMENTS else 'MISSED'}"
            lines.append([f"{name}, {batch:,} at once", f"{middle:,.0f}", span, wall, verdict])
    return lines


async def _place(scheduler: Any, pid: int | None, batch: int) -> tuple[int, float, float]:
    """Fills a cluster with jobs, `batch` in each cycle; returns how many, and the time that took, seconds."""
    cluster = cluster_of(1_000)
    await scheduler.decide((), cluster, 0.0)
    total = min(1_000, 200 * batch)  # one for each worker at most
    cpu_s, begun, placed = _cpu_s(pid), time.perf_counter(), 0
    for start in range(0, total, batch):
        waiting = {job.id: job for job in jobs(batch, start)}
        for proposal in await scheduler.decide(list(waiting.values()), cluster, 1.0):
            refusal = applier.refusal(proposal, waiting[proposal.job_id], cluster)
            assert proposal.action is Action.DISPATCH, proposal
            assert not refusal, refusal
            cluster.reserve(proposal.worker_id, proposal.job_id)
            placed += 1
    return placed, _cpu_s(pid) - cpu_s, time.perf_counter() - begun


def _cpu_s(pid: int | None) -> float:
    """Returns the processor time of this process and the sandbox, seconds."""
    clocks = [time.process_time()]
    if pid is not None:
        used = psutil.Process(pid).cpu_times()
        clocks.append(used.user + used.system)
    return sum(clocks)


async def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs: does it work at all?")
    parser.add_argument("--runs", type=int, default=2000, help="decisions of each kind (default 2000)")
    parser.add_argument("--rounds", type=int, default=5, help="times the cluster is filled (default 5)")
    told = parser.parse_args()
    runs, rounds = (100, 1) if told.quick else (told.runs, told.rounds)
    rig.print_table(
        f"One decision inside the sandbox, us; {runs} each: by a policy that looks at every worker, by one of "
        'two lines, by the platform policy. "+" is with the answer read into Python; "afresh" is how much longer it '
        "takes when the state is handed over anew",
        ["state", "all p50", "p99", "+", "target", "short p50", "p99", "+", "platform p50", "p99", "+", "afresh"],
        decisions(runs),
    )
    rig.print_table(
        f"The hop: a cycle less what the policy takes, us; {runs} cycles each",
        ["cycle", "p50", "p99", "per decision", "target"],
        await hops(runs),
    )
    rig.print_table(
        f"Placements on 1,000 workers, per second of processor time; median of {rounds} rounds",
        ["scheduler", "per CPU second", "range", "per second", "target"],
        await placements(rounds),
    )


if __name__ == "__main__":
    rig.run(main())
