"""Two databases behind one small port: SQLite in threads of its own, PostgreSQL through its asynchronous driver."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import URL, Row, create_engine, event

CONNECT_TIMEOUT_S: Final = 5
READERS: Final = 4
"""Threads that read from SQLite at once; most time of a read is Python's own, so more would not help."""

Statement = tuple[Any, Sequence[dict[str, Any]]]
"""What to execute, and with which rows of parameters."""

Result = TypeVar("Result")


class Database(Protocol):
    """Where the tables are. Both calls raise SQLAlchemy's errors."""

    url: URL

    async def write(self, statements: Sequence[Statement]) -> None:
        """Executes statements in one transaction; returns when it is on disk."""
        ...

    async def fetch(self, query: Any) -> Sequence[Row[Any]]:
        """Returns all rows of a query."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


def open_database(url: URL) -> Database:
    """Returns the database of a URL; connects when it is first used."""
    return Sqlite(url) if url.get_backend_name() == "sqlite" else Postgres(url)


class Sqlite:
    """A file. Each call is one visit to a thread: one for every statement costs the token path a third (bench)."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._engine = create_engine(url, connect_args={"check_same_thread": False})
        event.listen(self._engine, "connect", _prepare)
        self._writing = ThreadPoolExecutor(1, "writes")
        self._reading = ThreadPoolExecutor(READERS, "reads")

    async def write(self, statements: Sequence[Statement]) -> None:
        """Executes statements in one transaction; returns when it is on disk."""

        def execute() -> None:
            with self._engine.begin() as connection:
                for statement, rows in statements:
                    connection.execute(statement, rows)

        await _in(self._writing, execute)

    async def fetch(self, query: Any) -> Sequence[Row[Any]]:
        """Returns all rows of a query."""

        def read() -> Sequence[Row[Any]]:
            with self._engine.connect() as connection:
                return connection.execute(query).all()

        return await _in(self._reading, read)

    async def close(self) -> None:
        """Closes the connections."""
        for threads in (self._writing, self._reading):
            threads.shutdown(wait=False)
        await asyncio.to_thread(self._engine.dispose)


class Postgres:
    """A server."""

    def __init__(self, url: URL) -> None:
        self.url = url
        from sqlalchemy.ext.asyncio import create_async_engine  # a tenth of the queen's start, for those who need it

        patience = {"connect_timeout": CONNECT_TIMEOUT_S}
        self._engine = create_async_engine(url, pool_pre_ping=True, connect_args=patience)

    async def write(self, statements: Sequence[Statement]) -> None:
        """Executes statements in one transaction; returns when it is on disk."""
        async with self._engine.begin() as connection:
            for statement, rows in statements:
                await connection.execute(statement, rows)

    async def fetch(self, query: Any) -> Sequence[Row[Any]]:
        """Returns all rows of a query."""
        async with self._engine.connect() as connection:
            return (await connection.execute(query)).all()

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()


async def _in(threads: Executor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.close()
