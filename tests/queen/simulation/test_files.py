"""What simulations read: cluster files, traffic files, traces, recorded jobs."""

from random import Random

import pytest

from queen.core.feasibility import memory_required_mb
from queen.core.model import Job, JobState, Priority, Usage
from queen.simulation.cluster_file import read_cluster
from queen.simulation.traffic import drawn, owned, plain_traffic, read_traffic
from queen.simulation.workload import paced, read_trace, recorded, write_trace
from scenes import EXCERPT, ROOT, request
from wire import errors


def faults_of(read, *arguments):
    with pytest.raises(errors.Invalid) as caught:
        read(*arguments)
    return [(fault.field, fault.expected) for fault in caught.value.faults]


@pytest.mark.parametrize("file", sorted((ROOT / "policies" / "clusters").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_examples_can_be_read(file):
    assert read_cluster(file.read_text()).machines


def test_a_cluster_file_says_what_there_is():
    plan = read_cluster((ROOT / "policies" / "clusters" / "lab.yaml").read_text())
    assert sum(len(machine.workers) for machine in plan.machines) == 32
    assert [machine.name for machine in plan.machines][:5] == ["node-1", "node-2", "node-3", "node-4", "shelf-1"]
    node = plan.machines[0]
    assert [device.id for device in node.devices] == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert node.speed("llama-8b", "a100").load_s == 10.0
    assert plan.machines[4].speed("llama-8b", "l4").load_s == 15.0
    assert memory_required_mb(plan.models["llama-8b"].file) == 12 * 1024
    assert dict(node.geo) == {"latitude": 46.23, "longitude": 6.05, "region": "eu-central"}
    assert plan.minimum_residency_s == 60.0


BROKEN = """\
models:
  - name: small
    file_size: 2 parsecs
    speeds: {card: {prefil: 100, decode: -3}}
machines:
  - name: a
    devices: [{kind: card, memory: 1GB}, {kind: kard, memory: 1GB}]
    workers: [{model: smal, device: gpu9}]
  - {name: a, geo: {latitude: 91}, devices: []}
colour: blue
"""


def test_every_fault_of_a_cluster_file_is_told_with_its_line():
    faults = dict(faults_of(read_cluster, BROKEN))
    assert faults["line 3: models[0].file_size"] == "expected a size such as 24GB, not '2 parsecs'"
    assert faults["line 4: models[0].speeds.card.prefill"] == "expected a number; it is missing"
    assert faults["line 4: models[0].speeds.card.prefil"].startswith("expected perhaps 'prefill'")
    assert "not -3" in faults["line 4: models[0].speeds.card.decode"]
    assert "on 'card, kard'" in faults["line 7: machines[0].devices"]
    assert "there is no model on this machine 'smal'" in faults["line 8: machines[0].workers[0].model"]
    assert faults["line 9: machines[1].name"] == "expected another name; there is a machine 'a' already"
    assert "-90 to 90, not 91" in faults["line 9: machines[1].geo.latitude"]
    assert faults["line 10: colour"].startswith("expected known here: name, minimum_residency")
    lines = [int(field.split()[1].rstrip(":")) for field in faults]
    assert lines == sorted(lines)


def test_workers_must_fit():
    small = "models: [{name: m, file_size: 400MB, speeds: {c: {prefill: 1, decode: 1}}}]"
    text = f"{small}\nmachines: [{{name: a, devices: [{{kind: c, memory: 900MB}}], workers: [{{model: m, count: 2}}]}}]"
    [(_, expected)] = faults_of(read_cluster, text)
    assert expected == "expected to fit: they need 992 MB, gpu0 has 900 MB free"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1"),
        ("a: [", "line 1, column 5"),
        ("- a", "line 1"),
        ("[" * 5000, "line 1"),
        ("x" * 2_000_000, "line 1"),
    ],
)
def test_what_is_no_cluster_file_is_refused_with_its_place(text, place):
    assert place in [field for field, _ in faults_of(read_cluster, text)]


def test_a_trace_is_read_by_arrival():
    requests = read_trace(EXCERPT)
    assert len(requests) == 200
    assert (requests[0].prompt_tokens, requests[0].generated_tokens) == (374, 44)
    assert requests[1].arrival - requests[0].arrival == pytest.approx(4.314579, abs=1e-6)
    twice = paced(requests, speed=2.0, limit=10)
    assert twice[9].arrival - twice[0].arrival == pytest.approx((requests[9].arrival - requests[0].arrival) / 2)


def test_every_bad_line_of_a_trace_is_told():
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,Priority\n1,2,3,batch\nnoon,2,3,\n1,-2,3,\n1,2,3,later\n1,2\n"
    assert [field for field, _ in faults_of(read_trace, text)] == ["line 3", "line 4", "line 5", "line 6"]
    assert faults_of(read_trace, "time,ContextTokens\n")[0] == ("line 1", "expected a column TIMESTAMP")
    assert faults_of(read_trace, "TIMESTAMP,ContextTokens,GeneratedTokens\n")[0][0] == "line 2"


def test_recorded_jobs_are_a_trace_too():
    done = Job(
        "job-1", 1, "small", "file:/small", 5.0, state=JobState.COMPLETE, tenant_id="anna", priority=Priority.BATCH,
        usage=Usage(10, 20),
    )  # fmt: skip
    requests = recorded([done, Job("job-2", 2, "small", "file:/small", 6.0, state=JobState.FAILED)])
    assert requests == [request(5.0, 10, 20, tenant_id="anna", priority=Priority.BATCH)]
    assert read_trace(write_trace(requests)) == requests


TRAFFIC = """
arrivals: {rate: 10, duration: 500s, bursts: {every: 100s, length: 10s, factor: 5}}
models: {small: 3, other: 1}
tenants:
  - {name: anna, share: 3, weight: 2}
  - {name: bert, share: 1, batch: 1.0}
sessions: {share: 0.5, turns: 3}
prompt_tokens: {median: 100, sigma: 0}
"""


def test_traffic_is_drawn_as_described():
    traffic = read_traffic(TRAFFIC, ("small", "other"))
    requests = drawn(traffic, Random(1))
    assert requests == drawn(traffic, Random(1)) != drawn(traffic, Random(2))
    assert len(requests) == pytest.approx(10 * 450 + 50 * 50, rel=0.05)
    bursts = [one for one in requests if one.arrival % 100 >= 90]
    assert len(bursts) == pytest.approx(2500, rel=0.1)

    def share(holds):
        return sum(map(holds, requests)) / len(requests)

    assert share(lambda one: one.tenant_id == "anna") == pytest.approx(0.75, abs=0.03)
    assert share(lambda one: one.model == "small") == pytest.approx(0.75, abs=0.03)
    assert share(lambda one: one.session_id != "") == pytest.approx(0.5, abs=0.03)
    assert all((one.priority is Priority.BATCH) == (one.tenant_id == "bert") for one in requests)
    session = [one for one in requests if one.session_id == "session-1"]
    assert 1 < len(session) <= 3
    assert session[0].prompt_tokens == 100
    assert session[1].prompt_tokens == 200 + session[0].generated_tokens


def test_a_trace_gets_owners_and_keeps_its_lengths():
    requests = read_trace(EXCERPT)
    given = owned(requests, read_traffic(TRAFFIC, ("small", "other")), Random(1))
    assert [one.prompt_tokens for one in given] == [one.prompt_tokens for one in requests]
    assert {one.tenant_id for one in given} == {"anna", "bert"}
    assert {one.model for one in owned(requests, plain_traffic(("small",)), Random(1))} == {"small"}


def test_every_fault_of_a_traffic_file_is_told():
    text = "arrivals: {rate: fast, duration: 1s}\nmodels: {smal: 1}\ntenants: [{name: a}, {name: a, wait: 2}]\n"
    faults = dict(faults_of(read_traffic, text, ("small",)))
    assert "expected a number, not 'fast'" in faults["line 1: arrivals.rate"]
    assert "perhaps 'small'" in faults["line 2: models.smal"]
    assert "perhaps 'weight'" in faults["line 3: tenants[1].wait"]
    assert "different names" in faults["line 3: tenants"]


def test_traffic_without_arrivals_cannot_be_drawn():
    with pytest.raises(errors.Invalid, match="arrivals"):
        drawn(plain_traffic(("small",)), Random(1))
