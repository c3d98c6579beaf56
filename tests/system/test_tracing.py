"""One trace per job across the four programs, at a real OTLP receiver."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from programs import free_port, running_queen
from programs import rbee as keeper


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span it is sent, with the service that sent it."""

    def __init__(self):
        self.spans = defaultdict(list)
        self.news = threading.Condition()

    def Export(self, request, context):
        with self.news:
            for resource in request.resource_spans:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.spans[span.trace_id.hex()].append((named["service.name"], span))
            self.news.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, names, services):
        """Returns the spans by name of the first trace that has all the names, from all the services."""

        def whole():
            for spans in self.spans.values():
                by_name = {span.name: (service, span) for service, span in spans}
                if names <= set(by_name) and services <= {service for service, _ in spans}:
                    return by_name
            return None

        with self.news:
            found = self.news.wait_for(whole, timeout=20)
            assert found, {trace: [(who, one.name) for who, one in spans] for trace, spans in self.spans.items()}
            return found


@pytest.fixture
def receiver():
    kept = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = free_port()
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    kept.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    yield kept
    server.stop(None)


def test_one_trace_goes_through_all_four_programs(tmp_path, receiver):
    with running_queen(tmp_path, **receiver.environment) as queen:
        asked = ("infer", "What is a hive?", "--model", "rbee-tiny", "--max-tokens", "5", "--json")
        assert keeper(queen, *asked, env_extra=receiver.environment).returncode == 0
    expected = {
        "rbee.infer",
        "rbee.admission",
        "rbee.policy.decide",
        "rbee.provision",
        "rbee.worker.start",
        "rbee.generate",
    }
    spans = receiver.trace(expected, {"rbee", "queen-rbee", "rbee-hive", "llm-worker-rbee"})
    parents = {name: span.parent_span_id for name, (_, span) in spans.items()}
    infer = spans["rbee.infer"][1].span_id
    assert parents["rbee.generate"] == parents["rbee.provision"] == parents["rbee.policy.decide"] == infer
    decided = {one.key: one.value for one in spans["rbee.policy.decide"][1].attributes}
    assert decided["rbee.policy"].string_value == "platform"
    assert decided["rbee.candidates"].array_value.values
    everything = str([span for spans in receiver.spans.values() for span in spans])
    assert "What is a hive" not in everything, "prompts are never in a trace"
    assert "rbee.job.id" in everything
