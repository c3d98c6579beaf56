"""A real cluster for the keeper's tests: queen, hive and workers as `rbee up` starts them, gone at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from programs import free_port

MODELS = Path(__file__).parents[2] / "models"
SLOW = "synthetic:slow"
"""A model of made-up tokens, 20 a second, 400 in all: time enough to interrupt."""


@dataclass(frozen=True)
class Keeper:
    """Runs `rbee` as a process of its own, against one queen and one data directory."""

    address: str
    data_dir: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "RBEE_QUEEN": self.address,
            "RBEE_DATA_DIR": str(self.data_dir),
            "RBEE_QUEEN_HIVE_LISTEN": "127.0.0.1:0",
            "RBEE_QUEEN_HTTP": "127.0.0.1:0",
            "RBEE_MODEL": "rbee-tiny",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "client.cli", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "client.cli", *arguments],
            env=self.environment,
            input=piped,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        """Returns what a command that must go well printed."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def spawn_slow(self, tokens: int = 400) -> str:
        """Starts the worker of the slow model and returns its id."""
        pace = ("--engine-option", "tokens_per_second=20", "--engine-option", f"completion_tokens={tokens}")
        return self.ok("worker", "spawn", SLOW, "--engine", "synthetic", "--slots", "2", *pace).split()[1]

    def processes(self) -> list[list[str]]:
        """Returns the command lines of what runs for this data directory, and of its children."""
        roots = [process for process in psutil.process_iter() if str(self.data_dir) in arguments_of(process)]
        return [arguments_of(found) for root in roots for found in [root, *root.children(recursive=True)]]


def arguments_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.pid != os.getpid() else []
    except psutil.Error:
        return []


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    """A keeper with nothing running yet; whatever a test started is ended in order."""
    found = Keeper(f"127.0.0.1:{free_port()}", tmp_path)
    yield found
    assert found.run("down").returncode == 0
    assert found.processes() == []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keeper]:
    """A keeper whose queen, hive and slow worker serve; ended in order, leaving nothing behind."""
    found = Keeper(f"127.0.0.1:{free_port()}", tmp_path_factory.mktemp("cluster"))
    told = found.ok("up", "--detach", "--model-dir", str(MODELS))
    assert f"serves at {found.address}" in told
    assert "rbee infer --model rbee-tiny" in told
    found.spawn_slow()
    yield found
    assert found.ok("down") == "stopped\n"
    assert found.processes() == []
