"""PolicyService over a real server and a real database; policies run in this process, without the sandbox."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import psutil
import pytest
from google.protobuf.duration_pb2 import Duration

from client.client import connect
from queen.core.model import JobState, Usage
from queen.core.tenants import Tenant
from queen.policy import platform
from queen.policy.in_process import InProcessDecider
from queen.policy.versions import Policies
from queen.registry.cluster import Cluster
from queen.registry.tenants import TenantTable
from queen.scheduler.policy import PolicyScheduler
from queen.services import catalogue
from queen.services.policies import PolicyService
from queen.services.simulations import Past, Simulations
from queen.storage.store import open_store
from rbee.v1 import policy_pb2
from rbee.v1 import policy_service_pb2 as pb
from wire import errors
from wire.clock import SystemClock
from wire.server import Server
from worlds import World, job, model_file

WAITS = "function schedule(context) return wait('{}') end"
BREAKS = """
function schedule_job(job, pools, workers)
  if job.labels and job.labels.broken then error("broken") end
  return platform.schedule(context)
end
"""
HOME = (platform.folder() / "clusters" / "home.yaml").read_text()
TRAFFIC = "arrivals: {rate: 2, duration: 20s}"


class Served:
    """A served PolicyService: what is behind it, and a client's calls."""

    def __init__(self, policies, scheduler, calls, simulations, store, tenants):
        self.policies = policies
        self.scheduler = scheduler
        self.calls = calls
        self.simulations = simulations
        self.store = store
        self.tenants = tenants


@asynccontextmanager
async def serving(folder, *, mode="home", runs_policies=True):
    store = await asyncio.to_thread(open_store, f"sqlite:///{folder / 'queen.db'}")
    suspended = []

    def note_suspended(*told):
        suspended[0](*told)

    scheduler = PolicyScheduler(
        InProcessDecider(platform.source()),
        lambda hive: f"{hive}-new",
        on_suspended=note_suspended,
    )
    policies = Policies(store=store, scheduler=scheduler if runs_policies else None, clock=SystemClock(), mode=mode)
    suspended.append(policies.suspended)
    cluster = Cluster(lambda: None)
    tenants = TenantTable(store, cluster.get_worker)
    simulations = Simulations(policies, Past(store, cluster, tenants, SystemClock()))
    service = PolicyService(
        policies=policies,
        scheduler=scheduler if runs_policies else None,
        files=None,
        protections=lambda: ("seccomp",),
        simulations=simulations,
        store=store,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(store.writer.run())
        await policies.resume()
        server = Server("queen-rbee")
        catalogue.adder(server)("PolicyService", service)
        port = await server.start("127.0.0.1:0")
        try:
            async with connect(f"127.0.0.1:{port}") as client:
                yield Served(policies, scheduler, client.policies, simulations, store, tenants)
        finally:
            await server.stop(0)
            store.writer.close()
    await store.close()


@pytest.fixture
async def served(tmp_path):
    async with serving(tmp_path) as made:
        yield made


async def test_a_text_becomes_a_version_once(served):
    first = await served.calls.save("mine", WAITS.format("one"))
    second = await served.calls.save("mine", WAITS.format("two"))
    again = await served.calls.save("mine", WAITS.format("one"))
    assert [one.version for one in (first, second, again)] == ["1.0.0", "1.0.1", "1.0.0"]
    assert (again.sha256, again.author, again.active) == (first.sha256, "local", False)
    told = await served.calls.save("mine", WAITS.format("one"), version="2.0.0")
    assert told.version == "2.0.0"
    with pytest.raises(errors.AlreadyExists) as caught:
        await served.calls.save("mine", WAITS.format("three"), version="2.0.0")
    assert caught.value.reason == "POLICY_VERSION_EXISTS"
    assert (await served.calls.get("mine")).version == "2.0.0"
    assert (await served.calls.get("mine", "1.0.1")).source == WAITS.format("two")


async def test_yaml_is_kept_as_written_and_as_lua(served):
    text = "name: any\nversion: '1.4'\nrules: [{name: any, condition: always, action: {use: platform-scheduler}}]\n"
    saved = await served.calls.save("any", text)
    assert (saved.language, saved.version) == (policy_pb2.POLICY_LANGUAGE_YAML, "1.4.0")
    assert saved.source == text
    assert "platform" in saved.compiled_lua
    await served.calls.activate("any")


async def test_all_bad_fields_at_once(served):
    with pytest.raises(errors.Invalid) as caught:
        await served.calls.save("Not A Name", "", version="one")
    assert {fault.field for fault in caught.value.faults} == {"name", "version", "source"}
    with pytest.raises(errors.Invalid) as caught:
        await served.calls.save("platform", WAITS)
    assert [fault.field for fault in caught.value.faults] == ["name"]


async def test_a_text_that_is_not_valid_is_not_saved(served):
    text = "function schedule(context)\n  return dispach(context.queue:first())\nend\n"
    with pytest.raises(errors.Invalid) as caught:
        await served.calls.save("mine", text, file_name="mine.lua")
    assert caught.value.reason == "POLICY_INVALID"
    found = {fault.field: fault.expected for fault in caught.value.faults}
    assert "did you mean dispatch" in found["mine.lua:2:10"]
    with pytest.raises(errors.NotFound):
        await served.calls.get("mine")


async def test_what_is_wrong_is_told_with_its_place(served):
    found = await served.calls.validate("function schedule(context)\n  return (\nend\n", "mine.lua")
    assert not found.valid
    assert found.problems[0].line == 3
    yaml = await served.calls.validate(
        "rules:\n  - {name: a, condition: {job.modle: x}, action: {wait: {}}}\n", "a.yaml"
    )
    assert [(one.line, one.source_line.strip()[:8]) for one in yaml.problems] == [(2, "- {name:")]
    assert (await served.calls.validate(WAITS, "mine.lua")).valid


async def test_endless_policies_do_not_hang_the_check(served):
    found = await served.calls.validate("function schedule(context) while true do end end", "mine.lua")
    assert any("exceeded" in problem.message for problem in found.problems)


async def test_the_active_policy_decides_and_a_rollback_goes_back(served):
    await served.calls.save("one", WAITS.format("one"))
    await served.calls.save("two", WAITS.format("two"))
    await served.calls.activate("one")
    assert (await served.calls.activate("two")).active
    assert (await reasons(served)) == ["two"]
    assert (await served.calls.rollback()).name == "one"
    assert (await reasons(served)) == ["one"]
    assert (await served.calls.rollback()).name == "platform"
    with pytest.raises(errors.WrongState) as caught:
        await served.calls.rollback()
    assert caught.value.reason == "NOTHING_TO_ROLL_BACK"
    with pytest.raises(errors.NotFound) as missing:
        await served.calls.activate("three")
    assert missing.value.reason == "POLICY_NOT_FOUND"
    with pytest.raises(errors.NotFound):
        await served.calls.activate("one", "9.9.9")


async def test_a_repeated_request_changes_nothing(served):
    for name in ("one", "two", "three"):
        await served.policies.save(name=name, source=WAITS.format(name), author="me")
        await served.policies.activate(name, "", f"activate {name}")
    assert (await served.policies.rollback("back")).name == "two"
    assert (await served.policies.rollback("back")).name == "two"
    assert (await served.policies.activate("one", "", "activate one")).name == "one"
    assert served.policies.charge.name == "two"


async def test_what_was_active_and_suspended_is_so_after_a_restart(tmp_path):
    async with serving(tmp_path) as before:
        await before.calls.save("mine", BREAKS)
        await before.calls.activate("mine")
        await suspend(before)
    async with serving(tmp_path) as after:
        standing = await after.calls.standing()
        assert (standing.policy.name, standing.policy.version) == ("mine", "1.0.0")
        assert "broken" in standing.policy.suspension
        assert await reasons(after) != []
        assert after.scheduler.name == "platform"
        await after.calls.save("mine", BREAKS)
        assert (await after.calls.standing()).policy.suspension == ""
    async with serving(tmp_path) as last:
        assert (await last.calls.standing()).policy.suspension == ""
        await last.calls.activate("platform")
        assert (await last.calls.standing()).policy.name == "platform"


async def test_failures_are_counted_and_shown(served):
    await served.calls.save("mine", BREAKS)
    await served.calls.activate("mine")
    await reasons(served, labels={"broken": "yes"})
    standing = await served.calls.standing()
    assert standing.failures == 1
    assert "broken" in standing.last_failure
    assert list(standing.protections) == ["seccomp"]
    assert not standing.policy.suspension


async def test_platform_mode_has_one_policy(tmp_path):
    async with serving(tmp_path) as before:
        await before.calls.save("mine", WAITS.format("mine"))
        await before.calls.activate("mine")
    async with serving(tmp_path, mode="platform") as served:
        for refused in (
            served.calls.save("other", WAITS),
            served.calls.activate("platform"),
            served.calls.rollback(),
        ):
            with pytest.raises(errors.Denied, match="--mode platform") as caught:
                await refused
            assert caught.value.reason == "PLATFORM_MODE"
        assert (await served.calls.standing()).policy.name == "platform"
        assert [one.name async for one in served.calls.list() if one.active] == ["platform"]
        assert await served.calls.platform_source() == platform.source()


async def test_without_policies_they_are_saved_but_not_activated(tmp_path):
    async with serving(tmp_path, runs_policies=False) as served:
        await served.calls.save("mine", WAITS)
        with pytest.raises(errors.WrongState) as caught:
            await served.calls.activate("mine")
        assert caught.value.reason == "NO_POLICIES_RUN"
        assert not (await served.calls.standing()).HasField("policy")


async def test_lists_come_in_pages(served):
    for number in range(3):
        await served.calls.save("mine", WAITS.format(number))
    await served.calls.save("another", WAITS)
    assert [(one.name, one.version) async for one in served.calls.list()] == [
        ("another", "1.0.0"),
        ("mine", "1.0.2"),
        ("platform", ""),
    ]
    request, seen = pb.PolicyServiceListRequest(name="mine", page_size=2), []
    while True:
        page = await served.calls._stub.List(request)
        seen.append([one.version for one in page.policies])
        assert not any(one.source for one in page.policies)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [["1.0.2", "1.0.1"], ["1.0.0"]]
    with pytest.raises(errors.Invalid, match="page_token"):
        await served.calls._ask(served.calls._stub.List, pb.PolicyServiceListRequest(page_token="bm9uZQ=="))


async def test_every_template_can_be_read_and_passes_its_cases(served):
    found = {one.name: one async for one in served.calls.templates()}
    assert {"cost-optimizer", "eu-only", "eu-only-yaml", "fair-shares", "keep-warm"} <= found.keys()
    assert all(one.summary.endswith(".") and one.source and one.cases_yaml for one in found.values())
    for name in ("cost-optimizer", "eu-only-yaml"):
        one = found[name]
        results = await served.calls.test(one.source, name, one.cases_yaml, "cases")
        assert results
        assert all(result.passed for result in results)


CASES = """
cluster: {workers: [{id: w1, model: m}]}
cases:
  - name: it waits
    job: {model: m}
    expect: {dispatch: w1}
"""


async def test_a_case_that_fails_says_where_and_what(served):
    (result,) = await served.calls.test(WAITS.format("no"), "mine.lua", CASES, "mine.cases.yaml")
    assert (result.name, result.line, result.passed) == ("it waits", 4, False)
    assert (result.expected, "no" in result.got) == ("dispatch w1", True)
    with pytest.raises(errors.Invalid) as caught:
        await served.calls.test(WAITS, "mine.lua", "cases: 3", "mine.cases.yaml")
    assert caught.value.reason == "BAD_CASES"


def simulation(**fields):
    return pb.PolicyServiceSimulateRequest(**{"cluster_yaml": HOME, "traffic_yaml": TRAFFIC, **fields})


async def test_a_simulation_tells_its_progress_and_reports(served):
    await served.calls.save("mine", WAITS.format("mine"))
    asked = simulation(file_name="mine@1.0.0", against_name="platform", plot=True, seed=7)
    *progress, last = [message async for message in served.calls.simulate(asked)]
    done = [message.requests_done for message in progress]
    assert done == sorted(done)
    assert done[-1] == progress[-1].requests_total > 0
    report = json.loads(last.report_json)
    assert (report["report"]["policy"], report["against"]["policy"]) == ("mine 1.0.0", "platform")
    assert report["tables"]
    assert last.plot_png.startswith(b"\x89PNG\r\n\x1a\n")


SMALL = """
models: [{name: small, file_size: 1MB, speeds: {cpu: {prefill: 1000, decode: 100}}}]
machines: [{name: a, devices: [{kind: cpu, memory: 1GB}], workers: [{model: small}]}]
"""


async def test_what_the_queen_has_served_is_a_workload(served):
    now = SystemClock().now()
    served.tenants.put(Tenant("lab", weight=3.0))
    for number, (age_s, state) in enumerate(
        [(7200.0, JobState.COMPLETE), (60.0, JobState.FAILED), (50.0, JobState.COMPLETE), (40.0, JobState.COMPLETE)]
    ):
        made = job(f"job-{number}", number, tenant_id="lab", submit_time=now - age_s)
        served.store.save_job(replace(made, state=state, end_time=now, usage=Usage(100 + number, 10 + number)))

    async def report(**recorded):
        asked = pb.PolicyServiceSimulateRequest(cluster_yaml=SMALL, recorded=Duration(**recorded))
        return json.loads((await last_of(served.calls.simulate(asked))).report_json)["report"]

    everything, lately = await report(), await report(seconds=3600)
    assert (everything["jobs"], everything["prompt_tokens"], everything["generated_tokens"]) == (3, 305, 35)
    assert (lately["jobs"], lately["prompt_tokens"], lately["generated_tokens"]) == (2, 205, 25)
    assert lately["makespan_s"] > 10
    assert lately["tenants"][0]["weight"] == 3.0
    with pytest.raises(errors.WrongState) as caught:
        await report(seconds=10)
    assert caught.value.reason == "NOTHING_RECORDED"
    both = pb.PolicyServiceSimulateRequest(cluster_yaml=SMALL, recorded=Duration(), trace_csv="x")
    with pytest.raises(errors.Invalid, match="recorded: absent where there is a trace"):
        await last_of(served.calls.simulate(both))


async def test_texts_are_tried_two_at_once_the_others_in_turn(served):
    slow = "function schedule(c) local t = 0 for i = 1, 2e5 do t = t + i end return platform.schedule(c) end"
    asked = [asyncio.create_task(served.calls.validate(slow, f"{number}.lua")) for number in range(20)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        assert (type(one.exception()), one.exception().reason) == (errors.NoCapacity, "TRIALS_RUNNING")
    assert len(trials_below()) <= 2
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert (await served.calls.validate("function schedule(c) return platform.schedule(c) end", "x.lua")).valid


async def test_what_a_simulation_cannot_read_is_told_at_once(served):
    with pytest.raises(errors.Invalid) as caught:
        await anext(served.calls.simulate(pb.PolicyServiceSimulateRequest()))
    assert {fault.field for fault in caught.value.faults} == {"cluster_yaml", "trace_csv"}
    with pytest.raises(errors.Invalid, match="line 1"):
        await anext(served.calls.simulate(simulation(cluster_yaml="models: []")))
    with pytest.raises(errors.NotFound):
        await anext(served.calls.simulate(simulation(file_name="nobody")))


async def test_simulations_run_two_at_once_the_others_in_turn_and_end_with_their_callers(served):
    long = simulation(traffic_yaml="arrivals: {rate: 50, duration: 3600s}")
    running = [served.calls.simulate(long) for _ in range(2)]
    for one in running:
        await anext(one)
    children = simulations_below()
    assert len(children) == 2
    waiting = [asyncio.create_task(last_of(served.calls.simulate(simulation()))) for _ in range(17)]
    # All have come when one of them finds no room to wait.
    (refused,), still = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(refused.exception(), errors.NoCapacity)
    assert (refused.exception().reason, refused.exception().retry_after_s) == ("SIMULATIONS_RUNNING", 10.0)
    kept, *others = still
    for task in others:
        task.cancel()
    for one in running:
        await one.aclose()
    assert (await kept).report_json
    await asyncio.to_thread(psutil.wait_procs, children, 20)
    assert simulations_below() == []


async def last_of(messages):
    async for message in messages:
        last = message
    return last


def simulations_below():
    return processes_below("queen.simulation")


def trials_below():
    return processes_below("queen.policy.trial")


def processes_below(name):
    below = psutil.Process().children(recursive=True)
    return [one for one in below if one.status() != psutil.STATUS_ZOMBIE and name in one.cmdline()]


async def reasons(served, **fields):
    """Returns why the job of a small cluster is treated as it is by whatever decides."""
    world = World()
    world.add_hive(models=(model_file(),))
    world.add_worker("w1")
    proposals = await served.scheduler.decide([job(**fields)], world.cluster, 1.0)
    return [proposal.reason for proposal in proposals]


async def suspend(served):
    for _ in range(3):
        await reasons(served, labels={"broken": "yes"})
