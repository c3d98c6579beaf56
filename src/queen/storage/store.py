"""The store port over SQLAlchemy: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import JSON, Row, String, cast, create_engine, func, inspect, make_url, select, text
from sqlalchemy.exc import SQLAlchemyError

from queen.core.model import RESTING_STATES, Asks, Decision, Hive, Job, JobState
from queen.core.tenants import Tenant, TenantUsage
from queen.core.versions import PolicyActivation, PolicyVersion
from queen.storage import rows
from queen.storage.database import Database, open_database
from queen.storage.lookup import Lookup
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
from queen.storage.trouble import may_pass, unavailable
from queen.storage.writer import Writer
from wire import errors
from wire.clock import Clock

log = logging.getLogger(__name__)

START_PATIENCE_S: Final = 30.0
"""How long a queen that starts waits for a database server that is not there yet: they often start together."""


class SqlStore:
    """Keeps what survives the queen. Open with `open_store`; run `writer.run()` beside it."""

    def __init__(self, database: Database, *, keep_requests: bool = False) -> None:
        self._database = database
        self._keep_requests = keep_requests
        self._lookup = Lookup(self._find_jobs)
        self.writer = Writer(database)

    def save_job(self, job: Job) -> None:
        """Writes a job's newest state."""
        self.writer.put(JOBS, job.id, partial(rows.from_job, job), spare=not job.detached)

    def save_request(self, job_id: str, spec: bytes) -> None:
        """Keeps what a job asks for until the job ends."""
        self.writer.put(JOB_REQUESTS, job_id, lambda: {"job_id": job_id, "spec": spec})

    def drop_request(self, job_id: str) -> None:
        """Forgets what a job asked for, unless it is to be kept as long as the job."""
        if not self._keep_requests:
            self.writer.drop(JOB_REQUESTS, job_id)

    def save_output(self, job_id: str, first_sequence: int, frames: Sequence[bytes]) -> None:
        """Keeps a job's events, serialised; the first has that sequence. Replaces what was kept before."""
        self.writer.put(JOB_OUTPUTS, job_id, partial(rows.from_output, job_id, first_sequence, tuple(frames)))

    def drop_output(self, job_id: str) -> None:
        """Forgets a job's events."""
        self.writer.drop(JOB_OUTPUTS, job_id)

    def save_decision(self, decision: Decision) -> None:
        """Writes a decision."""
        self.writer.put(DECISIONS, decision.id, partial(rows.from_decision, decision), spare=True)

    def save_hive(self, hive: Hive) -> None:
        """Writes a hive as registered, and whether it is online."""
        self.writer.put(HIVES, hive.id, partial(rows.from_hive, hive))

    def save_policy(self, policy: PolicyVersion) -> None:
        """Writes a version of a policy."""
        self.writer.put(POLICIES, f"{policy.name}@{policy.version}", partial(rows.from_policy, policy))

    def save_activation(self, activation: PolicyActivation) -> None:
        """Writes who is in charge from now on, or suspended."""
        self.writer.put(POLICY_ACTIVATIONS, str(activation.order), partial(rows.from_activation, activation))

    def save_tenant(self, tenant: Tenant) -> None:
        """Writes a tenant."""
        self.writer.put(TENANTS, tenant.id, partial(rows.from_tenant, tenant))

    def save_usage(self, tenant_id: str, day: int, usage: TenantUsage) -> None:
        """Writes what a tenant used on a day, replacing what was known of it. Days count from 1970, UTC."""
        self.writer.put(USAGE, f"{day} {tenant_id}", partial(rows.from_usage, tenant_id, day, usage))

    def check_writable(self) -> None:
        """Raises `Unreachable` STORAGE_UNAVAILABLE while writes fail."""
        self.writer.check_writable()

    async def flush(self) -> None:
        """Returns when everything saved before is on disk; raises `Unreachable` STORAGE_UNAVAILABLE when it cannot."""
        await self.writer.flush()

    async def get_job(self, job_id: str) -> Job | None:
        """Returns a job as last written."""
        found = await self._read(select(JOBS).where(JOBS.c.id == job_id))
        return rows.to_job(found[0]) if found else None

    async def find_job(self, request_id: str) -> Job | None:
        """Returns the job a request id was used for."""
        return (await self.find_jobs([request_id])).get(request_id)

    async def find_jobs(self, request_ids: Collection[str]) -> dict[str, Job]:
        """Returns the jobs request ids were used for, by these; unknown ones are left out."""
        return await self._lookup.find(request_ids)

    async def _find_jobs(self, request_ids: Collection[str]) -> dict[str, Job]:
        query = select(JOBS).where(JOBS.c.request_id.in_(request_ids))
        return {row["request_id"]: rows.to_job(row) for row in await self._read(query)}

    async def list_jobs(
        self, *, states: Collection[JobState], tenant_id: str, model: str, before_order: int | None, limit: int
    ) -> list[Job]:
        """Returns jobs newest first, those accepted before `before_order`. Empty filters let all pass."""
        query = select(JOBS).order_by(JOBS.c.order.desc()).limit(limit)
        if states:
            query = query.where(JOBS.c.state.in_([state.value for state in states]))
        if tenant_id:
            query = query.where(JOBS.c.tenant_id == tenant_id)
        if model:
            query = query.where((JOBS.c.model == model) | (JOBS.c.model_ref == model))
        if before_order is not None:
            query = query.where(JOBS.c.order < before_order)
        return [rows.to_job(row) for row in await self._read(query)]

    async def get_output(self, job_id: str) -> tuple[int, list[bytes]] | None:
        """Returns the sequence of the first event kept of a job, and the events from there; None when none are kept."""
        found = await self._read(select(JOB_OUTPUTS).where(JOB_OUTPUTS.c.job_id == job_id))
        return rows.to_output(found[0]) if found else None

    async def list_decisions(self, job_id: str, limit: int) -> list[Decision]:
        """Returns a job's decisions, oldest first."""
        query = (
            select(DECISIONS)
            .where(DECISIONS.c.job_id == job_id)
            .order_by(DECISIONS.c.decide_time, DECISIONS.c.id)
            .limit(limit)
        )
        return [rows.to_decision(row) for row in await self._read(query)]

    async def find_decisions(
        self, *, job_id: str, policy: str, before: tuple[float, str] | None, limit: int
    ) -> list[Decision]:
        """Returns decisions newest first, those made before a (time, id). Empty filters let all pass."""
        time, decision_id = DECISIONS.c.decide_time, DECISIONS.c.id
        query = select(DECISIONS).order_by(time.desc(), decision_id.desc()).limit(limit)
        if job_id:
            query = query.where(DECISIONS.c.job_id == job_id)
        if policy:
            query = query.where(DECISIONS.c.policy == policy)
        if before is not None:
            query = query.where((time < before[0]) | ((time == before[0]) & (decision_id < before[1])))
        return [rows.to_decision(row) for row in await self._read(query)]

    async def list_tenants(self) -> list[Tenant]:
        """Returns the tenants as last written, by id."""
        return [rows.to_tenant(row) for row in await self._read(select(TENANTS).order_by(TENANTS.c.id))]

    async def usage_of(self, first_day: int, last_day: int) -> dict[str, TenantUsage]:
        """Returns what each tenant used from one day to another, both included."""
        counts = [func.sum(USAGE.c[name]).label(name) for name in ("prompt_tokens", "completion_tokens", "jobs")]
        query = (
            select(USAGE.c.tenant_id, *counts)
            .where(USAGE.c.day.between(first_day, last_day))
            .group_by(USAGE.c.tenant_id)
        )
        found = await self._read(query)
        return {row.pop("tenant_id"): TenantUsage(**{name: int(count) for name, count in row.items()}) for row in found}

    async def served(self) -> dict[str, int]:
        """Returns each tenant's counter of fair shares as last written."""
        newest = select(USAGE.c.tenant_id, func.max(USAGE.c.day).label("day")).group_by(USAGE.c.tenant_id).subquery()
        query = select(USAGE.c.tenant_id, USAGE.c.served).join(
            newest, (USAGE.c.tenant_id == newest.c.tenant_id) & (USAGE.c.day == newest.c.day)
        )
        return {row["tenant_id"]: row["served"] for row in await self._read(query)}

    async def load_unfinished(self, read: Callable[[bytes], Asks]) -> list[tuple[Job, bytes]]:
        """Returns the jobs that were not at rest with what they ask for, in the order they were accepted."""
        resting = [state.value for state in RESTING_STATES]
        columns = [JOBS.c[name] for name in rows.UNFINISHED]
        texts = [cast(one, String) if isinstance(one.type, JSON) else one for one in columns]
        query = (
            select(JOB_REQUESTS.c.spec, *texts)
            .select_from(JOBS)
            .outerjoin(JOB_REQUESTS, JOB_REQUESTS.c.job_id == JOBS.c.id)
            .where(JOBS.c.state.not_in(resting))
            .order_by(JOBS.c.order)
        )
        return [(rows.to_unfinished(row[1:], read(row[0] or b"")), row[0] or b"") for row in await self._fetch(query)]

    async def oldest_end(self) -> float | None:
        """Returns when the job that has been at rest longest ended; None when none is at rest."""
        found = await self._read(select(func.min(JOBS.c.end_time).label("oldest")))
        oldest: float | None = found[0]["oldest"]
        return oldest

    async def purge(self, ended_before: float, limit: int) -> int:
        """Forgets up to `limit` jobs that ended before that, and all that belongs to them; returns how many.

        Returns when it is on disk. Raises `Unreachable` STORAGE_UNAVAILABLE.
        """
        due = select(JOBS.c.id).where(JOBS.c.end_time < ended_before).order_by(JOBS.c.end_time).limit(limit)
        job_ids = [row["id"] for row in await self._read(due)]
        for job_id in job_ids:
            for table in (JOBS, JOB_REQUESTS, JOB_OUTPUTS):
                self.writer.drop(table, job_id)
        for row in await self._read(select(DECISIONS.c.id).where(DECISIONS.c.job_id.in_(job_ids))):
            self.writer.drop(DECISIONS, row["id"])
        await self.flush()
        return len(job_ids)

    async def last_order(self) -> int:
        """Returns the highest `order` ever given; 0 for an empty store."""
        found = await self._read(select(func.max(JOBS.c.order).label("last")))
        return int(found[0]["last"] or 0)

    async def list_hives(self) -> list[Hive]:
        """Returns the registered hives, by name; `was_online` is as last saved."""
        return [rows.to_hive(row) for row in await self._read(select(HIVES).order_by(HIVES.c.id))]

    async def list_policies(self, name: str = "") -> list[PolicyVersion]:
        """Returns all versions of all policies, or of one, by name and time."""
        query = select(POLICIES).order_by(POLICIES.c.name, POLICIES.c.create_time, POLICIES.c.id)
        if name:
            query = query.where(POLICIES.c.name == name)
        return [rows.to_policy(row) for row in await self._read(query)]

    async def list_activations(self) -> list[PolicyActivation]:
        """Returns who was put in charge or suspended, oldest first."""
        query = select(POLICY_ACTIVATIONS).order_by(POLICY_ACTIVATIONS.c.order)
        return [rows.to_activation(row) for row in await self._read(query)]

    async def close(self) -> None:
        """Closes the connections; the writer must have returned."""
        await self._database.close()

    async def _read(self, query: Any) -> list[dict[str, Any]]:
        return [row._asdict() for row in await self._fetch(query)]

    async def _fetch(self, query: Any) -> Sequence[Row[Any]]:
        try:
            return await self._database.fetch(query)
        except SQLAlchemyError as error:
            raise unavailable(error, self._database.url) from error


def open_store(url: str, *, migrate: bool = True, keep_requests: bool = False) -> SqlStore:
    """Returns the store of a database, migrated to the newest tables.

    Raises `Unreachable` STORAGE_UNAVAILABLE when it cannot be opened or written, naming it and what to check, and
    `WrongState` DATABASE_OUTDATED when it is older and may not be migrated.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        _make_private(Path(parsed.database))
    try:
        _bring_up_to_date(url, migrate=migrate)
    except (SQLAlchemyError, OSError) as error:
        raise unavailable(error, parsed) from error
    return SqlStore(open_database(parsed), keep_requests=keep_requests)


async def open_in_time(url: str, clock: Clock, *, migrate: bool, keep_requests: bool) -> SqlStore:
    """Returns the store as `open_store` does; waits up to `START_PATIENCE_S` for a server that is not there yet."""
    give_up = clock.monotonic() + START_PATIENCE_S
    while True:
        try:
            return await asyncio.to_thread(open_store, url, migrate=migrate, keep_requests=keep_requests)
        except errors.Unreachable as error:
            left = give_up - clock.monotonic()
            if not may_pass(error.__cause__) or left <= 0:
                raise
            log.warning("%s; trying for %.0f s more", error, left)
            await asyncio.sleep(error.retry_after_s or 1.0)


def _bring_up_to_date(url: str, *, migrate: bool) -> None:
    """Gives a database the newest tables; raises `WrongState` DATABASE_OUTDATED when it may not and has not."""
    packaged = Path(__file__).parent / "migrations"
    migrations = packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"
    newest = max(path.name for path in (migrations / "versions").glob("[0-9]*.py")).partition("_")[0]
    found = _revision(url)
    if found == newest:
        return  # as nearly always: alembic takes longer to import than the rest takes to start
    if not migrate:
        raise errors.WrongState(
            f"the database is at revision {found or 'none'}, this queen needs {newest}; "
            "back it up and start her without --no-migrate",
            "DATABASE_OUTDATED",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")


def _revision(url: str) -> str | None:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if inspect(connection).has_table("alembic_version"):
                return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    finally:
        engine.dispose()
    return None


def _make_private(path: Path) -> None:
    """Makes the file for its owner alone before SQLite makes it for everybody."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise errors.Unreachable(
            f"the database {path} cannot be opened for writing: {error.strerror}. "
            "Check its permissions and free disk space, or choose another with --database or --data-dir",
            "STORAGE_UNAVAILABLE",
        ) from error
