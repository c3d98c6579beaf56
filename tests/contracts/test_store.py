"""What every Store must do, over every implementation."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import Engine, event

import rbee
from postgres import running_postgres
from programs import running_queen
from queen.core.model import (
    Action,
    Asks,
    Attempt,
    Candidate,
    Decision,
    Failure,
    Hive,
    HiveState,
    JobState,
    Priority,
    Proposal,
    Usage,
)
from queen.core.tenants import Quota, Tenant, TenantUsage
from queen.core.versions import PolicyActivation, PolicyVersion, Turn
from queen.services import paging
from queen.services.decisions import list_decisions
from queen.storage.retention import Retention
from queen.storage.store import open_store
from rbee.v1 import policy_service_pb2
from wire import errors
from worlds import job


class SetClock:
    def __init__(self, time):
        self.time = time

    def now(self):
        return self.time

    monotonic = now


@contextmanager
def counted(what):
    """One member for each time SQLAlchemy does something, in any database."""
    seen = []

    def note(*_):
        seen.append(what)

    event.listen(Engine, what, note)
    yield seen
    event.remove(Engine, what, note)


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


async def test_jobs_are_found_by_many_request_ids_in_few_queries(store):
    for order in range(1, 101):
        store.save_job(job(f"job-{order}", order, request_id=f"r-{order}"))
    await store.flush()
    with counted("before_cursor_execute") as queries:
        found = await asyncio.gather(*(store.find_job(f"r-{order}") for order in range(1, 201)))
    assert [one and one.order for one in found] == [*range(1, 101), *[None] * 100]
    assert len(queries) <= 2
    assert {one: known.order for one, known in (await store.find_jobs(["r-1", "r-7", "r-x"])).items()} == {
        "r-1": 1,
        "r-7": 7,
    }


async def test_a_question_is_answered_though_who_shared_it_went_away(store):
    store.save_job(FULL)
    await store.flush()
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(store.find_job("r-1")) for _ in range(3)]
        await asyncio.sleep(0)
        asking[0].cancel()
    assert [one.result() for one in asking[1:]] == [FULL, FULL]


async def test_a_row_that_contradicts_another_does_not_hold_up_the_rest(store):
    store.save_job(FULL)
    await store.flush()
    store.save_job(job("job-2", 2, request_id="r-1"))
    store.save_job(job("job-3", 3, request_id="r-3"))
    store.save_request("job-3", b"spec")
    await store.flush()
    assert await store.get_job("job-2") is None
    assert (await store.get_job("job-3")).request_id == "r-3"
    assert await store.find_job("r-1") == FULL


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
    assert [(one.id, spec) for one, spec in await store.load_unfinished(lambda _: Asks())] == [
        ("early", b"early-spec"),
        ("late", b""),
    ]


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


async def test_a_hive_was_online_as_last_known_whoever_was_in_between(store):
    for state in (HiveState.HEALTHY, HiveState.DEGRADED, HiveState.OFFLINE, HiveState.STARTING, HiveState.REGISTERED):
        store.save_hive(Hive(state.value, state))
    await store.flush()
    known = {hive.id: hive for hive in await store.list_hives()}
    assert {name for name, hive in known.items() if hive.was_online} == {"healthy", "degraded"}
    assert all(hive.state is HiveState.REGISTERED for hive in known.values())
    # A queen who ends before she has heard of them leaves them as she found them.
    for hive in known.values():
        store.save_hive(hive)
    await store.flush()
    assert {hive.id for hive in await store.list_hives() if hive.was_online} == {"healthy", "degraded"}


async def test_events_come_back_cut_as_they_were(store):
    assert await store.get_output("job-1") is None
    store.save_output("job-1", 7, [b"one", b"", b"\x00three\xff"])
    store.save_output("job-2", 1, [])
    await store.flush()
    assert await store.get_output("job-1") == (7, [b"one", b"", b"\x00three\xff"])
    assert await store.get_output("job-2") == (1, [])
    store.save_output("job-1", 1, [b"anew"])
    store.drop_output("job-2")
    await store.flush()
    assert await store.get_output("job-1") == (1, [b"anew"])
    assert await store.get_output("job-2") is None


async def test_of_a_write_and_a_drop_the_later_counts(store):
    store.save_output("kept", 1, [b"a"])
    store.drop_output("kept")
    store.save_output("kept", 1, [b"b"])
    store.save_output("gone", 1, [b"a"])
    store.drop_output("gone")
    await store.flush()
    assert await store.get_output("kept") == (1, [b"b"])
    assert await store.get_output("gone") is None


async def test_jobs_are_purged_with_all_that_belongs_to_them(store):
    proposal = Proposal("", Action.DISPATCH, "first idle", "w2", "mill")
    ends = {"old-1": 10.0, "old-2": 20.0, "old-3": 30.0, "fresh": 100.0, "running": None}
    for order, (job_id, end) in enumerate(ends.items(), start=1):
        state = JobState.RUNNING if end is None else JobState.COMPLETE
        store.save_job(job(job_id, order, state=state, end_time=end))
        store.save_request(job_id, b"spec")
        store.save_output(job_id, 1, [b"frame"])
        for number in range(3):
            store.save_decision(
                Decision(f"{job_id}-{number}", replace(proposal, job_id=job_id), "simple", "", 1.0, 0.0)
            )
    await store.flush()
    assert await store.oldest_end() == 10.0
    assert await store.purge(30.0, 1) == 1
    assert await store.get_job("old-1") is None
    assert await store.oldest_end() == 20.0
    assert await store.purge(30.5, 100) == 2
    assert await store.purge(30.5, 100) == 0
    assert {one.id for one in await listing(store)} == {"fresh", "running"}
    for job_id in ends:
        left = job_id in ("fresh", "running")
        assert await store.get_output(job_id) == ((1, [b"frame"]) if left else None)
        assert len(await store.list_decisions(job_id, 10)) == (3 if left else 0)
    assert await store.oldest_end() == 100.0


async def test_retention_purges_what_is_due_and_says_when_to_look_again(store):
    clock = SetClock(1000.0)
    day = 86400.0
    retention = Retention(store, 7 * day, clock)
    assert await retention.purge() == 3600.0, "nothing is due for a week; an hour is the longest sleep"
    for order in range(1, 1201):
        store.save_job(job(f"job-{order}", order, state=JobState.COMPLETE, end_time=1000.0 + order))
    await store.flush()
    clock.time = 1000.5 + 7 * day
    assert await retention.purge() == 3600.0
    assert await store.oldest_end() == 1001.0, "the first is due in half a second"
    clock.time = 2100.5 + 7 * day
    assert await retention.purge() == 3600.0
    assert [one.order for one in await listing(store, limit=500)] == list(range(1200, 1100, -1))
    soon = Retention(store, 3000.0, clock)
    clock.time = 2101.0 + 1000.0
    assert await soon.purge() == pytest.approx(2000.0)
    clock.time = 2101.0 + 2990.0
    assert await soon.purge() == pytest.approx(30.0), "those that end within a hundredth of the time go together"


async def test_retention_survives_a_database_that_is_away(tmp_path):
    opened = await asyncio.to_thread(open_store, f"sqlite:///{tmp_path / 'queen.db'}")
    with sqlite3.connect(tmp_path / "queen.db", isolation_level=None) as blocker:
        blocker.execute("ALTER TABLE jobs RENAME TO hidden")
    assert await Retention(opened, 1000.0, SetClock(0.0)).purge() == 10.0
    await opened.close()


async def test_requests_are_kept_with_their_jobs_where_that_is_wanted(tmp_path):
    for keep, left in ((False, b""), (True, b"spec")):
        opened = await asyncio.to_thread(open_store, f"sqlite:///{tmp_path / f'{keep}.db'}", keep_requests=keep)
        async with asyncio.TaskGroup() as group:
            group.create_task(opened.writer.run())
            opened.save_job(job("job-1", 1, end_time=5.0))
            opened.save_request("job-1", b"spec")
            await opened.flush()
            opened.drop_request("job-1")
            await opened.flush()
            assert [spec for _, spec in await opened.load_unfinished(lambda _: Asks())] == [left]
            assert await opened.purge(6.0, 10) == 1
            opened.save_job(job("job-1", 1))
            await opened.flush()
            assert [spec for _, spec in await opened.load_unfinished(lambda _: Asks())] == [b""], "purged with its job"
            opened.writer.close()
        await opened.close()


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


async def test_while_the_database_is_away_promises_are_kept_and_the_rest_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("queen.storage.writer.MOST_SPARE", 5)
    path = tmp_path / "queen.db"
    opened = await asyncio.to_thread(open_store, f"sqlite:///{path}")
    async with asyncio.TaskGroup() as group:
        group.create_task(opened.writer.run())
        blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        blocker.execute("ALTER TABLE jobs RENAME TO hidden")
        opened.check_writable()
        for order in range(1, 21):
            opened.save_job(job(f"job-{order}", order, detached=order <= 10))
        with pytest.raises(errors.Unreachable, match="cannot be written"):
            await opened.flush()
        with pytest.raises(errors.Unreachable) as caught:
            opened.check_writable()
        assert (caught.value.reason, caught.value.retry_after_s) == ("STORAGE_UNAVAILABLE", 1.0)
        blocker.execute("ALTER TABLE hidden RENAME TO jobs")
        blocker.close()
        await opened.flush()
        opened.check_writable()
        assert [one.order for one in await listing(opened)] == [20, 19, 18, 17, 16, *range(10, 0, -1)]
        opened.writer.close()
    await opened.close()


async def test_writes_of_one_turn_share_a_transaction(store):
    with counted("commit") as commits:
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
        with pytest.raises(errors.Unreachable, match="cannot be written") as caught:
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


async def test_policies_come_back_as_they_were(store):
    one = PolicyVersion("mine", "1.0.0", "yaml", "rules: []\n", "-- λ\n", "ab" * 32, "ada", 1.5)
    others = [replace(one, version="1.0.1", create_time=2.0), replace(one, name="another", create_time=3.0)]
    for policy in (*others, one):
        store.save_policy(policy)
    await store.flush()
    assert await store.list_policies("mine") == [one, others[0]]
    assert await store.list_policies() == [others[1], one, others[0]]
    assert await store.list_policies("none") == []


async def test_activations_come_back_in_their_order(store):
    log = [
        PolicyActivation(1, "mine", "1.0.0", 1.0, Turn.ACTIVATED, request_id="r-1"),
        PolicyActivation(2, "mine", "1.0.0", 1.0, Turn.SUSPENDED, "error: mine:3: broke"),
        PolicyActivation(3, "platform", "", 0.5, Turn.ROLLED_BACK),
    ]
    for entry in reversed(log):
        store.save_activation(entry)
    await store.flush()
    assert await store.list_activations() == log


async def test_a_tenant_and_what_it_used_come_back_as_they_were(store):
    lab = Tenant("lab", "The lab", 2.5, Quota(4, 10**12, 24_000, ("small", "file:/a.gguf")), 12.5, "r-1")
    for tenant in (Tenant("other"), Tenant("lab"), lab):
        store.save_tenant(tenant)
    for day in (1, 2, 3):
        store.save_usage("lab", day, TenantUsage(0, 0, 1))
        store.save_usage("lab", day, TenantUsage(10**11, day, 2, 10**12 + day))
    store.save_usage("other", 2, TenantUsage(1, 1, 1, 7))
    await store.flush()
    assert await store.list_tenants() == [lab, Tenant("other")]
    assert await store.usage_of(2, 3) == {"lab": TenantUsage(2 * 10**11, 5, 4), "other": TenantUsage(1, 1, 1)}
    assert await store.usage_of(4, 9) == {}
    assert await store.served() == {"lab": 10**12 + 3, "other": 7}


async def test_decisions_are_listed_newest_first_by_job_and_policy(store):
    for n in range(6):
        proposal = Proposal("job-1" if n % 2 else "", Action.WAIT, "full")
        store.save_decision(Decision(f"dec-{n}", proposal, "mine" if n < 4 else "platform", "1", float(n // 2), 0.1))
    await store.flush()

    async def ids(before=None, limit=9, **filters):
        chosen = {"job_id": "", "policy": "", **filters}
        return [one.id[-1] for one in await store.find_decisions(**chosen, before=before, limit=limit)]

    assert await ids() == list("543210")
    assert await ids(before=(2.0, "dec-5"), limit=2) == list("43")
    assert await ids(before=(1.0, "dec-3")) == list("210")
    assert await ids(job_id="job-1") == list("531")
    assert await ids(policy="mine") == list("3210")


async def test_a_list_of_decisions_is_paged_without_gaps_and_repeats(store):
    for n in range(7):
        store.save_decision(Decision(f"dec-{n}", Proposal("", Action.WAIT, "full"), "mine", "1", float(n // 3), 0.1))
    request, seen = policy_service_pb2.PolicyServiceListDecisionsRequest(page_size=2), []
    while True:
        page = await list_decisions(store, request)
        seen += [one.id[-1] for one in page.decisions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == list("6543210")
    request.page_token = paging.token("nonsense")
    with pytest.raises(errors.Invalid):
        await list_decisions(store, request)
