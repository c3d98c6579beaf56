"""What do traces cost the queen? At most 10 % of a token and of the first one; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc
import rig
from first_token import Caller
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from wire.channel import dial
from wire.clock import SystemClock
from wire.sampling import Sampler
from wire.spans import Recorder

MOST_PERCENT: Final = 10.0
STREAMS: Final = 64
PACE: Final = 500
WARM_UP_CALLS: Final = 100
SPANS: Final = 20_000

OFF, KEPT, EXPORTED = "no traces", "kept by the queen", "kept and exported"


@dataclass(slots=True)
class Way:
    """A queen with traces or without, and what was measured of her, a figure for each round."""

    call: rig.Rig
    stream: rig.Rig
    first_ms: list[float] = field(default_factory=list)
    call_us: list[float] = field(default_factory=list)
    token_us: list[float] = field(default_factory=list)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that counts."""

    spans = 0

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext) -> object:  # noqa: D102
        self.spans += sum(len(scope.spans) for one in request.resource_spans for scope in one.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collector() -> Iterator[tuple[str, Receiver]]:
    """Serves a collector and yields its URL."""
    server, kept = grpc.server(futures.ThreadPoolExecutor(2)), Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", kept
    server.stop(None).wait()


async def measure(named: Mapping[str, Mapping[str, str]], rounds: int, calls: int, run_s: float) -> dict[str, Way]:
    """Returns what was measured of each way, by name its queen's environment. Within a round they take turns."""
    ways: dict[str, Way] = {}
    async with AsyncExitStack() as stack:
        for name, environment in named.items():
            calling = rig.running(
                slots=4, environment=environment, completion_tokens=1, tokens_per_second=0, first_token_ms=0
            )
            streaming = rig.running(
                slots=STREAMS, environment=environment, completion_tokens=2 * PACE, tokens_per_second=PACE
            )
            ways[name] = Way(await stack.enter_async_context(calling), await stack.enter_async_context(streaming))
        callers = {name: Caller(way.call.queen_address, rig.INFER, rig.infer_request) for name, way in ways.items()}
        for caller in callers.values():
            await caller.run(WARM_UP_CALLS)
        for _ in range(rounds):
            for name, way in ways.items():
                before = way.call.queen_cpu_s()
                way.first_ms.append(rig.percentile(await callers[name].run(calls), 50))
                way.call_us.append(1e6 * (way.call.queen_cpu_s() - before) / calls)
            for way in ways.values():
                way.token_us.append(await _token_us(way.stream, run_s))
        for caller in callers.values():
            await caller.close()
    return ways


async def _token_us(cluster: rig.Rig, run_s: float) -> float:
    """Returns the queen's processor time per token of streams that end and begin anew."""
    channel, tokens = dial(cluster.queen_address), 0
    infer = rig.raw_method(channel, rig.INFER)
    request, over = rig.infer_request(), time.monotonic() + run_s

    async def read() -> None:
        nonlocal tokens
        while time.monotonic() < over:
            last = b""
            async for message in infer(request):
                last = message
            tokens += next(one.done.usage.completion_tokens for one in reversed(rig.parsed(last).events))

    before = cluster.queen_cpu_s()
    await asyncio.gather(*(read() for _ in range(STREAMS)))
    spent = cluster.queen_cpu_s() - before
    await channel.close()
    return 1e6 * spent / tokens


def row(name: str, ways: dict[str, Way]) -> list[str]:
    """Returns a line of the table: medians, and what each is above those of the first way."""
    cells, least = [name], next(iter(ways))
    for figure in ("first_ms", "call_us", "token_us"):
        ours, theirs = getattr(ways[name], figure), getattr(ways[least], figure)
        cells.append(f"{statistics.median(ours):.2f}")
        more = 100 * (statistics.median(a / b for a, b in zip(ours, theirs, strict=True)) - 1)
        told = "" if figure == "call_us" else f", {rig.beside(more, MOST_PERCENT, '%')}"
        cells.append("" if name == least else f"{more:+.1f} %{told}")
    return cells


class _Ignored(SpanProcessor):
    """Takes spans as an exporter's queue does, and keeps none."""


def span_us() -> list[list[str]]:
    """Returns what a span takes, recorded as here and as by the SDK, processor time of one thread."""
    facts = {"rbee.worker.id": "mill-1", "rbee.hive.id": "mill", "rbee.attempt": 1}
    ours = Recorder("bench", SystemClock(), lambda _: None, roots=Sampler())
    provider = TracerProvider()
    provider.add_span_processor(_Ignored())
    theirs, nowhere = provider.get_tracer("bench"), Context()

    def own() -> None:
        ours.end(ours.begin("bench", facts, context=nowhere))

    def sdk() -> None:
        theirs.start_span("bench", context=nowhere, attributes=facts).end()

    return [["recorded as here", f"{each_us(own):.1f}"], ["recorded by the SDK", f"{each_us(sdk):.1f}"]]


def each_us(work: Callable[[], object], times: int = SPANS) -> float:
    """Returns what some work takes, us of this thread's processor time, the least of three rounds."""

    def once() -> float:
        begun = time.thread_time()
        for _ in range(times):
            work()
        return 1e6 * (time.thread_time() - begun) / times

    return min(once() for _ in range(3))


def asked(about: str | None) -> tuple[int, int, float]:
    """Returns rounds, calls and seconds of streams in each, as the command line has them."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it work at all?")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each way once in each (default 7)")
    parser.add_argument("--calls", type=int, default=300, help="one-token calls per way and round (default 300)")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of streams per way and round (default 4)")
    told = parser.parse_args()
    return (2, 50, 1.0) if told.quick else (told.rounds, told.calls, told.seconds)


async def main() -> None:
    """Measures and prints the tables."""
    rounds, calls, run_s = asked(__doc__)
    with collector() as (url, kept):
        named = {OFF: {"RBEE_TRACES": "0"}, KEPT: {}, EXPORTED: {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url}}
        ways = await measure(named, rounds, calls, run_s)
        assert kept.spans, "the collector got spans"
    rig.print_table(
        f"Traces, medians of {rounds} rounds in turns: first token and queen CPU of 1-token replies ({calls} calls), "
        f"queen CPU per token of {STREAMS} streams of {2 * PACE} tokens at {PACE} tok/s",
        ["way", "first token ms", "more", "CPU us/call", "more", "CPU us/token", "more"],
        [row(name, ways) for name in ways],
    )
    rig.print_table("A span with three attributes, us of processor time", ["way", "us"], span_us())


if __name__ == "__main__":
    rig.run(main())
