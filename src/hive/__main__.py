"""The program rbee-hive: reads its settings, makes clock, randomness and identity, runs, ends with a status."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import uuid
from collections.abc import Sequence

from hive import ending, program
from hive.config import Settings, read_settings
from hive.processes.ports import Launch
from wire import errors, logs
from wire.clock import SystemClock

WORKER_COMMAND = (sys.executable, "-m", "worker")


def main(arguments: Sequence[str] | None = None, worker_command: Sequence[str] = WORKER_COMMAND) -> int:
    """Runs a hive and returns its exit status: 0, 1 (could not start), 64 (told wrong), 75 (its name is taken)."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ)
        logs.setup("rbee-hive", settings.log_format, settings.log_level)
        return asyncio.run(program.run(settings, _sources(settings, worker_command)))
    except errors.RbeeError as error:
        print(f"rbee-hive: {error.message}", file=sys.stderr)
        return _status(error)


def _sources(settings: Settings, worker_command: Sequence[str]) -> program.Sources:
    environment = dict(os.environ) | {"RBEE_LOG_FORMAT": settings.log_format}
    return program.Sources(
        clock=SystemClock(),
        draw=random.SystemRandom().random,
        instance_id=uuid.uuid4().hex,
        launch=Launch(tuple(worker_command), environment, lambda: secrets.token_hex(32)),
    )


def _status(error: errors.RbeeError) -> int:
    match error:
        case errors.AlreadyExists():
            return ending.TAKEN
        case errors.Invalid():
            return ending.USAGE
        case _:
            return ending.FAILED


if __name__ == "__main__":
    sys.exit(main())
