"""The metrics of a real queen, hive and worker: as Prometheus scrapes them, at an OTLP receiver, on the dashboard."""

import json
import re
import threading
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from programs import free_port, rbee, running_queen, wait_for

DOCS = Path(__file__).parents[2] / "docs"

UNUSUAL = {"rbee_decisions_refused", "rbee_decisions_fallback", "rbee_worker_evictions"}
"""What there is nothing of while all goes well; they are there, without values."""


class Receiver(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps the newest metrics it was sent, and who sent them."""

    def __init__(self):
        self.found = {}
        self.service = ""
        self.news = threading.Condition()

    def Export(self, request, context):
        with self.news:
            (resource,) = request.resource_metrics
            self.service = {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"]
            self.found = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
            self.news.notify_all()
        return metrics_service_pb2.ExportMetricsServiceResponse()


@pytest.fixture(scope="module")
def receiver():
    kept, server, port = Receiver(), grpc.server(futures.ThreadPoolExecutor(2)), free_port()
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(kept, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    kept.environment = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    yield kept
    server.stop(None)


@pytest.fixture(scope="module")
def queen(tmp_path_factory, receiver):
    """A queen who has served two answers, and refused one."""
    with running_queen(tmp_path_factory.mktemp("measured"), **receiver.environment) as queen:
        for _ in range(2):
            said = rbee(queen, "infer", "Why hexagons?", "--model", "rbee-tiny", "--max-tokens", "8", "--quiet")
            assert said.returncode == 0, said.stderr
        assert rbee(queen, "infer", "Why hexagons?", "--model", "nothing").returncode != 0
        wait_for(lambda: scraped(queen)["rbee_queen_loop_lag_seconds"].samples, "the loop was measured")
        yield queen


def scraped(queen):
    """Returns what Prometheus gets, by name."""
    with urllib.request.urlopen(f"http://{queen.http}/metrics", timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return {one.name: one for one in text_string_to_metric_families(answer.read().decode())}


def total(family, suffix, **labels):
    return sum(
        one.value for one in family.samples if one.name == family.name + suffix and labels.items() <= one.labels.items()
    )


def test_what_was_served_is_told(queen):
    found = scraped(queen)
    assert total(found["rbee_jobs_admitted"], "_total") == 2
    assert total(found["rbee_jobs_refused"], "_total", error_type="MODEL_NOT_FOUND") == 1
    assert total(found["rbee_jobs_ended"], "_total", rbee_job_state="complete") == 2
    assert total(found["rbee_tokens"], "_total", gen_ai_token_type="output") == 16
    assert total(found["gen_ai_server_time_to_first_token_seconds"], "_count", gen_ai_request_model="rbee-tiny") == 2
    assert total(found["rbee_worker_starts"], "_total", error_type="") == 1
    assert total(found["rbee_worker_slots"], "", rbee_slot_state="free") > 0
    assert total(found["rbee_device_memory_usage_bytes"], "", rbee_memory_state="free") > 2**20
    assert total(found["rbee_streams_open"], "", rbee_stream_kind="hive") == 1


def test_every_metric_has_values_once_there_are_jobs(queen):
    assert {name for name, family in scraped(queen).items() if not family.samples} <= UNUSUAL


def test_the_dashboard_names_what_is_scraped_and_shows_all_of_it(queen):
    found = scraped(queen)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    there = {name + suffix: name for name, one in found.items() for suffix in suffixes[one.type]}
    labels = {label for one in found.values() for sample in one.samples for label in sample.labels}
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]
    asked = [(panel["title"], target) for panel in panels for target in panel.get("targets", ())]
    for title, target in asked:
        used = re.findall(r"\b(?:rbee|gen_ai)_\w+", re.sub(r"by \([^)]*\)", "", target["expr"]))
        assert used, title
        assert set(used) <= there.keys(), title
        grouped = {one.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for one in by.split(",")}
        assert grouped <= labels, title
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped, title
    shown = {there[name] for _, target in asked for name in re.findall(r"\w+", target["expr"]) if name in there}
    assert found.keys() - shown == {"target_info"}


def test_a_collector_gets_the_same(queen, receiver):
    with receiver.news:
        assert receiver.news.wait_for(
            lambda: {"rbee.jobs.refused", "rbee.queen.loop.lag"} <= receiver.found.keys(), timeout=20
        )
        found, service = dict(receiver.found), receiver.service
    assert service == "queen-rbee"
    scrape = {name for name, family in scraped(queen).items() if family.samples} - {"target_info"}
    units = {"s": "_seconds", "By": "_bytes"}
    assert {one.name.replace(".", "_") + units.get(one.unit, "") for one in found.values()} == scrape
    (served,) = found["rbee.jobs.admitted"].sum.data_points
    assert (served.as_double or served.as_int) == 2
    assert {one.key: one.value.string_value for one in served.attributes}["rbee.tenant.id"] == "default"
    (first,) = found["gen_ai.server.time_to_first_token"].histogram.data_points
    assert first.count == 2 == sum(first.bucket_counts)


def test_a_queen_whose_collector_is_gone_serves_and_ends(tmp_path):
    endpoint = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with running_queen(tmp_path, hive=False, **endpoint, OTEL_METRIC_EXPORT_INTERVAL="100") as queen:
        assert scraped(queen)["target_info"].samples
        assert queen.stop() == 0
    assert "Traceback" not in queen.log
