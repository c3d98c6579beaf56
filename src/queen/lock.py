"""One queen per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from wire import errors


def lock_data_dir(data_dir: Path) -> int:
    """Makes the data directory and takes its lock; returns the open file, which holds it until the process ends.

    Raises `WrongState` DATA_DIR_IN_USE naming the other queen, `Unreachable` STORAGE_UNAVAILABLE when it cannot be.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(data_dir / "queen.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise errors.Unreachable(
            f"the data directory {data_dir} cannot be written: {error.strerror}. "
            "Check its permissions, or choose another with --data-dir or RBEE_DATA_DIR",
            "STORAGE_UNAVAILABLE",
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 32).decode(errors="replace").strip() or "unknown"
        os.close(file)
        raise errors.WrongState(
            f"another queen (process {holder}) uses the data directory {data_dir}. "
            "Stop it with: rbee down, or choose another with --data-dir or RBEE_DATA_DIR",
            "DATA_DIR_IN_USE",
        ) from None
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file
