"""How much later does the first token come through the queen? Target 1; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
import rig

from wire.channel import dial
from wire.server import SERVER_OPTIONS

P50_MS: Final = 1.5
P99_MS: Final = 5.0
WARM_UP_CALLS: Final = 100

DIRECT, RELAY, QUEEN = "direct to the worker", "through a bare relay", "through the queen"


class Caller:
    """Asks one server for one-token replies, one after the other."""

    def __init__(self, address: str, path: str, request: Callable[[], bytes]) -> None:
        self._channel = dial(address)
        self._method = rig.raw_method(self._channel, path)
        self._request = request

    async def run(self, calls: int) -> list[float]:
        """Returns how long the first token of each reply took, milliseconds."""
        return [await self._first_token_ms() for _ in range(calls)]

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def _first_token_ms(self) -> float:
        request = self._request()
        begun = time.perf_counter()
        call = self._method(request)
        took = None
        async for message in call:
            if took is None and any(event.HasField("tokens") for event in rig.parsed(message).events):
                took = 1e3 * (time.perf_counter() - begun)
        assert took is not None, "the reply had no token"
        return took


@contextmanager
def bare_relay(worker_address: str) -> Iterator[str]:
    """Runs the least relay that grpc.aio allows in a process of its own; yields its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_relay, args=(worker_address, theirs), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _run_relay(worker_address: str, told: Connection) -> None:
    rig.run(_relay(worker_address, told))


async def _relay(worker_address: str, told: Connection) -> None:
    generate = rig.raw_method(dial(worker_address), rig.GENERATE)

    async def behaviour(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        call = generate(request)
        while isinstance(message := await call.read(), bytes):
            await context.write(message)

    handlers: dict[str, Any] = {"Generate": grpc.unary_stream_rpc_method_handler(behaviour)}
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rbee.v1.EngineService", handlers),))
    told.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


async def measure(rounds: int, calls: int) -> dict[str, list[list[float]]]:
    """Returns the times of each way, one list per round. The ways take turns within a round."""
    numbers = itertools.count()

    def generate_request() -> bytes:
        return rig.generate_request(f"bench-{next(numbers)}")

    async with rig.running(slots=4, completion_tokens=1, tokens_per_second=0, first_token_ms=0) as cluster:
        with bare_relay(cluster.worker_address) as relay_address:
            callers = {
                DIRECT: Caller(cluster.worker_address, rig.GENERATE, generate_request),
                RELAY: Caller(relay_address, rig.GENERATE, generate_request),
                QUEEN: Caller(cluster.queen_address, rig.INFER, rig.infer_request),
            }
            for caller in callers.values():
                await caller.run(WARM_UP_CALLS)
            times: dict[str, list[list[float]]] = {way: [] for way in callers}
            cpu_s = cluster.queen_cpu_s()
            for _ in range(rounds):
                for way, caller in callers.items():
                    times[way].append(await caller.run(calls))
            print(f"queen CPU per call: {1e6 * (cluster.queen_cpu_s() - cpu_s) / (rounds * calls):,.0f} us")
            await asyncio.gather(*(caller.close() for caller in callers.values()))
    return times


def row(way: str, times: dict[str, list[list[float]]]) -> list[str]:
    """Returns a line of the table: a way's own times, and what it adds to the direct one."""
    cells = [way]
    for percent, target in ((50, P50_MS), (99, P99_MS)):
        ours, direct = ([rig.percentile(one, percent) for one in times[each]] for each in (way, DIRECT))
        total = rig.percentile([*itertools.chain(*times[way])], percent)
        cells.append(f"{total:.2f}")
        if way == DIRECT:
            cells += ["", "", ""]
            continue
        added = total - rig.percentile([*itertools.chain(*times[DIRECT])], percent)
        per_round = [a - b for a, b in zip(ours, direct, strict=True)]
        cells += [
            f"{added:.2f}",
            f"{statistics.median(per_round):.2f} ({min(per_round):.2f}-{max(per_round):.2f})",
            rig.beside(added, target, "ms") if way == QUEEN else "",
        ]
    return cells


async def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it work at all?")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each way once in each (default 7)")
    parser.add_argument("--calls", type=int, default=300, help="calls per way and round (default 300)")
    told = parser.parse_args()
    rounds, calls = (2, 50) if told.quick else (told.rounds, told.calls)
    times = await measure(rounds, calls)
    added = ["added", "added per round (min-max)", "target"]
    rig.print_table(
        f"Time to first token of a 1-token reply, ms; {rounds} rounds of {calls} calls each way, in turns",
        ["way", "p50", *added, "p99", *added],
        [row(way, times) for way in times],
    )


if __name__ == "__main__":
    rig.run(main())
