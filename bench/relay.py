"""What does the queen pay to pass a token on? Targets 2 and 3 of bench/README.md; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass

import grpc
import psutil
import rig

from wire.channel import dial

WARM_UP_S = 3.0


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that run at once, the pace of each in tokens per second (0: as fast as it goes), and what is allowed."""

    name: str
    streams: int
    tokens_per_second: int
    completion_tokens: int
    target_us: float


LOADS = (
    Load("100 streams at 50 tok/s", 100, 50, 2_000, 60.0),
    # As fast as the worker goes, which then is what limits it; answers end and begin anew within a run.
    Load("64 streams, saturated", 64, 0, 20_000, 5.0),
    # The same at a steady pace that leaves the worker room: messages come often, so this is the harder one.
    Load("64 streams at 1,000 tok/s", 64, 1_000, 20_000, 5.0),
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Counts since the start: seconds, processor seconds of queen and of this process, tokens, messages."""

    time_s: float
    queen_s: float
    own_s: float
    tokens: int
    messages: int


class Reader:
    """One caller: asks again whenever its answer ends. `tokens` counts those of ended answers."""

    def __init__(self) -> None:
        self.messages = 0
        self._tokens = 0
        self._last = b""

    @property
    def tokens(self) -> int:
        """Tokens received so far."""
        return self._tokens + _tokens_up_to(self._last)

    async def run(self, infer: grpc.aio.UnaryStreamMultiCallable[bytes, bytes], request: bytes) -> None:
        """Reads answers until cancelled. Only the newest message is kept, and looked at when somebody asks."""
        while True:
            call = infer(request)
            async for message in call:
                self._last = message
                self.messages += 1
            self._tokens, self._last = self.tokens, b""


def _tokens_up_to(message: bytes) -> int:
    """Returns how many tokens of its answer have come with a message and those before it."""
    for event in reversed(rig.parsed(message).events):
        if event.HasField("done"):
            return event.done.usage.completion_tokens
        if event.HasField("tokens"):
            return event.tokens.first_index + event.tokens.count
    return 0


async def measure(load: Load, runs: int, run_s: float) -> list[tuple[Mark, Mark]]:
    """Returns the counts before and after each run."""
    async with rig.running(
        slots=load.streams, completion_tokens=load.completion_tokens, tokens_per_second=load.tokens_per_second
    ) as cluster:
        channel = dial(cluster.queen_address)
        infer = rig.raw_method(channel, rig.INFER)
        readers = [Reader() for _ in range(load.streams)]
        own = psutil.Process()

        def mark() -> Mark:
            used = own.cpu_times()
            return Mark(
                time.monotonic(),
                cluster.queen_cpu_s(),
                used.user + used.system,
                sum(reader.tokens for reader in readers),
                sum(reader.messages for reader in readers),
            )

        async def watch() -> list[tuple[Mark, Mark]]:
            await asyncio.sleep(WARM_UP_S)
            marks = [mark()]
            for _ in range(runs):
                await asyncio.sleep(run_s)
                marks.append(mark())
            return list(itertools.pairwise(marks))

        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(reader.run(infer, rig.infer_request())) for reader in readers]
            found = await watch()
            for task in reading:
                task.cancel()
        await channel.close()
        return found


def row(load: Load, found: list[tuple[Mark, Mark]]) -> list[str]:
    """Returns a line of the table."""
    costs = [1e6 * (b.queen_s - a.queen_s) / max(1, b.tokens - a.tokens) for a, b in found]
    cost = statistics.median(costs)

    def median(field: str, per: str) -> float:
        grown: list[float] = [
            (getattr(b, field) - getattr(a, field)) / (getattr(b, per) - getattr(a, per) or 1) for a, b in found
        ]
        return statistics.median(grown)

    return [
        load.name,
        f"{cost:.2f}",
        f"{min(costs):.2f}",
        f"{max(costs):.2f}",
        rig.beside(cost, load.target_us, "us"),
        f"{median('tokens', 'time_s'):,.0f}",
        f"{median('tokens', 'messages'):.1f}",
        f"{1e6 * median('queen_s', 'messages'):.0f}",
        f"{100 * median('queen_s', 'time_s'):.0f}",
        f"{100 * median('own_s', 'time_s'):.0f}",
    ]


async def main() -> None:
    """Measures each load and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short runs: does it work at all?")
    parser.add_argument("--runs", type=int, default=5, help="runs per load (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds per run (default 4)")
    parser.add_argument("--only", type=int, choices=range(len(LOADS)), help="one load, by its place from 0")
    told = parser.parse_args()
    runs, run_s = (2, 1.0) if told.quick else (told.runs, told.seconds)
    loads = LOADS if told.only is None else (LOADS[told.only],)
    rows = [row(load, await measure(load, runs, run_s)) for load in loads]
    rig.print_table(
        f"Relay: queen CPU per token, us; {runs} runs of {run_s:g} s",
        ["load", "p50", "min", "max", "target (p50)", "tok/s", "tok/msg", "us/msg", "queen %", "reader %"],
        rows,
    )


if __name__ == "__main__":
    rig.run(main())
