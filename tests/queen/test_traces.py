"""Traces of jobs: what is recorded of their lives, what is kept, what leaves the queen."""

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.trace import get_current_span

from queen.core.model import Action, Attempt, Candidate, Decision, Failure, JobState, Proposal
from queen.registry.jobs import JobTable, LiveJob
from queen.traces import collector, job_spans
from queen.traces.job_spans import MOST_CANDIDATES, JobSpans
from queen.traces.kept import MOST_BYTES, MOST_SENT, MOST_SPANS, Traces
from rbee.v1 import trace_pb2
from wire import errors, span_messages, telemetry
from wire.sampling import Sampler
from wire.spans import Recorder, Span
from worlds import job

TRACE = "0af7651916cd43dd8448eb211c80319c"
LOST = Failure("WORKER_LOST", "What is a hive?", 14, True)


def ids(context):
    return get_current_span(context).get_span_context().span_id


def worker_span(live):
    """Returns what a worker records of a job's first attempt."""
    given = LiveJob(replace(live.job, attempts=(Attempt(1, "w1", "mill", 11.0),)), b"", sampled=live.sampled)
    recorder = Recorder("llm-worker-rbee", Clock(), lambda _: None, instance="w1")
    span = recorder.begin("rbee.generate", {telemetry.JOB_ID: live.job.id}, context=job_spans.attempt_context(given))
    recorder.end(span)
    return span


class Clock:
    def now(self):
        return 50.0


class NoStore:
    def __getattr__(self, name):
        return lambda *_: None


class Scene:
    """A job table whose jobs are traced, and a collector that gets what is exported."""

    def __init__(self, *, ratio=1.0, most=100):
        self.exported = []
        self.traces = Traces(most, self.exported.append)
        self.spans = JobSpans(Recorder(job_spans.QUEEN, Clock(), self.traces.add, roots=Sampler(ratio)))
        self.table = JobTable(NoStore(), lambda: None, on_moved=self.spans.moved)

    def join(self, job_id="job-1", **more):
        live = LiveJob(job(job_id, submit_time=10.0, trace_id=TRACE), b"", **more)
        self.table.add(live)
        return live

    def named(self, name):
        found = [span for span in self.traces.of(TRACE) if span.name == name]
        return sorted(found, key=lambda span: span.start_ns)


def seconds(span):
    return span.start_ns / 1e9, span.end_ns / 1e9


async def test_a_job_that_is_tried_twice_is_one_trace_without_gaps():
    scene = Scene()
    live = scene.join(parent_span=7)
    scene.table.dispatched(live, "w1", "mill", 11.0)
    first_context = ids(job_spans.attempt_context(live))
    scene.table.started(live, 12.0)
    scene.table.retried(live, LOST, 13.0, 0.0)
    scene.table.dispatched(live, "w2", "mill", 14.0)
    assert [one.name for one in scene.spans.open(live)] == ["rbee.infer", "rbee.attempt"]
    scene.table.started(live, 15.0)
    scene.table.completed(live, 20.0)
    (infer,) = scene.named("rbee.infer")
    assert (infer.parent_id, seconds(infer), infer.error) == (7, (10.0, 20.0), "")
    assert infer.attributes["rbee.time_to_first_token"] == 2.0
    queue, attempts = scene.named("rbee.queue"), scene.named("rbee.attempt")
    assert [seconds(span) for span in (queue[0], attempts[0], queue[1], attempts[1])] == [
        (10.0, 11.0),
        (11.0, 13.0),
        (13.0, 14.0),
        (14.0, 20.0),
    ]
    assert {span.parent_id for span in (*queue, *attempts)} == {infer.span_id}
    assert [span.error for span in attempts] == ["WORKER_LOST", ""]
    assert attempts[0].span_id == first_context
    (link,) = attempts[1].links
    assert (link.span_id, link.kind) == (attempts[0].span_id, "failover")
    assert not list(scene.spans.open(live))
    assert "What is a hive?" not in str(scene.traces.of(TRACE))


async def test_an_attempt_before_which_no_token_came_is_a_retry():
    scene = Scene()
    live = scene.join()
    scene.table.dispatched(live, "w1", "mill", 11.0)
    scene.table.retried(live, LOST, 13.0, 0.0)
    scene.table.dispatched(live, "w2", "mill", 14.0)
    scene.table.failed(live, LOST, errors.Unreachable("x", "WORKER_LOST"), 15.0)
    assert [link.kind for span in scene.named("rbee.attempt") for link in span.links] == ["retry"]
    assert scene.named("rbee.infer")[0].error == "WORKER_LOST"


async def test_a_job_that_never_leaves_the_queue_has_waited_until_its_end():
    scene = Scene()
    live = scene.join()
    assert [one.name for one in scene.spans.open(live)] == ["rbee.infer", "rbee.queue"]
    scene.table.cancelled(live, errors.Cancelled("x", "JOB_CANCELLED"), 30.0)
    (queue,), (infer,) = scene.named("rbee.queue"), scene.named("rbee.infer")
    assert seconds(queue) == seconds(infer) == (10.0, 30.0)
    assert (queue.error, infer.error) == ("JOB_CANCELLED", "JOB_CANCELLED")
    assert not scene.named("rbee.attempt")


async def test_what_two_queens_record_of_a_job_is_the_same_steps():
    before, after = Scene(), Scene()
    live = before.join()
    before.table.dispatched(live, "w1", "mill", 11.0)
    again = LiveJob(replace(live.job, state=JobState.QUEUED), b"")
    after.table.restore(again)
    after.table.readopted(again, "w1", "mill", 1, 40.0)
    assert ids(job_spans.attempt_context(again)) == ids(job_spans.attempt_context(live))
    after.table.completed(again, 50.0)
    for scene, moved in ((before, live), (after, again)):
        assert [seconds(span) for span in scene.named("rbee.queue")] == [(10.0, 11.0)], moved
    assert before.named("rbee.queue") == after.named("rbee.queue")
    assert seconds(after.named("rbee.attempt")[0]) == (11.0, 50.0)


def decision(**more):
    candidates = tuple(Candidate("mill", f"w{n}", "busy" if n else "", None if n else 0.5) for n in range(40))
    proposal = Proposal("job-1", Action.DISPATCH, "least loaded", "w0", "mill", candidates=candidates)
    return Decision("dec-1", proposal, "mine.lua", "abc", 10.5, 0.002, **more)


def test_a_decision_tells_who_made_it_and_every_candidate_up_to_a_bound():
    scene = Scene()
    scene.spans.decided(scene.join(), decision(), "")
    (span,) = scene.named("rbee.policy.decide")
    assert seconds(span) == (10.5, 10.502)
    told = span.attributes
    assert (told["rbee.policy"], told["rbee.policy.version"], told["rbee.worker.id"]) == ("mine.lua", "abc", "w0")
    assert told["rbee.candidates"][:2] == ("w0: score 0.5", "w1: busy")
    assert (len(told["rbee.candidates"]), told["rbee.candidates.count"]) == (MOST_CANDIDATES, 40)
    assert "rbee.decision.fallback" not in told


@pytest.mark.parametrize(
    ("fallback", "refusal"), [("timeout", ""), ("", "the worker has no free slot"), ("", "")], ids=str
)
def test_of_an_unsampled_trace_all_is_exported_once_a_decision_fails_or_is_refused(fallback, refusal):
    scene = Scene(ratio=0.0)
    live = scene.join(sampled=False)
    scene.spans.admitted(live, 0)
    sent = trace_pb2.Spans(spans=[span_messages.message(worker_span(live))]).SerializeToString()
    for _ in range(2):  # a stream that was attached to again brings it again
        scene.traces.add_sent(sent, int(TRACE, 16))
    assert not scene.exported
    scene.spans.decided(live, decision(refusal=refusal), fallback)
    wanted = {"rbee.admission", "rbee.generate", "rbee.policy.decide"} if fallback or refusal else set()
    assert {span.name for span in scene.exported} == wanted
    scene.table.cancelled(live, errors.Cancelled("x", "JOB_CANCELLED"), 30.0)
    assert {"rbee.infer", "rbee.generate", "rbee.admission"} <= {span.name for span in scene.exported}
    assert len({span.span_id for span in scene.exported}) == len(scene.exported), "none is exported twice"


def test_who_is_refused_is_told_with_the_reason_alone():
    scene = Scene(ratio=0.0)
    scene.spans.refused("small", 1, errors.NoCapacity("for: What is a hive?", "QUOTA_EXCEEDED"))
    assert [(span.name, span.error) for span in scene.exported] == [
        ("rbee.admission", "QUOTA_EXCEEDED"),
        ("rbee.infer", "QUOTA_EXCEEDED"),
    ]
    admission, infer = scene.exported
    assert (admission.parent_id, admission.trace_id) == (infer.span_id, infer.trace_id)
    assert "What is a hive?" not in str(scene.exported)


def test_nothing_is_recorded_when_nobody_keeps_or_collects():
    traces = Traces(0)
    assert not traces.on
    spans = JobSpans(Recorder("x", Clock(), lambda span: pytest.fail(str(span)), roots=Sampler()), on=traces.on)
    table = JobTable(NoStore(), lambda: None, on_moved=spans.moved)
    live = LiveJob(job(trace_id=TRACE), b"")
    table.add(live)
    spans.admitted(live, 0)
    spans.decided(live, decision(), "")
    table.dispatched(live, "w1", "mill", 11.0)
    assert live.job.trace_id == TRACE


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(0, 60_000), st.booleans()), max_size=600),
    st.integers(0, 20),
)
def test_what_is_kept_stays_within_its_bounds_and_is_the_newest(steps, most):
    traces = Traces(most)
    for trace, span, size, sent in steps:
        if sent:
            traces.add_sent(b"x" * min(size, 8000) + bytes([span % 256]), trace)
        else:
            traces.add(Span(trace, span, 0, "x", 1, attributes={"rbee.candidates": ("c" * size,)}))
    kept = traces._traces
    assert len(kept) <= most
    assert traces._size == sum(one.size for one in kept.values()) <= MOST_BYTES
    assert all(len(one.spans) <= MOST_SPANS and len(one.sent) <= MOST_SENT for one in kept.values())
    last_touched = list(dict.fromkeys(trace for trace, *_ in reversed(steps)))
    assert list(reversed(kept)) == last_touched[: len(kept)]


def test_spans_of_one_trace_are_bounded_and_its_newest_stay():
    traces = Traces(1)
    for number in range(1, MOST_SPANS + 10):
        traces.add(Span(1, number, 0, "x", 1))
    assert [span.span_id for span in traces.of(telemetry.trace_hex(1))] == list(range(10, MOST_SPANS + 10))


class Http(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


async def test_it_is_exported_over_http_as_the_variables_say(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Http) as server:
        server.got = []
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        said = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{server.server_port}/v1/traces",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc",
            "OTEL_SERVICE_NAME": "the-queen",
        }
        for name, value in said.items():
            monkeypatch.setenv(name, value)
        export = collector.from_environment(said)
        scene = Scene()
        scene.spans.decided(scene.join(), decision(), "")
        scene.traces.add(replace(scene.traces.of(TRACE)[0], span_id=5, program="rbee-hive", instance="mill"))
        for span in scene.traces.of(TRACE):
            export.add(span)
        await export.close()
        server.shutdown()
        serving.join()
    ((path, headers, body),) = server.got
    assert (path, headers["authorization"]) == ("/v1/traces", "Bearer abc")
    told = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    services = []
    for resource in told.resource_spans:
        named = {one.key: one.value.string_value for one in resource.resource.attributes}
        services.append((named["service.name"], named.get("service.instance.id")))
        assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["rbee.policy.decide"]
    assert sorted(services) == [("rbee-hive", "mill"), ("the-queen", "the-queen")]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_collects_unless_told(said):
    assert collector.from_environment(said) is None
