"""How much memory does the queen take, idle and for each stream that waits? Target 10; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

import grpc
import rig

from rbee.v1 import job_service_pb2
from wire.channel import dial

IDLE_MB: Final = 120.0
STREAM_KB: Final = 30.0
STREAMS_EACH: Final = 100
"""Callers that share a connection."""
WARM_UP: Final = 50
WATCH: Final = "/rbee.v1.JobService/Watch"

WAYS: Final[dict[str, Mapping[str, str]]] = {"traces kept": {}, "no traces": {"RBEE_TRACES": "0"}}


@dataclass(frozen=True, slots=True)
class Figures:
    """Resident memory: the queen's, idle, and her sandboxes', MB; what a stream takes, and one with its own job, KB."""

    idle_mb: float
    sandboxes_mb: float
    stream_kb: float
    waiting_kb: float


async def measure(environment: Mapping[str, str], streams: int) -> Figures:
    """Returns what one queen takes.

    One job has the only slot and gives a token a minute. Streams without a job of their own watch it;
    then as many callers wait behind it with theirs.
    """
    async with rig.running(
        slots=1, environment=environment, tokens_per_second=1 / 60, completion_tokens=1000, first_token_ms=0
    ) as cluster:
        channels = [dial(cluster.queen_address) for _ in range(1 + streams // STREAMS_EACH)]
        first = rig.raw_method(channels[0], rig.INFER)(rig.infer_request())
        begun = await first.read()
        assert isinstance(begun, bytes), "the call has begun"
        job_id = rig.parsed(begun).job_id
        watch = job_service_pb2.JobServiceWatchRequest(job_id=job_id).SerializeToString()
        calls = [first]
        kinds = ((WATCH, watch), (rig.INFER, rig.infer_request()))
        for path, request in kinds:
            calls += await _open(channels, path, request, WARM_UP)
        seen = [await _quiet(cluster)]  # what is made once is not a stream's
        sandboxes = sum(one.memory_info().rss for one in cluster.queen.children() if "sandbox" in one.cmdline()[-2])
        for path, request in kinds:
            calls += await _open(channels, path, request, streams)
            seen.append(await _quiet(cluster))
        for call in calls:
            call.cancel()
        for channel in channels:
            await channel.close()
    each = [(after - before) / streams / 2**10 for before, after in itertools.pairwise(seen)]
    return Figures(seen[0] / 2**20, sandboxes / 2**20, *each)


async def _open(channels: list[grpc.aio.Channel], path: str, request: bytes, count: int) -> list[rig.RawCall]:
    """Returns so many calls, each once its first message has come."""
    methods = [rig.raw_method(channel, path) for channel in channels]
    calls = [methods[index % len(methods)](request) for index in range(count)]
    await asyncio.gather(*(call.read() for call in calls))
    return calls


async def _quiet(cluster: rig.Rig) -> int:
    """Returns the queen's resident memory, bytes, once she has used less than a tenth of a core for a second."""
    used = cluster.queen_cpu_s()
    while True:
        await asyncio.sleep(1.0)
        before, used = used, cluster.queen_cpu_s()
        if used - before < 0.1:
            return int(cluster.queen.memory_info().rss)


async def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 200 streams: does it work at all?")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, a queen of each way in each (default 5)")
    parser.add_argument("--streams", type=int, default=1000, help="streams that wait (default 1,000)")
    told = parser.parse_args()
    rounds, streams = (1, 200) if told.quick else (told.rounds, told.streams)
    figures: dict[str, list[Figures]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, environment in WAYS.items():
            figures[name].append(await measure(environment, streams))
    rows = []
    for name, found in figures.items():
        middle = Figures(*(statistics.median(column) for column in zip(*map(astuple, found), strict=True)))
        rows.append(
            [
                name,
                f"{middle.idle_mb:.0f} MB",
                rig.beside(middle.idle_mb, IDLE_MB, "MB"),
                f"{middle.sandboxes_mb:.0f} MB",
                f"{middle.stream_kb:.1f} KB",
                rig.beside(middle.stream_kb, STREAM_KB, "KB"),
                f"{middle.waiting_kb:.1f} KB",
            ]
        )
    rig.print_table(
        f"Resident memory of the queen, medians of {rounds} rounds; {streams:,} streams",
        ("", "idle", "target 10", "sandboxes", "a stream", "target 10", "with its own waiting job"),
        rows,
    )


if __name__ == "__main__":
    rig.run(main())
