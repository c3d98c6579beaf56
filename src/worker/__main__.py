"""llm-worker-rbee: reads its settings, loads the model, serves until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

from wire import errors, logs
from wire.clock import Clock, SystemClock
from wire.server import Server
from worker import config, links, services
from worker.engines.llamacpp import LlamaCpp
from worker.engines.port import Engine
from worker.engines.synthetic import Synthetic
from worker.generations import Generations
from worker.lifetime import Lifetime

PROGRAM: Final = "llm-worker-rbee"
GRACE_S: Final = 30.0
"""How long running generations may go on after the worker was asked to end."""
LAST_EVENTS_S: Final = 5.0
"""How long callers may take to receive what was generated for them."""
COULD_NOT_START: Final = 1
BAD_SETTINGS: Final = 2
BAD_TOKEN: Final = 3
_LATE_LINES_S: Final = 0.1

log = logging.getLogger("worker")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the worker; returns its exit status (see --help)."""
    try:
        settings = config.read(sys.argv[1:] if argv is None else argv, os.environ)
    except errors.Invalid as error:
        print(f"{PROGRAM}: {error.message}", file=sys.stderr)
        return BAD_SETTINGS
    # A standard error of our own, which stays when that of the libraries is closed; see _have_the_last_word.
    stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    logs.setup(PROGRAM, settings.log_format, settings.log_level, stderr)
    # Loading holds the interpreter lock, so that no handler of ours would run: a signal simply ends the process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    clock = SystemClock()
    try:
        engine = _engine(settings, clock)
        engine.load()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, engine, clock))
        engine.close()
        log.info("ended in order")
    except errors.Unauthenticated as error:
        log.error("the hive does not know this worker: %s", error.message)
        return BAD_TOKEN
    except errors.RbeeError as error:
        _have_the_last_word()
        log.error("%s", error.message)
        return COULD_NOT_START
    return 0


def _have_the_last_word() -> None:
    """Makes the next line the last one: llama.cpp logs on a thread of its own, and has no call that waits for it."""
    time.sleep(_LATE_LINES_S)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _engine(settings: config.Settings, clock: Clock) -> Engine:
    if settings.engine == "synthetic":
        return Synthetic(settings.slots, settings.context_length, settings.engine_options, clock)
    assert settings.model is not None, "config refuses other engines without a model"
    return LlamaCpp(settings.model, settings.slots, settings.context_length, settings.devices, settings.engine_options)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop


async def _serve(settings: config.Settings, engine: Engine, clock: Clock) -> None:
    lifetime = Lifetime()
    lifetime.watch_signals()
    try:
        async with asyncio.TaskGroup() as tasks:
            generations = Generations(engine, tasks, clock)
            servicer = services.EngineServicer(
                engine,
                generations,
                settings.model_ref,
                clock,
                lambda: random.SystemRandom().randrange(2**32 - 1),
                settings.worker_id,
            )
            server = Server(PROGRAM)
            services.serve(server, servicer)
            server.addressee = settings.worker_id  # before it listens: its port may have been another's a moment ago
            try:
                port = await _listen(server, settings)
                _log_address(settings, engine, port)
                announcement = tasks.create_task(_announce(settings, engine, port, lifetime))
                await lifetime.over()
                announcement.cancel()
                await _finish(server, generations)
            finally:
                await server.stop(LAST_EVENTS_S)
    except* errors.RbeeError as group:
        raise group.exceptions[0] from None


async def _listen(server: Server, settings: config.Settings) -> int:
    """Binds the port and returns it. Raises `WrongState` PORT_IN_USE."""
    host = f"[{settings.listen_host}]" if ":" in settings.listen_host else settings.listen_host
    if settings.port is not None:
        return await server.start(f"{host}:{settings.port}")
    for port in range(config.FIRST_PORT, config.LAST_PORT + 1):
        try:
            return await server.start(f"{host}:{port}")
        except errors.WrongState:
            continue
    raise errors.WrongState(
        f"{PROGRAM} found none of the ports {config.FIRST_PORT} to {config.LAST_PORT} free on {host}. "
        "Stop some workers (rbee worker list), or give --port N",
        "PORT_IN_USE",
    )


def _log_address(settings: config.Settings, engine: Engine, port: int) -> None:
    log.info(
        "serving %s on %s:%d with %s: %d slots of %d tokens",
        settings.model_ref,
        settings.listen_host,
        port,
        engine.version,
        engine.slots,
        engine.context_length,
    )


async def _announce(settings: config.Settings, engine: Engine, port: int, lifetime: Lifetime) -> None:
    """Says to the hive, if there is one, that this worker is ready, and ends with the hive from then on."""
    if settings.hive:
        lifetime.watch_hive()
        worker_id = await links.announce(settings.hive, settings.token, port, engine)
        log.info("the hive at %s knows this worker as %s", settings.hive, worker_id)


async def _finish(server: Server, generations: Generations) -> None:
    """Refuses new work, lets running generations finish for a while, ends the rest."""
    generations.draining = True
    await server.refuse_new()
    try:
        async with asyncio.timeout(GRACE_S):
            await generations.drained()
    except TimeoutError:
        log.warning("%d generations still ran after %.0f s and were ended", len(generations.all()), GRACE_S)
        await generations.end(generations.all())


if __name__ == "__main__":
    sys.exit(main())
