"""A real PostgreSQL server for tests: in a directory and on a port of its own, ended with the session."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from programs import free_port, skip_or_fail


def _program(name: str) -> str:
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    if found := shutil.which(name):
        return found
    return skip_or_fail(f"there is no {name}; install it with: apt-get install postgresql")


class Postgres:
    """A server. `stop` ends it as a crash would; what was committed is there after the next `start`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        # The server refuses to run as root; Debian's package brings this user along.
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as = ["runuser", "-u", "postgres", "--"]
        self._run("initdb", "--auth=trust", "--username=rbee", "--no-sync", "--encoding=UTF8", "--pgdata", self._data)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def start(self) -> None:
        """Returns when it serves."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", str(self._folder / "log"), "-o", options)

    def stop(self) -> None:
        """Returns when it has ended."""
        self._run("pg_ctl", "stop", "-m", "immediate", "-D", self._data)

    def database(self, name: str) -> str:
        """Makes an empty database and returns its URL as the queen takes it."""
        with psycopg.connect(f"postgresql://rbee@127.0.0.1:{self._port}/postgres", autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://rbee@127.0.0.1:{self._port}/{name}"

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as, _program(name), *arguments],
            check=True,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Yields a server that serves; nothing of it is left afterwards."""
    _program("initdb")
    # Not pytest's own temporary directory: that is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="rbee-pg-"))
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
