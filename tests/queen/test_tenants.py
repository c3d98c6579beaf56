"""Quotas hold whatever a policy proposes, and every token is counted once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from queen.core import applier, tenants
from queen.core.model import Action, Asks, Failure, JobState, Proposal, Usage, WorkerSpec
from queen.core.tenants import DAY_S, Quota, Tenant, TenantUsage
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from queen.scheduler.simple import SimpleScheduler
from wire import errors
from worlds import MODEL, World, job, model_file


class Kept:
    """A store of what is written."""

    def __init__(self):
        self.jobs, self.usage, self.tenants = {}, {}, {}

    def save_job(self, saved):
        self.jobs[saved.id] = saved

    def save_usage(self, tenant_id, day, usage):
        self.usage[tenant_id, day] = usage

    def save_tenant(self, tenant):
        self.tenants[tenant.id] = tenant

    def save_request(self, *_):
        pass

    save_output = drop_output = drop_request = save_request


QUOTAS = {
    "few": Quota(max_concurrent_jobs=2),
    "small": Quota(max_vram_mb=500),
    "thrifty": Quota(max_tokens_daily=500),
    "bound": Quota(max_concurrent_jobs=3, max_tokens_daily=900, max_vram_mb=400),
    "default": Quota(),
}
FAILURE = Failure("WORKER_LOST", "", 14, True)


class Shared(RuleBasedStateMachine):
    """Tenants with quotas on one machine, under a policy that proposes anything."""

    def __init__(self):
        super().__init__()
        self.world = World()
        self.world.add_hive(free_mb=100_000)
        for n in range(5):
            self.world.add_worker(f"w{n}", slots=3)
        self.kept = Kept()
        self.tenants = TenantTable(self.kept, self.world.cluster.get_worker)
        for tenant_id, quota in QUOTAS.items():
            self.tenants.put(Tenant(tenant_id, quota=quota))
        self.table = JobTable(self.kept, lambda: None, self.tenants)
        self.now, self.count = 0.0, 0
        self.spent = {}  # by tenant and day, as a caller would add it up

    def of(self, *states):
        return sorted((one for one in self.table.alive() if one.job.state in states), key=lambda one: one.job.order)

    @rule(tenant_id=st.sampled_from(sorted(QUOTAS)), prompt=st.integers(0, 200), most=st.integers(1, 200))
    def submit(self, tenant_id, prompt, most):
        self.count += 1
        asks = Asks(prompt_tokens=prompt, max_tokens=most)
        new = job(f"job-{self.count}", self.count, tenant_id=tenant_id, submit_time=self.now, asks=asks)
        promised = self.tenants.promised_tokens(tenant_id, self.now)
        if tenants.admission_refusal(new, "small", self.tenants.get(tenant_id), promised, self.now) is None:
            self.table.add(LiveJob(new, b""))

    @rule(worker=st.integers(0, 4), pick=st.integers(0, 50))
    def propose(self, worker, pick):
        if waiting := self.of(JobState.QUEUED):
            live = waiting[pick % len(waiting)]
            proposal = Proposal(live.job.id, Action.DISPATCH, "", f"w{worker}", "mill")
            if not applier.refusal(proposal, live.job, self.world.cluster, self.tenants, self.now):
                self.world.cluster.reserve(f"w{worker}", live.job.id)
                self.table.dispatched(live, f"w{worker}", "mill", self.now)

    @precondition(lambda self: self.of(JobState.DISPATCHED))
    @rule(pick=st.integers(0, 50), how=st.sampled_from(["done", "lost", "failed", "cancelled"]), part=st.floats(0, 1))
    def end(self, pick, how, part):
        running = self.of(JobState.DISPATCHED)
        live = running[pick % len(running)]
        asks, worker_id = live.job.asks, live.job.attempt.worker_id
        usage = Usage(asks.prompt_tokens, round(asks.max_tokens * part))
        if how == "lost":
            self.table.retried(live, FAILURE, self.now, 0.0)
        elif how == "done":
            self.table.completed(live, self.now, usage=usage)
        elif how == "failed":
            self.table.failed(live, FAILURE, errors.Internal("x"), self.now, usage)
        else:
            self.table.cancelled(live, errors.Cancelled("x"), self.now, usage)
        self.world.cluster.release(worker_id, live.job.id, self.now)
        if how != "lost":
            key = live.job.tenant_id, tenants.day_of(self.now)
            self.spent[key] = self.spent.get(key, 0) + usage.prompt_tokens + usage.completion_tokens

    @rule(hours=st.integers(1, 30))
    def wait(self, hours):
        self.now += hours * 3600

    @invariant()
    def within_quota(self):
        for tenant_id, quota in QUOTAS.items():
            mine = [one.job for one in self.of(JobState.DISPATCHED) if one.job.tenant_id == tenant_id]
            held = {one.attempt.worker_id for one in mine}
            assert quota.max_concurrent_jobs is None or len(mine) <= quota.max_concurrent_jobs
            assert quota.max_vram_mb is None or 200 * len(held) <= quota.max_vram_mb
            load = self.tenants.load(tenant_id, self.now)
            assert (load.jobs, load.vram_mb) == (len(mine), dict.fromkeys(held, 200))
            spent = self.spent.get((tenant_id, tenants.day_of(self.now)), 0)
            assert quota.max_tokens_daily is None or spent <= quota.max_tokens_daily
            assert load.tokens == spent + sum(map(tenants.tokens_of, mine))

    @invariant()
    def every_token_is_counted_once(self):
        assert {key: usage.tokens for key, usage in self.kept.usage.items()} == self.spent
        at_rest = [one for one in self.kept.jobs.values() if one.resting]
        assert sum(usage.jobs for usage in self.kept.usage.values()) == len(at_rest)


TestShared = Shared.TestCase
TestShared.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def table(*given_tenants):
    world = World()
    world.add_hive()
    world.add_worker("w1", slots=4)
    found = TenantTable(Kept(), world.cluster.get_worker)
    for tenant in given_tenants:
        found.put(tenant)
    return world, found


def refused(quota, asked=None, promised=0, now=0.0):
    new = asked or job(tenant_id="lab", asks=Asks(prompt_tokens=10, max_tokens=10))
    return tenants.admission_refusal(new, "small", Tenant("lab", quota=quota), promised, now)


def test_what_may_be_used_is_named_to_who_asks_for_another_model():
    for name in ("small", "SMALL.gguf", MODEL, "/models/small.gguf"):
        allowed = name if name != "/models/small.gguf" else "file:/models/small.gguf"
        assert refused(Quota(allowed_models=(allowed,))) is None
    error = refused(Quota(allowed_models=("tiny", "large")))
    assert isinstance(error, errors.Denied)
    assert error.reason == "MODEL_NOT_ALLOWED"
    assert "only tiny, large" in error.message


def test_the_tokens_of_a_day_come_back_at_midnight_utc():
    quota = Quota(max_tokens_daily=100)
    assert refused(quota, promised=80) is None
    error = refused(quota, promised=81, now=10 * DAY_S - 90.0)
    assert (error.reason, error.retry_after_s) == ("QUOTA_EXCEEDED", 90.0)
    large = refused(quota, job(tenant_id="lab", asks=Asks(prompt_tokens=10, max_tokens=91)))
    assert (large.reason, large.retry_after_s) == ("QUOTA_EXCEEDED", None), "no day is long enough"
    unbound = job(tenant_id="lab", asks=Asks())
    assert refused(quota, unbound, promised=99) is None
    assert refused(quota, unbound, promised=100) is not None


def test_a_worker_too_large_for_a_tenant_is_not_started_for_it():
    world, found = table(Tenant("lab", quota=Quota(max_vram_mb=100)), Tenant("other"))
    spec = WorkerSpec("w2", MODEL, memory_mb=200, device_ids=("cpu",))
    start = Proposal("job-1", Action.START_WORKER, "", "w2", "mill", spec)
    assert "tenant lab uses 0 of 100 MB" in applier.refusal(start, job(tenant_id="lab"), world.cluster, found)
    assert applier.refusal(start, job(tenant_id="other"), world.cluster, found) == ""


LIMITS = {
    "runs 1 of 1 jobs": Quota(max_concurrent_jobs=1),
    "uses 0 of 100 MB": Quota(max_vram_mb=100),
    "tokens of today": Quota(max_tokens_daily=5),
}


@pytest.mark.parametrize("reason", LIMITS)
async def test_without_a_policy_a_flood_beyond_its_quota_holds_up_nobody(reason):
    world, found = table(Tenant("flood", quota=LIMITS[reason]), Tenant("lab"))
    asks = Asks(prompt_tokens=3, max_tokens=3)
    queue = [job(f"job-{n}", n, tenant_id="flood", asks=asks) for n in range(9)] + [job("other", 10, tenant_id="lab")]
    proposals = await SimpleScheduler(str, found).decide(queue, world.cluster, 0.0)
    dispatched = [one.job_id for one in proposals if one.action is Action.DISPATCH]
    assert dispatched == (["job-0", "other"] if "runs" in reason else ["other"])
    assert all(reason in one.reason for one in proposals if one.action is Action.WAIT)
    assert len(proposals) == len(queue)


async def test_without_a_policy_no_worker_is_started_that_its_tenant_may_not_use():
    world = World()
    world.add_hive(models=(model_file(),))
    _, found = table(Tenant("small", quota=Quota(max_vram_mb=100)), Tenant("lab"))
    queue = [job("job-1", 1, tenant_id="small"), job("job-2", 2, tenant_id="lab")]
    first, second = await SimpleScheduler(str, found).decide(queue, world.cluster, 0.0)
    assert (first.action, second.action) == (Action.WAIT, Action.START_WORKER)
    assert "tenant small uses 0 of 100 MB" in first.reason


def test_an_unknown_tenant_is_told_the_nearest():
    _, found = table(Tenant("research"))
    with pytest.raises(errors.NotFound, match="did you mean research") as caught:
        found.get("reserch")
    assert caught.value.reason == "TENANT_NOT_FOUND"
    assert found.get("default").weight == 1.0, "it is always there"


def test_policies_see_what_has_changed_and_all_anew_on_another_day():
    _, found = table(Tenant("lab", "Lab", 2.0, Quota(3, 1000, 700)))
    assert set(found.changed_rows(5.0)) == {"default", "lab"}
    assert found.changed_rows(6.0) == {}
    store = Kept()
    running = replace(job("job-1", 1, tenant_id="lab"), asks=Asks(prompt_tokens=7, max_tokens=5))
    jobs = JobTable(store, lambda: None, found)
    live = LiveJob(running, b"")
    jobs.add(live)
    jobs.dispatched(live, "w1", "mill", 6.0)
    (row,) = found.changed_rows(6.0).values()
    assert row == {
        "name": "Lab",
        "weight": 2.0,
        "concurrent_jobs": 1,
        "quota_max_concurrent_jobs": 3,
        "tokens_used_today": 12,
        "quota_tokens_daily": 1000,
        "quota_used": 200,
        "worker_ids": ["w1"],
        "quota_vram": 700,
        "tokens_counter": 7,
    }
    jobs.completed(live, 7.0, usage=Usage(8, 2))
    assert found.changed_rows(7.0)["lab"]["tokens_used_today"] == 10
    assert found.changed_rows(DAY_S + 1.0)["lab"]["tokens_used_today"] == 0


def test_what_was_used_today_is_known_after_a_restart():
    _, found = table()
    found.restore([Tenant("lab", weight=3.0)], {"lab": TenantUsage(5, 6, 1)}, 4, {})
    assert found.load("lab", 4 * DAY_S).tokens == 11
    assert found.load("lab", 5 * DAY_S).tokens == 0


def counters(found, now=1.0):
    found.touched.update(dict.fromkeys(("default", "lab")))
    return {tenant_id: row["tokens_counter"] for tenant_id, row in found.changed_rows(now).items()}


def serve(jobs, order, tenant_id, tokens, worker_id="w1"):
    live = LiveJob(job(f"job-{order}", order, tenant_id=tenant_id), b"")
    jobs.add(live)
    jobs.dispatched(live, worker_id, "mill", 1.0)
    jobs.completed(live, 1.0, usage=Usage(0, tokens))


def test_who_was_served_how_much_is_known_after_a_restart():
    _, found = table()
    kept = found._journal
    found.restore([Tenant("lab")], {}, 0, {})
    jobs = JobTable(kept, lambda: None, found)
    waiting = {
        tenant_id: LiveJob(job(f"old-{tenant_id}", tenant_id=tenant_id), b"") for tenant_id in ("default", "lab")
    }
    for live in waiting.values():
        jobs.add(live)
    serve(jobs, 2, "default", 500)
    serve(jobs, 3, "lab", 20)
    assert counters(found) == {"default": 1000, "lab": 40}
    served = {tenant_id: usage.served for (tenant_id, _), usage in kept.usage.items()}

    _, after = table()
    after.restore([Tenant("lab")], {}, 0, served)
    again = JobTable(kept, lambda: None, after)
    for live in waiting.values():
        again.restore(live)
    assert counters(after) == {"default": 1000, "lab": 40}, "both had stayed"

    _, after = table()
    after.restore([Tenant("lab")], {}, 0, served)
    again = JobTable(kept, lambda: None, after)
    again.add(waiting["lab"])
    assert counters(after) == {"default": 1000, "lab": 1000}, "nobody waited, so nobody has shares in store"


def test_who_comes_when_nobody_is_there_begins_where_the_last_one_was():
    _, found = table()
    kept = found._journal
    found.restore([Tenant("lab", weight=2.0)], {}, 0, {})
    jobs = JobTable(kept, lambda: None, found)
    serve(jobs, 1, "default", 500)
    jobs.add(LiveJob(job("job-2", 2, tenant_id="lab"), b""))
    assert counters(found) == {"default": 1000, "lab": 2000}


@given(st.text(max_size=70), st.floats(allow_nan=True))
def test_every_bad_field_of_a_tenant_is_named_at_once(tenant_id, weight):
    bad = {fault.field for fault in tenants.faults(Tenant(tenant_id, weight=weight))}
    legal = 0 < len(tenant_id) < 64 and set(tenant_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    legal = legal and not tenant_id.startswith("-") and not tenant_id.endswith("-")
    assert ("tenant.id" in bad) == (not legal)
    assert ("tenant.weight" in bad) == (not 0.001 <= weight <= 1e6)
