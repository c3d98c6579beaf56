"""One hive of a name per machine: a lock that the kernel gives back, however the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wire import errors


@contextmanager
def name_lock(data_dir: Path, name: str) -> Iterator[None]:
    """Holds `<data_dir>/hives/<name>.lock`, which names this process.

    Raises `AlreadyExists` HIVE_EXISTS when another process holds it, `WrongState` DATA_DIR_UNUSABLE when it cannot be
    written.
    """
    path = data_dir / "hives" / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise errors.WrongState(
            f"{path} cannot be written: {error.strerror}. Choose another place with --data-dir DIR",
            "DATA_DIR_UNUSABLE",
        ) from error
    try:
        _lock(descriptor, path, name)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, name: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = path.read_text().strip() or "another"
        raise errors.AlreadyExists(
            f"a hive named {name} runs already on this machine (process {holder}). "
            f"Choose another name with --name NAME, or stop it with: rbee hive stop {name}",
            "HIVE_EXISTS",
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
