"""How much does the queen's OpenAI endpoint do beside the LiteLLM proxy? Target 13; see README.md here."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import rig

PROXY: Final = ("litellm[proxy]==1.97.0", "fastapi==0.136.3")
"""It does not start with newer releases of the latter."""
CALLERS: Final = 32
SLOTS: Final = 32
TIMES: Final = 10
ADDED_SHARE: Final = 0.2
ANSWER: Final = 20
"""Tokens of a whole answer."""
STREAM: Final = 100
"""Tokens of a streamed answer."""
START_S: Final = 120.0

Address = tuple[str, int]


class Caller:
    """One connection that asks for one answer after another, with as little of its own as Python allows."""

    def __init__(self, address: Address, model: str) -> None:
        self._address = address
        self._model = model
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, tokens: int, *, stream: bool) -> float:
        """Returns how long the first bytes of the answer's body took, seconds; reads all of it."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        begun = time.perf_counter()
        writer.write(self._request(tokens, stream))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head + await reader.read(1000)
        if b"transfer-encoding: chunked" in head:
            size = await reader.readline()
            took = time.perf_counter() - begun
            while length := int(size, 16):
                await reader.readexactly(length + 2)
                size = await reader.readline()
            await reader.readline()
        else:
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            took = time.perf_counter() - begun
        return took

    def close(self) -> None:
        """Ends the connection."""
        if self._streams is not None:
            self._streams[1].close()

    def _request(self, tokens: int, stream: bool) -> bytes:
        messages = [{"role": "user", "content": "What is a queen without a hive?"}]
        body = json.dumps({"model": self._model, "messages": messages, "max_tokens": tokens, "stream": stream}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer any\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way did in one round: whole answers and streamed tokens a second, first tokens in ms.

    `cpu_ms`: the server's processor time for a whole answer.
    """

    requests: float
    cpu_ms: float
    tokens: float
    first_ms: list[float]


@dataclass(frozen=True, slots=True)
class Way:
    """A server, the name of the model there, and its process."""

    address: Address
    model: str
    server: psutil.Process

    def cpu_s(self) -> float:
        """Returns the processor time its process and those below it have used."""
        times = [one.cpu_times() for one in (self.server, *self.server.children(recursive=True)) if self._counts(one)]
        return sum(float(one.user + one.system) for one in times)

    def _counts(self, process: psutil.Process) -> bool:
        """Leaves out the queen's hive and workers: the engine behind the others is not counted either."""
        return not {"hive", "worker"} & set(process.cmdline())


async def measure(way: Way, span_s: float, calls: int) -> Figures:
    """Returns what a server does for `span_s` seconds of each load, and for `calls` one after the other."""
    address, model = way.address, way.model
    callers = [Caller(address, model) for _ in range(CALLERS)]

    async def load(tokens: int, *, stream: bool) -> float:
        """Returns answers a second of all callers together."""
        end = time.perf_counter() + span_s
        done = 0

        async def run(caller: Caller) -> None:
            nonlocal done
            while time.perf_counter() < end:
                await caller.ask(tokens, stream=stream)
                done += 1

        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(run(caller))
        return done / (time.perf_counter() - begun)

    try:
        first = [1000 * await callers[0].ask(1, stream=True) for _ in range(calls)]
        cpu_s, begun = way.cpu_s(), time.perf_counter()
        rate = await load(ANSWER, stream=False)
        cpu_ms = 1000 * (way.cpu_s() - cpu_s) / (rate * (time.perf_counter() - begun))
        return Figures(rate, cpu_ms, STREAM * await load(STREAM, stream=True), first)
    finally:
        for caller in callers:
            caller.close()


# The same engine, as other servers have it: OpenAI's API in front of it, one chunk per token.


async def serve_engine(port: int) -> None:
    """Serves the synthetic engine as OpenAI-compatible servers serve theirs, until it is told to end."""
    import uvicorn

    config = uvicorn.Config(_engine_app(), port=port, log_level="error", lifespan="off")
    await uvicorn.Server(config).serve()


def _engine_app() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    from wire.clock import SystemClock
    from worker.engines.port import Message, Piece
    from worker.engines.port import Request as Wanted
    from worker.engines.synthetic import Synthetic

    options = {"tokens_per_second": "0", "completion_tokens": str(STREAM)}
    engine = Synthetic(SLOTS, 8192, options, SystemClock())
    head = {"id": "chatcmpl-bench", "created": 1, "model": "bench"}

    async def texts(body: Any) -> AsyncGenerator[str, None]:
        messages = tuple(Message(one["role"], one["content"]) for one in body["messages"])
        async for item in engine.generate(Wanted(messages=messages, max_tokens=body.get("max_tokens"))):
            if isinstance(item, Piece):
                yield item.text

    def event(delta: Any, finish: str | None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    async def answer(request: Request) -> Response:
        body = await request.json()

        async def events() -> AsyncIterator[str]:
            async for text in texts(body):
                yield event({"role": "assistant", "content": text}, None)
            yield event({}, "stop") + "data: [DONE]\n\n"

        if body.get("stream"):
            return StreamingResponse(events(), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join([text async for text in texts(body)])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": ANSWER, "total_tokens": ANSWER + 7}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


@contextmanager
def process(*command: str | Path, log: Path, **environment: str) -> Iterator[psutil.Popen]:
    """Runs a program and ends it."""
    with log.open("wb") as output:
        started = psutil.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(10)
        except psutil.TimeoutExpired:
            started.kill()


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[tuple[Way, Way]]:
    """Runs the engine and the LiteLLM proxy before it; yields both."""
    engine, proxy = rig.free_port(), rig.free_port()
    config = folder / "proxy.json"  # JSON is YAML
    params = {"model": "openai/bench", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "any"}
    config.write_text(json.dumps({"model_list": [{"model_name": "bench", "litellm_params": params}]}))
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    command = (installed_proxy() / "bin" / "litellm", "--config", config, "--host", "127.0.0.1")
    with (
        process(sys.executable, __file__, "--engine", str(engine), log=folder / "engine.log") as behind,
        process(*command, "--port", str(proxy), "--telemetry", "False", log=folder / "proxy.log", **quiet) as before,
    ):
        for port in (engine, proxy):
            await _until_serving(("127.0.0.1", port), folder / "proxy.log")
        yield Way(("127.0.0.1", engine), "bench", behind), Way(("127.0.0.1", proxy), "bench", before)


async def _until_serving(address: Address, log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            _, writer = await asyncio.open_connection(*address)
        except OSError:
            if time.monotonic() > end:
                words = await asyncio.to_thread(log.read_text)
                raise RuntimeError(f"nothing serves at {address}: {words[-4000:]}") from None
            await asyncio.sleep(0.2)
        else:
            writer.close()
            return


def installed_proxy() -> Path:
    """Returns the environment of the LiteLLM proxy, made once: about 700 MB in ~/.cache/rbee-bench."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "rbee-bench" / PROXY[0].replace("[", "-").replace("]", "")
    if not (folder / "ready").exists():
        print(f"installing {PROXY[0]} in {folder}")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *PROXY], check=True)
        (folder / "ready").touch()
    return folder


async def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it work at all?")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each way once in each (default 5)")
    parser.add_argument("--engine", type=int, metavar="PORT", help="serve the engine alone, as the proxy has it")
    told = parser.parse_args()
    if told.engine:
        await serve_engine(told.engine)
        return
    rounds, span_s, calls = (1, 2.0, 20) if told.quick else (told.rounds, 4.0, 50)
    found: dict[str, list[Figures]] = {"engine": [], "proxy": [], "queen": []}
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as folder:
        async with (
            proxied(Path(folder)) as (engine, proxy),
            rig.running(slots=SLOTS, completion_tokens=STREAM, tokens_per_second=0) as cluster,
        ):
            host, _, port = cluster.http_address.partition(":")
            queen = Way((host, int(port)), rig.MODEL, cluster.queen)
            ways = {"engine": engine, "proxy": proxy, "queen": queen}
            for way in ways.values():
                await measure(way, 0.5, 5)  # warm up
            for _ in range(rounds):
                for name, way in ways.items():
                    found[name].append(await measure(way, span_s, calls))
    print_figures(found, rounds)


def print_figures(found: dict[str, list[Figures]], rounds: int) -> None:
    """Prints medians over the rounds, and the queen's beside the proxy's."""
    half = {
        name: (
            rig.percentile([one.requests for one in figures], 50),
            rig.percentile([one.tokens for one in figures], 50),
            rig.percentile([ms for one in figures for ms in one.first_ms], 50),
            rig.percentile([one.cpu_ms for one in figures], 50),
        )
        for name, figures in found.items()
    }
    added = {name: half[name][2] - half["engine"][2] for name in ("proxy", "queen")}
    words = {"engine": "the engine itself", "proxy": "LiteLLM proxy", "queen": "queen"}
    rows = [
        [words[name], f"{a:,.0f}", f"{d:.2f}", f"{b:,.0f}", f"{c:.2f}", f"{added[name]:.2f}" if name in added else ""]
        for name, (a, b, c, d) in half.items()
    ]
    times = [half["queen"][place] / half["proxy"][place] for place in (0, 1)]
    share = added["queen"] / added["proxy"]
    cpu = half["queen"][3] / half["proxy"][3]
    rows.append(["queen to proxy", f"{times[0]:.1f}x", f"{cpu:.2f}", f"{times[1]:.1f}x", "", f"{share:.2f}"])
    targets = [f">= {TIMES}x {'met' if one >= TIMES else 'MISSED'}" for one in times]
    rows.append(["target", targets[0], "", targets[1], "", rig.beside(share, ADDED_SHARE, "").replace("  ", " ")])
    rig.print_table(
        f"OpenAI's API, {CALLERS} callers, the same synthetic engine behind; medians of {rounds} rounds",
        [
            "way",
            f"answers/s ({ANSWER} tokens)",
            "CPU ms each",
            f"streamed tok/s ({STREAM} each)",
            "first token p50 ms",
            "added ms",
        ],
        rows,
    )


if __name__ == "__main__":
    rig.run(main())
