"""What the queen counts, and how Prometheus and a collector get it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from queen.core.model import (
    Action,
    Decision,
    Device,
    Failure,
    Hive,
    Priority,
    Proposal,
    Usage,
    WorkerSpec,
    WorkerState,
)
from queen.metrics import prometheus, receiver
from queen.metrics.export import Export
from queen.metrics.instruments import Counter, Gauge, Histogram
from queen.metrics.jobs import MOST_MODELS, SYNTHETIC
from queen.metrics.meter import Meter
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from wire import errors
from worlds import MODEL, job, model_file

DOCS = Path(__file__).parents[2] / "docs"
LOST = Failure("WORKER_LOST", "gone", 14, retriable=True)
PLAYED = {"rbee_job_priority": "interactive", "rbee_tenant_id": "default"}


class Clock:
    def now(self):
        return 50.0

    def monotonic(self):
        return 50.0


class NoStore:
    def __getattr__(self, name):
        return lambda *_: None


class Scene:
    """A queen's metrics, with her jobs and a hive that has one model."""

    def __init__(self, *, served=True):
        self.cluster = Cluster(lambda: None)
        self.cluster.register_hive(Hive("mill"))
        self.cluster.heard("mill", 48.0, {"models": (model_file(),), "devices": (Device("gpu", "", "cuda"),)})
        tenants = TenantTable(NoStore(), self.cluster.get_worker)
        self.meter = Meter(self.cluster, Clock(), "queen-1", None, served=served)
        self.table = JobTable(NoStore(), lambda: None, tenants, self.meter.jobs.moved)
        self.meter.look_at(self.table, tenants)

    def join(self, job_id="job-1", **more):
        live = LiveJob(job(job_id, submit_time=10.0, tenant_id="default", **more), b"")
        self.table.add(live)
        return live

    def samples(self):
        """Returns the values by name and labels, as Prometheus' own parser reads them."""
        return {
            (one.name, tuple(sorted(one.labels.items()))): one.value
            for family in text_string_to_metric_families("".join(self.meter.parts()))
            for one in family.samples
        }

    def value(self, name, **labels):
        return self.samples().get((name, tuple(sorted(labels.items()))))

    def total(self, name):
        return sum(value for (found, _), value in self.samples().items() if found == name)


def test_the_table_in_the_documents_is_what_there_is():
    text = (DOCS / "operations.md").read_text()
    section = re.search(r"^## Metrics\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]
    told = {
        name.strip("`"): (kind, unit, labels.replace("`", ""), meaning) for name, kind, unit, labels, meaning in rows
    }
    there = {one.name: (one.kind, one.unit, ", ".join(one.labels), one.meaning) for one in Scene().meter._instruments}
    assert told == there


async def test_a_job_that_is_tried_twice_counts_once_and_its_attempts_each():
    scene = Scene()
    live = scene.join(trace_id="1")
    assert scene.value("rbee_queue_depth", **PLAYED) == 1
    scene.table.dispatched(live, "w1", "mill", 11.0)
    assert scene.value("rbee_queue_depth", **PLAYED) == 0
    scene.table.started(live, 12.0)
    scene.table.retried(live, LOST, 13.0, 0.0)
    scene.table.dispatched(live, "w2", "mill", 14.0)
    scene.table.started(live, 15.0)
    scene.table.completed(live, 20.0, usage=Usage(7, 5))
    assert scene.value("rbee_dispatches_total", rbee_dispatch_outcome="WORKER_LOST") == 1
    assert scene.value("rbee_dispatches_total", rbee_dispatch_outcome="complete") == 1
    assert scene.value("rbee_queue_wait_seconds_count", **PLAYED) == 2
    assert scene.value("rbee_queue_wait_seconds_sum", **PLAYED) == 2.0
    assert scene.value("gen_ai_server_time_to_first_token_seconds_sum", gen_ai_request_model="small") == 2.0
    assert scene.value("gen_ai_server_time_to_first_token_seconds_count", gen_ai_request_model="small") == 1
    assert scene.value("gen_ai_server_time_per_output_token_seconds_sum", gen_ai_request_model="small") == 2.0
    assert scene.total("gen_ai_server_request_duration_seconds_sum") == 10.0
    assert scene.value("rbee_tokens_total", rbee_tenant_id="default", gen_ai_token_type="input") == 7
    assert scene.value("rbee_tokens_total", rbee_tenant_id="default", gen_ai_token_type="output") == 5
    assert scene.total("rbee_jobs_ended_total") == 1


async def test_jobs_that_end_otherwise_tell_why():
    scene = Scene()
    scene.table.cancelled(scene.join("job-1"), errors.Cancelled("x", "JOB_CANCELLED"), 30.0)
    failed = scene.join("job-2", order=2, priority=Priority.BATCH)
    scene.table.dispatched(failed, "w1", "mill", 11.0)
    scene.table.failed(failed, LOST, errors.Unreachable("x", "WORKER_LOST"), 31.0)
    stopped = scene.join("job-3", order=3)
    scene.table.dispatched(stopped, "w1", "mill", 11.0)
    scene.table.cancelled(stopped, errors.Cancelled("x", "JOB_CANCELLED"), 30.0, Usage(1, 1))
    ended = {"rbee_job_state": "failed", "error_type": "WORKER_LOST", "rbee_tenant_id": "default"}
    assert scene.value("rbee_jobs_ended_total", **ended) == 1
    assert scene.value("rbee_dispatches_total", rbee_dispatch_outcome="WORKER_LOST") == 1
    assert scene.value("rbee_dispatches_total", rbee_dispatch_outcome="cancelled") == 1
    assert scene.total("rbee_dispatches_total") == 2, "one never left the queue"
    assert scene.total("gen_ai_server_time_per_output_token_seconds_count") == 0


def test_decisions_and_workers():
    scene, live = Scene(), LiveJob(job(), b"")
    proposal = Proposal("job-1", Action.DISPATCH, "it is free")
    scene.meter.jobs.decided(live, Decision("d1", proposal, "mine", "3", 10.0, 0.002), "")
    scene.meter.jobs.decided(live, Decision("d2", proposal, "platform", "", 10.0, 0.2, refusal="taken"), "TIMED_OUT")
    scene.meter.jobs.worker_started(MODEL)
    scene.meter.jobs.worker_started(MODEL, errors.Unreachable("x", "WORKER_START_FAILED"))
    scene.meter.jobs.evicted(MODEL)
    scene.meter.jobs.refused(errors.NoCapacity("x", "QUEUE_FULL"))
    assert scene.value("rbee_decisions_total", rbee_policy="mine", rbee_decision_action="dispatch") == 1
    assert scene.value("rbee_decisions_refused_total", rbee_policy="platform") == 1
    assert scene.value("rbee_decisions_fallback_total", error_type="TIMED_OUT") == 1
    assert scene.value("rbee_decision_duration_seconds_bucket", rbee_policy="mine", le="0.005") == 1
    failed = {"gen_ai_request_model": "small", "error_type": "WORKER_START_FAILED"}
    assert scene.value("rbee_worker_starts_total", **failed) == 1
    assert scene.total("rbee_worker_starts_total") == 2
    assert scene.value("rbee_worker_evictions_total", gen_ai_request_model="small") == 1
    assert scene.value("rbee_jobs_refused_total", error_type="QUEUE_FULL") == 1


def test_what_there_is_is_looked_up():
    scene = Scene()
    gpu = Device("gpu", "", "cuda", memory_total_mb=100, memory_free_mb=30, memory_foreign_mb=20)
    scene.cluster.heard("mill", 48.0, {"devices": (gpu, Device("cpu", "", "cpu"))})
    spec = WorkerSpec("w1", MODEL, device_ids=("gpu",), memory_mb=50)
    scene.cluster.heard_worker("mill", "w1", 48.0, {"spec": spec, "state": WorkerState.READY, "slots_total": 4})
    scene.cluster.reserve("w1", "job-1")
    place = {"rbee_hive_id": "mill", "rbee_device_id": "gpu"}
    used = {
        state: scene.value("rbee_device_memory_usage_bytes", **place, rbee_memory_state=state)
        for state in ("ours", "foreign", "free")
    }
    assert used == {"ours": 50 << 20, "foreign": 20 << 20, "free": 30 << 20}
    assert scene.total("rbee_device_memory_usage_bytes") == 100 << 20, "what is not known is left out"
    assert scene.value("rbee_device_memory_booked_bytes", **place) == 50 << 20
    assert scene.value("rbee_worker_slots", gen_ai_request_model="small", rbee_slot_state="taken") == 1
    assert scene.value("rbee_worker_slots", gen_ai_request_model="small", rbee_slot_state="free") == 3
    assert scene.value("rbee_worker_count", rbee_worker_state="ready") == 1
    assert scene.value("rbee_hive_report_age_seconds", rbee_hive_id="mill") == 2.0


async def test_no_label_is_without_end():
    scene = Scene()
    for number in range(2 * MOST_MODELS):
        file = model_file(f"m{number}")
        scene.cluster.models.add_outside("mill", file)
        for ref in (file.model_ref, f"synthetic:{number}", f"nowhere:{number}"):
            live = scene.join(f"{number} {ref}", order=number + 1, model_ref=ref)
            scene.table.failed(live, LOST, errors.Unreachable("x", f"REASON_{number}"), 31.0)
            scene.meter.jobs.refused(errors.Unreachable("x", f"REASON_{number}"))
    models = {dict(labels).get("gen_ai_request_model") for _, labels in scene.samples()} - {None}
    assert len(models) == MOST_MODELS + 2
    assert {SYNTHETIC, "other", "m0"} <= models
    reasons = [labels for (name, labels) in scene.samples() if name == "rbee_jobs_refused_total"]
    assert len(reasons) <= 201
    assert scene.total("rbee_jobs_refused_total") == 6 * MOST_MODELS, "what is not told apart is counted all the same"


async def test_nothing_is_counted_where_nobody_looks():
    scene = Scene(served=False)
    live = scene.join()
    scene.table.dispatched(live, "w1", "mill", 11.0)
    scene.table.completed(live, 20.0, usage=Usage(7, 5))
    scene.meter.jobs.admitted(live.job)
    assert not any(one.points for one in scene.meter.jobs.instruments)


@given(st.lists(st.floats(0, 10) | st.sampled_from([0.5, 1.0, 2.0])))
def test_a_value_is_in_the_buckets_it_is_not_above(values):
    one = Histogram("x", "s", "x", bounds=(0.5, 1.0, 2.0))
    for value in values:
        one.record(value)
    (family,) = [
        f for f in text_string_to_metric_families("".join(prometheus.parts([one], {}))) if f.name == "x_seconds"
    ]
    buckets = {float(s.labels["le"]): s.value for s in family.samples if s.name == "x_seconds_bucket"}
    expected = {bound: sum(value <= bound for value in values) for bound in (0.5, 1.0, 2.0, float("inf"))}
    assert buckets == (expected if values else {})


@given(st.text().filter(lambda text: "\r" not in text))
def test_any_label_is_read_as_it_was(text):
    gauge = Gauge("a.b", "By", "x", "l.m", read=lambda: [((text,), 1.5)])
    lines = "".join(prometheus.parts([gauge], {}))
    (family,) = [f for f in text_string_to_metric_families(lines) if f.name == prometheus.name_of(gauge)]
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"l_m": text}, 1.5)]


def test_names_are_as_prometheus_has_them():
    assert prometheus.name_of(Counter("rbee.tokens", "{token}", "x")) == "rbee_tokens_total"
    assert prometheus.name_of(Histogram("rbee.queue.wait", "s", "x", bounds=())) == "rbee_queue_wait_seconds"


@pytest.mark.parametrize(
    ("environment", "sends"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"}, False),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, False),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "250"}, True),
    ],
)
def test_the_environment_says_whether_somebody_is_sent_them(environment, sends):
    found = receiver.from_environment(environment)
    assert isinstance(found, Export) is sends
    if "OTEL_METRIC_EXPORT_INTERVAL" in environment:
        assert found.every_s == 0.25
