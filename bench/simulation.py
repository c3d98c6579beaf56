"""How long does a simulation of an hour of real requests take? Target 12 of bench/README.md."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from random import Random

from queen.simulation import schedulers
from queen.simulation.cluster_file import read_cluster
from queen.simulation.report import report_on
from queen.simulation.run import simulate
from queen.simulation.traffic import owned, plain_traffic
from queen.simulation.workload import read_trace

ROOT = Path(__file__).parents[1]
TRACE = ROOT.parent / "shared" / "traces" / "azure_llm_conv_2023.csv"
TARGET_S = 10.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("trace", nargs="?", type=Path, default=TRACE, help="the Azure trace of 2023, conversations")
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--quick", action="store_true", help="one run of the first 1,000 requests")
    given = arguments.parse_args()
    if not given.trace.exists():
        print(f"there is no trace {given.trace}; it is published at github.com/Azure/AzurePublicDataset")
        sys.exit(0 if given.trace == TRACE else 1)
    plan = read_cluster((ROOT / "policies" / "clusters" / "lab.yaml").read_text())
    platform = schedulers.lua((ROOT / "policies" / "platform.lua").read_text())
    trace = read_trace(given.trace.read_text())[: 1_000 if given.quick else None]
    requests = owned(trace, plain_traffic(tuple(plan.models)), Random(1))
    runs = 1 if given.quick else given.runs
    print(f"{len(requests):,} requests on {sum(len(one.workers) for one in plan.machines)} workers, {runs} runs\n")
    print(f"{'scheduler':<12}{'wall s':>8}{'cpu s':>8}{'least':>8}{'most':>8}{'us/request':>12}{'target':>10}")
    taken: dict[str, list[tuple[float, float]]] = {"simple": [], "platform": []}
    for _ in range(runs):
        for name, scheduler in (("simple", schedulers.simple), ("platform", platform)):
            wall, cpu = time.perf_counter(), time.process_time()
            report = report_on(simulate(plan, requests, scheduler))
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            assert report.completed == len(requests)
    for name, times in taken.items():
        walls = sorted(wall for wall, _ in times)
        cpu = statistics.median(cpu for _, cpu in times)
        wall = statistics.median(walls)
        verdict = f"<= {TARGET_S:g} s" if name == "platform" else "-"
        per_request = cpu / len(requests) * 1e6
        print(f"{name:<12}{wall:>8.2f}{cpu:>8.2f}{walls[0]:>8.2f}{walls[-1]:>8.2f}{per_request:>12.0f}{verdict:>10}")


if __name__ == "__main__":
    main()
