"""Group commit: what is written within a few milliseconds, or while a commit runs, shares the next transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from queen.storage.tables import DECISIONS, HIVES, JOB_OUTPUTS, JOB_REQUESTS, JOBS
from wire import errors

log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 1.0
"""Pause before a failed batch is tried again, with all that has come since."""

LINGER_S: Final = 0.02
"""How long writes that nobody waits for gather. A short job's whole life then is one transaction, off its way."""

Row = dict[str, Any]
Written = Callable[[], Row]
"""Makes a row when it is written: of the many states of a job most are replaced before that."""

_WRITTEN: Final[tuple[Table, ...]] = (JOBS, JOB_REQUESTS, JOB_OUTPUTS, DECISIONS, HIVES)
_DELETES: Final = {
    table.name: delete(table).where(next(iter(table.primary_key)) == bindparam("gone")) for table in _WRITTEN
}


@dataclass(slots=True)
class _Batch:
    """What to write, newest version of each key by table; None: the row goes."""

    rows: dict[str, dict[str, Written | None]] = field(default_factory=lambda: {table.name: {} for table in _WRITTEN})
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.waiters or any(self.rows.values()))

    def put_back(self, older: _Batch) -> None:
        """Takes in a batch that could not be written; what is newer here stays."""
        for name, rows in older.rows.items():
            self.rows[name] = {**rows, **self.rows[name]}


class Writer:
    """The only writer of the database. `run` must be running for `flush` to return."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._batch = _Batch()
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing = False
        dialect: Any = postgresql if engine.dialect.name == "postgresql" else sqlite
        self._upserts = {table.name: _upsert(dialect.insert(table), table) for table in _WRITTEN}

    def put(self, table: Table, key: str, row: Written) -> None:
        """Writes a row, replacing one with the same primary key; `row` is asked for it when it is written."""
        self._batch.rows[table.name][key] = row
        self._news.set()

    def drop(self, table: Table, key: str) -> None:
        """Deletes the row with a primary key, written or not."""
        self._batch.rows[table.name][key] = None
        self._news.set()

    async def flush(self) -> None:
        """Returns when everything put before is on disk; raises `Unreachable` STORAGE_UNAVAILABLE when it cannot."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batch.waiters.append(done)
        self._news.set()
        self._hurry.set()
        await done

    def close(self) -> None:
        """Lets `run` return once everything is written."""
        self._closing = True
        self._news.set()
        self._hurry.set()

    async def run(self) -> None:
        """Writes batches until closed; a batch that fails is kept and tried again."""
        while not (self._closing and not self._batch):
            await self._news.wait()
            await self._linger()
            self._news.clear()
            if not self._batch:
                continue
            batch, self._batch = self._batch, _Batch()
            try:
                async with self._engine.begin() as connection:
                    await self._write(connection, batch)
            except (SQLAlchemyError, OSError) as error:
                await self._failed(batch, error)
            else:
                _resolve(batch.waiters, None)

    async def _linger(self) -> None:
        """Lets writes gather, unless somebody waits for them."""
        try:
            async with asyncio.timeout(LINGER_S):
                await self._hurry.wait()
        except TimeoutError:
            return
        if not self._closing:
            self._hurry.clear()

    async def _write(self, connection: AsyncConnection, batch: _Batch) -> None:
        for name, changes in batch.rows.items():
            if rows := [row() for row in changes.values() if row is not None]:
                await connection.execute(self._upserts[name], rows)
            if gone := [{"gone": key} for key, row in changes.items() if row is None]:
                await connection.execute(_DELETES[name], gone)

    async def _failed(self, batch: _Batch, error: Exception) -> None:
        reason = getattr(error, "orig", None) or error
        log.error("the database cannot be written: %s", reason)
        self._batch.put_back(batch)
        message = f"the queen's database cannot be written: {reason}; free disk space or check its permissions"
        _resolve(batch.waiters, errors.Unreachable(message, "STORAGE_UNAVAILABLE", retry_after_s=RETRY_AFTER_S))
        if self._closing:
            self._batch = _Batch()
        else:
            await asyncio.sleep(RETRY_AFTER_S)
        self._news.set()


def _resolve(waiters: list[asyncio.Future[None]], error: errors.RbeeError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def _upsert(insert: Any, table: Table) -> Any:
    """Returns the statement that writes rows of a table; made once, because making it costs more than running it."""
    replaced = {column.name: insert.excluded[column.name] for column in table.columns}
    key = [column.name for column in table.primary_key]
    return insert.on_conflict_do_update(index_elements=key, set_=replaced)
