"""What every Store must do, over every implementation."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from dataclasses import replace

import pytest

import rbee
from postgres import running_postgres
from programs import running_queen
from queen.core.model import (
    Action,
    Attempt,
    Candidate,
    Decision,
    Failure,
    Hive,
    JobState,
    Priority,
    Proposal,
    Usage,
)
from queen.storage.store import open_store
from wire import errors
from worlds import job


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'queen.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").database(request.node.originalname)
    opened = await asyncio.to_thread(open_store, url)
    async with asyncio.TaskGroup() as group:
        group.create_task(opened.writer.run())
        yield opened
        opened.writer.close()
    await opened.close()


FULL = replace(
    job("job-1", 1, request_id="r-1", labels={"team": "a"}, detached=True, priority=Priority.BATCH),
    state=JobState.FAILED,
    attempts=(
        Attempt(1, "w1", "mill", 1.0, 2.0, Failure("WORKER_LOST", "gone", 14, True)),
        Attempt(2, "w2", "mill", 3.0),
    ),
    usage=Usage(3, 4, 1),
    failure=Failure("ENGINE_FAILED", "broke", 13, True),
    seed=2**32 - 1,
    first_token_time=1.5,
    end_time=9.25,
    trace_id="ab" * 16,
)


def listing(store, **filters):
    chosen = {"states": (), "tenant_id": "", "model": "", "before_order": None, "limit": 50, **filters}
    return store.list_jobs(**chosen)


async def test_a_job_comes_back_as_it_was(store):
    store.save_job(FULL)
    await store.flush()
    assert await store.get_job("job-1") == FULL
    assert await store.find_job("r-1") == FULL
    assert await store.get_job("job-2") is None
    assert await store.find_job("r-2") is None


async def test_the_newest_of_many_writes_stays(store):
    store.save_job(FULL)
    for state in (JobState.QUEUED, JobState.DISPATCHED, JobState.RUNNING):
        store.save_job(replace(FULL, state=state))
    await store.flush()
    assert (await store.get_job("job-1")).state is JobState.RUNNING


async def test_lists_are_newest_first_filtered_and_paged(store):
    for order in range(1, 8):
        state = JobState.COMPLETE if order % 2 else JobState.QUEUED
        store.save_job(job(f"job-{order}", order, tenant_id="odd" if order % 2 else "even", state=state))
    await store.flush()
    assert [one.order for one in await listing(store, limit=3)] == [7, 6, 5]
    assert [one.order for one in await listing(store, limit=3, before_order=5)] == [4, 3, 2]
    assert [one.order for one in await listing(store, states=[JobState.QUEUED])] == [6, 4, 2]
    assert [one.order for one in await listing(store, tenant_id="odd")] == [7, 5, 3, 1]
    assert await listing(store, model="other") == []
    assert await store.last_order() == 7


async def test_unfinished_jobs_come_back_with_what_they_ask_for_in_order(store):
    store.save_job(job("late", 2))
    store.save_request("late", b"late-spec")
    store.save_job(job("early", 1, state=JobState.RUNNING))
    store.save_request("early", b"early-spec")
    store.save_job(job("done", 3, state=JobState.COMPLETE))
    store.save_request("done", b"done-spec")
    store.drop_request("done")
    await store.flush()
    store.drop_request("late")
    await store.flush()
    assert [(one.id, spec) for one, spec in await store.load_unfinished()] == [("early", b"early-spec"), ("late", b"")]


async def test_decisions_come_back_oldest_first(store):
    candidates = (
        Candidate("mill", "w1", "all 4 slots are taken"),
        Candidate("mill", "w2", score=0.5),
        Candidate("", alike=7),
    )
    proposal = Proposal("job-1", Action.DISPATCH, "first idle", "w2", "mill", candidates=candidates)
    later = Decision("d2", proposal, "simple", "", 2.0, 0.001, "the job is cancelled, not queued")
    earlier = replace(later, id="d1", decide_time=1.0, refusal="")
    store.save_decision(later)
    store.save_decision(earlier)
    await store.flush()
    assert await store.list_decisions("job-1", 10) == [earlier, later]
    assert await store.list_decisions("job-2", 10) == []


async def test_hives_come_back_registered(store):
    store.save_hive(Hive("mill", address="h:1", managed=True, labels={"gpu": "no"}, platform="linux", version="1"))
    await store.flush()
    assert await store.list_hives() == [
        Hive("mill", address="h:1", managed=True, labels={"gpu": "no"}, platform="linux", version="1")
    ]


async def test_what_was_flushed_is_there_after_the_store_is_opened_again(tmp_path):
    url = f"sqlite:///{tmp_path / 'again.db'}"
    for round_number in (1, 2):
        opened = await asyncio.to_thread(open_store, url)
        async with asyncio.TaskGroup() as group:
            group.create_task(opened.writer.run())
            if round_number == 1:
                opened.save_job(FULL)
                await opened.flush()
            else:
                assert await opened.get_job("job-1") == FULL
            opened.writer.close()
        await opened.close()


def test_the_file_is_its_owners_alone(tmp_path):
    open_store(f"sqlite:///{tmp_path / 'queen.db'}")
    assert stat.S_IMODE((tmp_path / "queen.db").stat().st_mode) == 0o600


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(errors.Unreachable, match=r"no-such-folder/queen\.db cannot be opened") as caught:
        open_store(f"sqlite:///{tmp_path}/no-such-folder/queen.db")
    assert caught.value.reason == "STORAGE_UNAVAILABLE"
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is not a database, it is a sentence that is long enough" * 20)
    with pytest.raises(errors.Unreachable, match="not a database"):
        open_store(f"sqlite:///{garbage}")


def test_an_older_database_is_refused_when_it_may_not_be_migrated(tmp_path):
    url = f"sqlite:///{tmp_path / 'queen.db'}"
    with pytest.raises(errors.WrongState, match="revision none") as caught:
        open_store(url, migrate=False)
    assert caught.value.reason == "DATABASE_OUTDATED"
    open_store(url)
    open_store(url, migrate=False)


async def test_a_write_that_fails_is_told_kept_and_made_good(tmp_path):
    path = tmp_path / "queen.db"
    opened = await asyncio.to_thread(open_store, f"sqlite:///{path}")
    async with asyncio.TaskGroup() as group:
        group.create_task(opened.writer.run())
        blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        blocker.execute("ALTER TABLE jobs RENAME TO hidden")
        opened.save_job(FULL)
        with pytest.raises(errors.Unreachable, match="no such table") as caught:
            await opened.flush()
        assert caught.value.retry_after_s
        blocker.execute("ALTER TABLE hidden RENAME TO jobs")
        blocker.close()
        await opened.flush()
        assert await opened.get_job("job-1") == FULL
        opened.writer.close()
    await opened.close()


async def test_writes_of_one_turn_share_a_transaction(store):
    commits = []
    from sqlalchemy import event

    event.listen(store._engine.sync_engine, "commit", lambda _: commits.append(1))
    for order in range(1, 201):
        store.save_job(job(f"job-{order}", order))
    await store.flush()
    assert len(await listing(store, limit=500)) == 200
    assert len(commits) == 1


async def test_a_server_that_goes_away_and_comes_back_loses_nothing(postgres):
    opened = await asyncio.to_thread(open_store, postgres.database("outage"))
    async with asyncio.TaskGroup() as group:
        group.create_task(opened.writer.run())
        opened.save_job(FULL)
        await opened.flush()
        postgres.stop()
        later = replace(FULL, id="job-2", order=2, request_id="r-2")
        opened.save_job(later)
        with pytest.raises(errors.Unreachable, match="database cannot be written") as caught:
            await opened.flush()
        assert caught.value.reason == "STORAGE_UNAVAILABLE"
        with pytest.raises(errors.Unreachable):
            await opened.get_job("job-1")
        postgres.start()
        await opened.flush()
        assert [await opened.get_job(job_id) for job_id in ("job-1", "job-2")] == [FULL, later]
        opened.writer.close()
    await opened.close()


def test_an_operator_can_migrate_without_serving(postgres, tmp_path):
    url = postgres.database("migrated")
    with pytest.raises(errors.WrongState, match="revision none"):
        open_store(url, migrate=False)
    subprocess.run(
        [sys.executable, "-m", "queen", "--migrate-only", "--data-dir", tmp_path, "--database", url],
        check=True,
        timeout=60,
    )
    open_store(url, migrate=False)


async def test_a_queen_serves_over_postgresql_and_keeps_her_jobs(postgres, tmp_path):
    url = postgres.database("served")
    for _ in (1, 2):
        with running_queen(tmp_path, "--database", url) as queen:
            async with rbee.connect(queen.address) as client:
                await client.infer(model="rbee-tiny", prompt="What is a hive?", max_tokens=4).text()
                last = [one.id async for one in client.list_jobs()]
    assert len(last) == 2, "the second queen knows the first one's job"
