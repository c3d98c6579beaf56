"""A worker's service in this process, over a real gRPC connection, with whatever engine a test brings."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from rbee.v1 import engine_service_pb2_grpc
from wire import channel
from wire.clock import SystemClock
from wire.server import Server
from worker.engines.llamacpp import LlamaCpp
from worker.engines.port import Engine
from worker.engines.synthetic import Synthetic
from worker.generations import Generations
from worker.services import EngineServicer, serve

MODEL = Path(__file__).parents[2] / "models" / "rbee-tiny.gguf"

Stub = engine_service_pb2_grpc.EngineServiceStub
Serving = Callable[[Engine], AbstractAsyncContextManager[Stub]]


@asynccontextmanager
async def _serving(engine: Engine) -> AsyncIterator[Stub]:
    async with asyncio.TaskGroup() as tasks:
        clock = SystemClock()
        generations = Generations(engine, tasks, clock)
        seeds = itertools.count(1000)
        servicer = EngineServicer(engine, generations, "file:/models/m.gguf", clock, lambda: next(seeds))
        server = Server("test worker")
        serve(server, servicer)
        port = await server.start("127.0.0.1:0")
        try:
            async with channel.dial(f"127.0.0.1:{port}") as link:
                yield Stub(link)
        finally:
            await generations.end(generations.all())
            await server.stop(grace_s=0)


@pytest.fixture
def serving() -> Serving:
    return _serving


@pytest.fixture
def synthetic() -> Callable[..., Synthetic]:
    def make(slots: int = 2, context_length: int = 4096, **options: object) -> Synthetic:
        return Synthetic(slots, context_length, {name: str(value) for name, value in options.items()}, SystemClock())

    return make


@pytest.fixture(scope="session")
def model_path() -> Path:
    return MODEL


@pytest.fixture(scope="session")
def tiny() -> Iterator[LlamaCpp]:
    engine = LlamaCpp(MODEL, 2, 512, (), {"threads": "1"})
    engine.load()
    yield engine
    engine.close()
