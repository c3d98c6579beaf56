"""The queen as a process of this machine: her pid file, her log, her start and her end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import psutil

from wire import errors
from wire.channel import split_address
from wire.clock import Clock

STOP_TIMEOUT_S: Final = 60.0
"""Longest wait for a queen to stop: 30 s for her streams, 30 s for her hives."""

_POLL_S: Final = 0.05
_LAST_LINES: Final = 15


@dataclass(frozen=True, slots=True)
class DataDir:
    """The folder a queen keeps her data in, and what the keeper keeps beside it."""

    path: Path

    @property
    def pid_file(self) -> Path:
        """Returns where the keeper notes the pid of the queen it started."""
        return self.path / "queen.pid"

    @property
    def log_file(self) -> Path:
        """Returns where a detached queen logs."""
        return self.path / "logs" / "queen.log"

    def running(self) -> psutil.Process | None:
        """Returns the queen the pid file names, when that process is indeed one; clears a stale pid file away."""
        try:
            text = self.pid_file.read_text(encoding="ascii")
        except OSError:
            return None
        with suppress(ValueError, psutil.Error):
            process = psutil.Process(int(text))
            if _runs(process, "queen", "queen-rbee"):
                return process
        self.forget()
        return None

    def note(self, pid: int) -> None:
        """Writes the pid file; raises `FileExistsError` when another keeper was faster."""
        with self.pid_file.open("x", encoding="ascii") as file:
            file.write(f"{pid}\n")

    def forget(self) -> None:
        """Removes the pid file."""
        self.pid_file.unlink(missing_ok=True)


def orphans(data: DataDir) -> list[psutil.Process]:
    """Returns the hives a queen of this data directory started and left behind when she was killed."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _runs(process, "hive", "rbee-hive") and str(data.path) in process.cmdline():
                found.append(process)
    return found


def address_of(process: psutil.Process) -> str:
    """Returns the "host:port" a process was told to listen on; empty when that cannot be seen."""
    with suppress(psutil.Error, ValueError, IndexError):
        arguments = process.cmdline()
        return arguments[arguments.index("--listen") + 1]
    return ""


def start(data: DataDir, address: str, environment: Mapping[str, str], *, to_log: bool) -> subprocess.Popen[bytes]:
    """Starts a queen in a session of her own and returns her process; she logs to her file or to standard error."""
    try:
        data.log_file.parent.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "queen", "--listen", address, "--data-dir", str(data.path)]
        with data.log_file.open("ab") if to_log else os.fdopen(os.dup(2), "wb") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )
    except OSError as error:
        raise errors.WrongState(
            f"the data directory {data.path} cannot be written: {error.strerror}; choose another with --data-dir",
            "DATA_DIR_NOT_WRITABLE",
        ) from error
    try:
        data.note(process.pid)
    except FileExistsError:
        end_child(process)
        raise errors.Conflict(
            f"another rbee up is starting the queen of {data.path}; see: rbee status", "ALREADY_STARTING"
        ) from None
    return process


def end_child(process: subprocess.Popen[bytes]) -> int:
    """Stops a queen that is our child, in order, and returns her exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    return process.wait()


def stop(process: psutil.Process, clock: Clock) -> None:
    """Stops a queen or hive in order and returns when process and port are gone; raises `TimedOut` after 60 s."""
    address = address_of(process)
    with suppress(psutil.NoSuchProcess):
        process.terminate()
    deadline = clock.monotonic() + STOP_TIMEOUT_S
    pause = threading.Event()
    while is_alive(process) or (address and listens(address)):
        if clock.monotonic() > deadline:
            raise errors.TimedOut(
                f"process {process.pid} has not stopped within {STOP_TIMEOUT_S:.0f} s; "
                f"wait and try again: rbee down, or end it at once: kill -9 {process.pid}",
                "STOPS_SLOWLY",
            )
        pause.wait(_POLL_S)


def is_alive(process: psutil.Process) -> bool:
    """Tells whether a process runs; a zombie nobody has collected does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listens(address: str) -> bool:
    """Tells whether anything accepts connections at "host:port"."""
    try:
        with socket.create_connection(split_address(address), timeout=1):
            return True
    except OSError:
        return False


def last_lines(log_file: Path, from_byte: int) -> list[str]:
    """Returns the last lines of a log after a place in it, oldest first."""
    try:
        with log_file.open("rb") as file:
            file.seek(from_byte)
            return file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
    except OSError:
        return []


def environment_of(model_dirs: Sequence[Path]) -> dict[str, str]:
    """Returns the variables that hand the model directories to the hive the queen starts."""
    if not model_dirs:
        return {}
    return {"RBEE_MODEL_DIR": os.pathsep.join(str(path.absolute()) for path in model_dirs)}


def _runs(process: psutil.Process, module: str, script: str) -> bool:
    """Tells whether a process is one of our programs, so that a pid given out anew is never mistaken for it."""
    arguments = process.cmdline()
    by_module = ("-m", module) in pairwise(arguments)
    by_script = any(Path(argument).name == script for argument in arguments[:2])
    return is_alive(process) and (by_module or by_script)
