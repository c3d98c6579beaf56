"""Real programs for tests: a queen process with its local hive, in a directory of its own, on ports of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NoReturn

import grpc
import psutil
import pytest

from rbee.v1 import hive_service_pb2, hive_service_pb2_grpc, worker_service_pb2, worker_service_pb2_grpc
from wire.channel import CHANNEL_OPTIONS

MODEL = Path(__file__).parent.parent / "models" / "rbee-tiny.gguf"


# Below those the kernel gives to whoever asks for any port, so that nobody gets one between its choice and its use;
# and each process of a test run starts at another.
_FIRST_PORT = 10_000 + os.getpid() * 997 % 20_000
_PORTS = chain(range(_FIRST_PORT, 30_000), range(10_000, _FIRST_PORT))


def free_port() -> int:
    """Returns a port nothing listens on now, another each time."""
    return next(port for port in _PORTS if not listens(port))


def listens(port: int) -> bool:
    """Tells whether something accepts connections at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def skip_or_fail(missing: object) -> NoReturn:
    """Skips a test whose outside part is missing, saying how to install it; fails it where CI must have it."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing))
    pytest.skip(str(missing))


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Returns those that still run. One whose parent has not asked for its status yet has ended all the same."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_for(holds: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Returns when something in another process holds; fails the test when it never does."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain: {what}"
        time.sleep(0.02)


class Queen:
    """A queen process. `start` returns when she serves, `stop` when she has ended; `kill` is SIGKILL."""

    def __init__(self, folder: Path, *flags: str, model_dir: Path | None = None, **environment: str) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.address = f"127.0.0.1:{free_port()}"
        self.http = f"127.0.0.1:{free_port()}"
        self._flags = flags
        self._environment = {
            **os.environ,
            "RBEE_QUEEN_HTTP": self.http,
            "RBEE_QUEEN_HIVE_LISTEN": "127.0.0.1:0",
            "RBEE_HIVE_NAME": "mill",
            "RBEE_MODEL_DIR": str(model_dir or folder / "models"),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Returns what she logged."""
        return (self.folder / "queen.log").read_text(errors="replace")

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the process without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "queen.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "queen", "--listen", self.address),
                    *("--data-dir", str(self.data_dir), *self._flags),
                ],
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        return self.process

    def start(self, *, hive: bool = True) -> Queen:
        """Starts her and, unless told otherwise, her local hive; returns when both serve."""
        process = self.launch()
        port = int(self.address.rpartition(":")[2])
        wait_for(lambda: listens(port) or process.poll() is not None, "the queen listens")
        assert process.poll() is None, self.log
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            grpc.channel_ready_future(channel).result(20)
            if hive:
                stub = hive_service_pb2_grpc.HiveServiceStub(channel)
                stub.Start(hive_service_pb2.HiveServiceStartRequest(), timeout=60)
        return self

    def stop(self) -> int:
        """Stops her in order and returns her exit status; nothing of hers is left."""
        assert self.process is not None
        children = self.descendants()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        gone, left = psutil.wait_procs(children, timeout=10)
        assert not left, f"left running: {left}; stopped: {gone}"
        return status

    def kill(self) -> None:
        """Ends her as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def descendants(self) -> list[psutil.Process]:
        """Returns the processes below her: policy sandboxes, hive and workers."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def machines(self) -> list[psutil.Process]:
        """Returns the hive and worker processes below her."""
        return [one for one in self.descendants() if "queen.policy.sandbox" not in one.cmdline()]

    def end_everything(self) -> None:
        """Kills whatever is left of her, hives and workers that outlived her included."""
        if self.process is None:
            return
        mine = str(self.data_dir)
        left = self.descendants() + ([psutil.Process(self.process.pid)] if self.process.poll() is None else [])
        for process in psutil.process_iter(["cmdline"]):
            if mine in " ".join(process.info["cmdline"] or []):
                left += [process, *process.children(recursive=True)]
        for process in left:
            if process.is_running():
                process.kill()
        psutil.wait_procs(left, timeout=10)


def slots_taken(queen: Queen) -> int:
    """Returns how many slots of all her workers have a job."""
    with grpc.insecure_channel(queen.address, options=CHANNEL_OPTIONS) as channel:
        stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        workers = stub.List(worker_service_pb2.WorkerServiceListRequest(), timeout=10).workers
    return sum(one.slots_total - one.slots_available for one in workers)


@contextmanager
def running_queen(folder: Path, *flags: str, hive: bool = True, **environment: str) -> Iterator[Queen]:
    """Yields a running queen; ends everything of hers, in order when she still runs."""
    queen = Queen(folder, *flags, **environment)
    try:
        yield queen.start(hive=hive)
        if queen.process is not None and queen.process.poll() is None:
            assert queen.stop() == 0, queen.log
    finally:
        queen.end_everything()


def rbee(
    queen: Queen, *arguments: str, timeout_s: float = 60.0, env_extra: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the keeper against a queen and returns what it said."""
    return subprocess.run(
        [sys.executable, "-m", "client.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={
            **os.environ,
            "RBEE_QUEEN": queen.address,
            "RBEE_QUEEN_HTTP": queen.http,
            "RBEE_DATA_DIR": str(queen.data_dir),
            "RBEE_REATTACH": "0.5",
            **(env_extra or {}),
        },
        check=False,
    )
