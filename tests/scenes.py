"""Small clusters and workloads for tests of simulations."""

from __future__ import annotations

from pathlib import Path

from queen.policy.failure import Source
from queen.simulation import schedulers
from queen.simulation.cluster_file import read_cluster
from queen.simulation.workload import Request

ROOT = Path(__file__).parents[1]
PLATFORM = (ROOT / "policies" / "platform.lua").read_text()
EXCERPT = (Path(__file__).parent / "queen" / "simulation" / "traces" / "azure_llm_conv_2023_excerpt.csv").read_text()


def cluster(*, slots=1, streams=None, memory="1GB", workers=1, models=("small",), count=1, residency=0):
    """One kind of machine. A model's file is 100 MB; it loads in 5 s, reads 100 and generates 10 tokens a second."""
    shared = "" if streams is None else f", full_speed_streams: {streams}"
    speeds = "{card: {load_time: 5s, prefill: 100, decode: 10}}"
    names = "\n".join(f"  - {{name: {name}, file_size: 100MB, speeds: {speeds}}}" for name in models)
    ready = f"workers: [{{model: {models[0]}, slots: {slots}, count: {workers}}}]" if workers else ""
    return read_cluster(
        f"""
name: scene
minimum_residency: {residency}
models:
{names}
machines:
  - name: box
    count: {count}
    cost_per_hour: 3.6
    devices: [{{kind: card, memory: {memory}{shared}}}]
    {ready}
"""
    )


def request(arrival, prompt, generated, model="small", **facts):
    return Request(arrival, prompt, generated, model=model, **facts)


def platform():
    return schedulers.lua(PLATFORM)


def lua(text):
    return schedulers.lua(PLATFORM, Source("mine.lua", text))
