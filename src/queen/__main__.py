"""The program queen-rbee: reads its settings, makes clock and chance, runs, ends with a status."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from queen import config, program
from queen.lock import lock_data_dir
from queen.metrics import receiver
from queen.traces import collector
from wire import errors, logs, sampling
from wire.clock import SystemClock

EXIT_FAILED = 1
EXIT_USAGE = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a queen and returns its exit status: 0, 1 (could not start), 64 (told wrong)."""
    try:
        settings = config.read(sys.argv[1:] if arguments is None else arguments, os.environ)
        logs.setup("queen-rbee", settings.log_format, settings.log_level)
        lock_data_dir(settings.data_dir)
        _run(settings)
    except errors.RbeeError as error:
        print(f"queen-rbee: {error.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, errors.Invalid) else EXIT_FAILED
    return 0


def _run(settings: config.Settings) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each caller is an open file
    gc.collect()
    gc.freeze()  # what was imported stays for ever: collections need not look at it again
    chance = random.SystemRandom()
    sources = program.Sources(
        clock=SystemClock(),
        new_id=lambda prefix: f"{prefix}-{chance.getrandbits(40):010x}",
        jitter=lambda: chance.uniform(0.5, 1.0),
        instance_id=f"{chance.getrandbits(64):016x}",
        sampler=sampling.sampler(os.environ),
        collector=collector.from_environment(os.environ),
        receiver=receiver.from_environment(os.environ),
    )
    try:
        _loop()(program.run(settings, sources))
    except BaseExceptionGroup as group:
        # A failed start leaves through task groups; what a person can fix is the first known error inside.
        known, _ = group.split(errors.RbeeError)
        if known is None:
            raise
        raise _first(known) from None


def _loop() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Returns what runs a coroutine: uvloop where it is installed, asyncio elsewhere."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _first(group: BaseExceptionGroup[errors.RbeeError]) -> errors.RbeeError:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


if __name__ == "__main__":
    sys.exit(main())
