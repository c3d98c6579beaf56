"""Group commit: what is written within a few milliseconds, or while a commit runs, shares the next transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from queen.storage.database import Database, Statement
from queen.storage.tables import (
    DECISIONS,
    HIVES,
    JOB_OUTPUTS,
    JOB_REQUESTS,
    JOBS,
    POLICIES,
    POLICY_ACTIVATIONS,
    TENANTS,
    USAGE,
)
from queen.storage.trouble import RETRY_AFTER_S, unavailable
from wire import errors

log = logging.getLogger(__name__)

LINGER_S: Final = 0.02
"""How long writes that nobody waits for gather. A short job's whole life then is one transaction, off its way."""

MOST_SPARE: Final = 100_000
"""Rows that are kept while the database is away though nobody was promised them: decisions and jobs whose callers wait
for them. Some 100 MB; the oldest beyond are given up."""

Row = dict[str, Any]
Written = Callable[[], Row]
"""Makes a row when it is written: of the many states of a job most are replaced before that."""

_WRITTEN: Final[tuple[Table, ...]] = (
    JOBS,
    JOB_REQUESTS,
    JOB_OUTPUTS,
    DECISIONS,
    HIVES,
    POLICIES,
    POLICY_ACTIVATIONS,
    TENANTS,
    USAGE,
)
_DELETES: Final = {
    table.name: delete(table).where(next(iter(table.primary_key)) == bindparam("gone")) for table in _WRITTEN
}


@dataclass(slots=True)
class _Batch:
    """What to write, newest version of each key by table; None: the row goes."""

    rows: dict[str, dict[str, Written | None]] = field(default_factory=lambda: {table.name: {} for table in _WRITTEN})
    spare: dict[tuple[str, str], None] = field(default_factory=dict)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.waiters or any(self.rows.values()))

    def put_back(self, older: _Batch) -> None:
        """Takes in a batch that could not be written; what is newer here stays."""
        for name, rows in older.rows.items():
            self.rows[name] = {**rows, **self.rows[name]}
        self.spare = {**older.spare, **self.spare}

    def trim(self, most: int) -> int:
        """Gives up the oldest spare rows beyond so many; returns how many went."""
        gone = list(islice(self.spare, max(0, len(self.spare) - most)))
        for name, key in gone:
            del self.spare[name, key]
            self.rows[name].pop(key, None)
        return len(gone)


class Writer:
    """The only writer of the database. `run` must be running for `flush` to return."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batch = _Batch()
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing = False
        self._trouble: errors.Unreachable | None = None
        dialect: Any = postgresql if database.url.get_backend_name() == "postgresql" else sqlite
        self._upserts = {table.name: _upsert(dialect.insert(table), table) for table in _WRITTEN}

    def put(self, table: Table, key: str, row: Written, *, spare: bool = False) -> None:
        """Writes a row, replacing one with the same primary key; `row` is asked for it when it is written.

        `spare`: it may be given up when too many gather because the database is away.
        """
        self._batch.rows[table.name][key] = row
        if spare:
            self._batch.spare[table.name, key] = None
        self._news.set()

    def drop(self, table: Table, key: str) -> None:
        """Deletes the row with a primary key, written or not."""
        self._batch.rows[table.name][key] = None
        self._news.set()

    def check_writable(self) -> None:
        """Raises `Unreachable` STORAGE_UNAVAILABLE while writes fail."""
        if self._trouble is not None:
            raise errors.Unreachable(self._trouble.message, self._trouble.reason, retry_after_s=RETRY_AFTER_S)

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
            if not self._batch and self._trouble is None:
                continue
            batch, self._batch = self._batch, _Batch()
            try:
                await self._write(batch)
            except (SQLAlchemyError, OSError) as error:
                await self._failed(batch, error)
            else:
                self._succeeded(batch)

    async def _linger(self) -> None:
        """Lets writes gather, unless somebody waits for them."""
        try:
            async with asyncio.timeout(LINGER_S):
                await self._hurry.wait()
        except TimeoutError:
            return
        if not self._closing:
            self._hurry.clear()

    async def _write(self, batch: _Batch) -> None:
        statements = list(self._statements(batch))
        try:
            await self._database.write(statements)
        except IntegrityError:
            await self._write_one_by_one(statements)

    async def _write_one_by_one(self, statements: list[Statement]) -> None:
        """Writes all but the rows that contradict others, so that one of these does not hold up the rest for ever."""
        for statement, rows in statements:
            for row in rows:
                try:
                    await self._database.write([(statement, [row])])
                except IntegrityError as error:
                    log.error("%s cannot be kept: %s", row.get("id"), error.orig)

    def _statements(self, batch: _Batch) -> Iterator[Statement]:
        for name, changes in batch.rows.items():
            if rows := [row() for row in changes.values() if row is not None]:
                yield self._upserts[name], rows
            if gone := [{"gone": key} for key, row in changes.items() if row is None]:
                yield _DELETES[name], gone

    def _succeeded(self, batch: _Batch) -> None:
        if self._trouble is not None:
            log.info("the database can be written again")
            self._trouble = None
        _resolve(batch.waiters, None)

    async def _failed(self, batch: _Batch, error: Exception) -> None:
        trouble = unavailable(error, self._database.url, "written")
        if self._trouble is None or self._trouble.message != trouble.message:
            log.error("%s", trouble)
        self._trouble = trouble
        self._batch.put_back(batch)
        if gone := self._batch.trim(MOST_SPARE):
            log.warning("given up because too much waits for the database: %d rows of decisions and past jobs", gone)
        _resolve(batch.waiters, trouble)
        if self._closing:
            self._batch, self._trouble = _Batch(), None
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
