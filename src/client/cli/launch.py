"""The start of a queen and her hive, watched until they serve; the end of both when the keeper is told to stop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.cli import queen_process
from client.cli.call import collected
from client.client import connect
from client.render import words
from client.render.table import console
from rbee.v1 import hive_pb2, model_pb2
from wire import errors
from wire.clock import Clock, SystemClock

START_TIMEOUT_S: Final = 60.0
"""Longest wait for a queen to serve; her first start creates the database."""

_TRY_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Served:
    """What serves now."""

    hive: hive_pb2.Hive
    models: list[model_pb2.Model]


def run(data: queen_process.DataDir, address: str, bind: str, model_dirs: list[Path], *, detach: bool) -> None:
    """Starts a queen and has her start her hive; without `detach` stays until she ends or Ctrl+C stops her.

    Whatever goes wrong, nothing is left running. `bind`: where she listens; `address`: where she is reached.
    """
    log_start = data.log_file.stat().st_size if data.log_file.exists() else 0
    queen = queen_process.start(data, bind, queen_process.environment_of(model_dirs), to_log=detach)
    try:
        with console(to_stderr=True).status("starting the queen and her hive") if detach else nullcontext():
            asyncio.run(_until_serving(queen, address, SystemClock()))
            served = asyncio.run(serve_hive(address))
        log = f", log {data.log_file}" if detach else ""
        print(f"queen  serves at {address} (pid {queen.pid}{log})")
        tell(served)
        if detach:
            return
        print("Ctrl+C stops everything", flush=True)
        status = queen.wait()
    except KeyboardInterrupt:
        sys.stderr.write("\nstopping the queen and her hives\n")
        status = _end(queen, data)
        if detach or status != 0:
            raise
        return
    except errors.RbeeError as error:
        ended_by_itself = queen.poll()
        _end(queen, data)
        raise _explained(error, ended_by_itself, queen_process.last_lines(data.log_file, log_start)) from error
    data.forget()
    if status != 0:
        raise errors.Unreachable(f"the queen ended with exit status {status}; see her log above", "QUEEN_ENDED")


def _end(queen: subprocess.Popen[bytes], data: queen_process.DataDir) -> int:
    status = queen_process.end_child(queen)
    data.forget()
    return status


def _explained(error: errors.RbeeError, ended_with: int | None, lines: list[str]) -> errors.RbeeError:
    """Returns the error of a start, with the queen's last words when she ended by herself."""
    if ended_with is None:
        return error
    last_words = "\n".join(f"  {line}" for line in lines) or "  (see her log above)"
    return errors.Unreachable(
        f"the queen ended while starting, with exit status {ended_with}. Her last words:\n{last_words}",
        "QUEEN_START_FAILED",
    )


async def answers(address: str) -> bool:
    """Tells whether a queen serves at an address."""
    async with connect(address) as queen:
        try:
            return await queen.is_serving(timeout_s=3)
        except (errors.Unreachable, errors.TimedOut):
            return False


async def _until_serving(process: subprocess.Popen[bytes], address: str, clock: Clock) -> None:
    deadline = clock.monotonic() + START_TIMEOUT_S
    while True:
        # A new connection each time, so that no backoff of the old one delays the first success.
        async with connect(address) as queen:
            try:
                if await queen.is_serving(timeout_s=_TRY_S, wait_for_ready=True):
                    return
            except (errors.Unreachable, errors.TimedOut) as error:
                if process.poll() is not None or clock.monotonic() > deadline:
                    raise errors.Unreachable(
                        f"the queen does not serve at {address} {START_TIMEOUT_S:.0f} s after her start",
                        "QUEEN_START_FAILED",
                    ) from error


async def serve_hive(address: str) -> Served:
    """Has the queen start the hive of her machine, at once when it runs, and returns what serves then."""
    async with connect(address) as queen:
        hive = await queen.start_hive()
        return Served(hive, await collected(queen.models()))


def tell(served: Served) -> None:
    """Prints what serves where, and what to try next."""
    hive, models = served.hive, served.models
    devices = ", ".join(f"{device.id} {device.name}".strip() for device in hive.devices) or "no devices"
    print(f"hive   {hive.id} serves at {hive.address} with {devices} and {words.plural(len(models), 'model')}")
    usable = [model.name for model in models if not model.file.defect]
    print(f'try    rbee infer --model {usable[0] if usable else "/path/to/model.gguf"} "What is a hive?"', flush=True)
