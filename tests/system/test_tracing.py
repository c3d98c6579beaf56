"""One trace per job across the four programs: at a real OTLP receiver, and kept by the queen for `rbee trace`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections import defaultdict
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from programs import MODEL, Queen, free_port, running_queen, wait_for
from programs import rbee as keeper
from rbee import connect, connect_sync
from rbee.v1 import job_service_pb2, job_service_pb2_grpc
from wire import errors

PROMPT = "Why do hexagons tessellate so neatly?"
SLOW = {"tokens_per_second": "20", "completion_tokens": "40"}


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

    def trace(self, trace_id, names):
        """Returns (service, span) of one trace by when they began, once it has all the names."""

        def whole():
            return set(names) <= {span.name for _, span in self.spans[trace_id]}

        with self.news:
            assert self.news.wait_for(whole, timeout=20), [(who, one.name) for who, one in self.spans[trace_id]]
            return sorted(self.spans[trace_id], key=lambda found: found[1].start_time_unix_nano)


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def watched(tmp_path_factory, receiver):
    """A queen whose traces are collected."""
    with running_queen(tmp_path_factory.mktemp("watched"), **receiver.environment) as queen:
        yield queen


def facts(span):
    """Returns a span's attributes, those that are texts."""
    return {one.key: one.value.string_value for one in span.attributes}


def bits(text):
    """Returns every three words of a text that follow each other, and more than that alone would be chance."""
    words = text.split()
    assert len(words) > 3
    return [" ".join(words[place : place + 3]) for place in range(len(words) - 2)]


def named(spans, name):
    return [span for _, span in spans if span.name == name]


async def newest_job(queen):
    async with connect(queen.address) as client:
        return await anext(client.list_jobs(page_size=1))


async def test_one_trace_goes_through_all_four_programs(watched, receiver):
    asked = ("infer", PROMPT, "--model", "rbee-tiny", "--max-tokens", "25", "--seed", "3", "--quiet")
    said = await asyncio.to_thread(keeper, watched, *asked)
    assert said.returncode == 0
    job = await newest_job(watched)
    expected = {
        *("rbee.keeper", "rbee.infer", "rbee.admission", "rbee.queue", "rbee.policy.decide", "rbee.provision"),
        *("rbee.worker.start", "rbee.attempt", "rbee.generate"),
    }
    spans = receiver.trace(job.trace_id, expected)
    assert {who for who, _ in spans} == {"rbee", "queen-rbee", "rbee-hive", "llm-worker-rbee"}
    names = {span.span_id: span.name for _, span in spans}
    parents = {span.name: names.get(span.parent_span_id) for _, span in spans}
    assert parents == {
        "rbee.keeper": None,
        "rbee.infer": "rbee.keeper",
        **dict.fromkeys(
            ("rbee.admission", "rbee.queue", "rbee.policy.decide", "rbee.provision", "rbee.attempt"), "rbee.infer"
        ),
        "rbee.worker.start": "rbee.provision",
        "rbee.generate": "rbee.attempt",
    }
    (*_, decided) = named(spans, "rbee.policy.decide")
    told = {one.key: one.value for one in decided.attributes}
    assert told["rbee.policy"].string_value == "platform"
    assert told["rbee.decision.action"].string_value == "dispatch"
    assert told["rbee.worker.id"].string_value == job.attempts[0].worker_id
    assert told["rbee.worker.id"].string_value in told["rbee.candidates"].array_value.values[0].string_value
    assert decided.end_time_unix_nano > decided.start_time_unix_nano
    (generated,) = named(spans, "rbee.generate")
    told = {one.key: one.value for one in generated.attributes}
    assert told["gen_ai.usage.output_tokens"].int_value == 25
    assert told["gen_ai.server.time_to_first_token"].double_value > 0
    everything = str([span for spans in receiver.spans.values() for span in spans])
    assert not [said for said in (*bits(PROMPT), *bits(said.stdout)) if said in everything], "never in a trace"


async def test_an_attempt_after_a_lost_worker_follows_from_the_one_before(watched, receiver):
    async with connect(watched.address) as client:
        worker, other = [await client.spawn_worker("synthetic:slow", engine_options=SLOW, slots=1) for _ in range(2)]
        answer = client.infer(model="synthetic:slow", prompt=PROMPT)
        killed = False
        async for _ in answer:
            if not killed:
                job = await client.get_job(answer.job_id)
                pid = worker.pid if job.attempts[0].worker_id == worker.id else other.pid
                os.kill(pid, signal.SIGKILL)
                killed = True
        job = await client.get_job(answer.job_id)
        spans = receiver.trace(job.trace_id, ["rbee.infer", "rbee.generate"])
        for one in (worker, other):
            await client.stop_worker(one.id, force=True)
    (logged,) = [line for line in watched.log.splitlines() if "attempt 1 failed" in line]
    assert f"job_id={job.id} trace_id={job.trace_id}" in logged
    first, second = named(spans, "rbee.attempt")
    assert (first.status.code, facts(first)["error.type"]) == (2, "WORKER_LOST")
    assert second.status.code == 0
    (link,) = second.links
    assert (link.span_id, link.attributes[0].value.string_value) == (first.span_id, "failover")
    (generated,) = named(spans, "rbee.generate")  # that of the killed worker is lost with it
    assert generated.parent_span_id == second.span_id
    assert len(named(spans, "rbee.queue")) == 2


async def test_a_job_that_is_refused_is_a_trace_with_its_reason(watched, receiver):
    trace = "0af7651916cd43dd8448eb211c80319d"
    async with grpc.aio.insecure_channel(watched.address) as channel:
        request = job_service_pb2.JobServiceSubmitRequest()
        request.job.model, request.job.prompt = "nothing-of-this-name", PROMPT
        with pytest.raises(grpc.aio.AioRpcError):
            await job_service_pb2_grpc.JobServiceStub(channel).Submit(
                request, metadata=(("traceparent", f"00-{trace}-b7ad6b7169203331-00"),)
            )
    spans = receiver.trace(trace, ["rbee.infer", "rbee.admission"])  # though its caller did not sample it
    assert {facts(span)["error.type"] for _, span in spans} == {"MODEL_NOT_FOUND"}


async def test_the_trace_goes_on_under_the_next_queen(tmp_path, receiver):
    queen = Queen(tmp_path, **receiver.environment)
    (tmp_path / "models").mkdir()
    try:
        queen.start()
        async with connect(queen.address) as client:
            await client.spawn_worker("synthetic:slow", engine_options=SLOW, slots=1)
            job = await client.submit(model="synthetic:slow", prompt=PROMPT)
            waiting = await client.submit(model="synthetic:slow", prompt=PROMPT, max_tokens=1)
            await anext(aiter(client.watch(job.id)))
            queen.kill()
            await asyncio.to_thread(queen.start)
            for one in (job, waiting):
                await client.watch(one.id).text()
        for one in (job, waiting):
            spans = receiver.trace(one.trace_id, ["rbee.infer", "rbee.queue", "rbee.attempt", "rbee.generate"])
            (infer,), (attempt,) = named(spans, "rbee.infer"), named(spans, "rbee.attempt")
            (generated,) = named(spans, "rbee.generate")
            assert generated.parent_span_id == attempt.span_id
            begun = one.submit_time.ToNanoseconds()
            assert abs(infer.start_time_unix_nano - begun) < 1e6, "it began under the queen before"
            assert {span.parent_span_id for span in named(spans, "rbee.queue")} == {infer.span_id}
    finally:
        queen.end_everything()


async def test_the_keeper_draws_what_the_queen_has_kept_though_the_collector_is_gone(tmp_path):
    (tmp_path / "models").mkdir()
    shutil.copy(MODEL, tmp_path / "models" / "copy.gguf")
    gone = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with running_queen(tmp_path, "--traces", "2", **gone) as queen:
        submitted = keeper(queen, "jobs", "submit", PROMPT, "--model", "copy", "--max-tokens", "9").stdout.strip()
        async with connect(queen.address) as client:
            await client.watch(submitted).text()
            other = client.infer(model="copy", prompt=PROMPT, max_tokens=1)
            await other.text()
            drawn = keeper(queen, "trace", submitted).stdout.splitlines()
            steps = [line.lstrip("├└│ ").split(" ")[0] for line in drawn]
            assert steps[:4] == ["STEP", "keeper", "infer", "admission"]
            assert {"queue", "policy.decide", "provision", "worker.start", "attempt", "generate"} <= set(steps)
            assert all(len(line) <= 80 and "\x1b" not in line for line in drawn)
            told = await client.traces.get(submitted)
            assert {one.program for one in told} == {"rbee", "queen-rbee", "rbee-hive", "llm-worker-rbee"}
            slow = json.loads(keeper(queen, "trace", "--last-slow", "--json").stdout)
            assert [one["job_id"] for one in slow] == [submitted, other.job_id], "it waited for a worker"
            wait_for(lambda: "traces are not exported" in queen.log, "the queen says that nobody collects")
            await client.infer(model="copy", prompt=PROMPT, max_tokens=1).text()
            forgotten = keeper(queen, "trace", submitted)
            assert forgotten.returncode != 0
            assert "not kept any more" in forgotten.stderr
            with pytest.raises(errors.NotFound, match="there is no job job-no"):
                await client.traces.get("job-no")
    assert queen.log.count("traces are not exported") == 1
    assert "opentelemetry" not in queen.log.lower()
    assert "hexagons" not in queen.log


def test_programs_without_a_loop_read_traces_too(watched):
    with connect_sync(watched.address) as client:
        slow = next(client.traces.slowest())
        assert "rbee.infer" in {span.name for span in client.traces.get(slow.job_id)}


async def test_a_caller_adds_only_what_it_has_ended_to_traces_that_are_kept(watched):
    from rbee.v1 import trace_pb2

    async with connect(watched.address) as client:
        with pytest.raises(errors.Invalid) as refused:
            await client.traces.add([trace_pb2.Span(trace_id="no", span_id="1")])
        assert "ids of 32 and 16 hex digits" in str(refused.value.faults)
        with pytest.raises(errors.Invalid):
            await client.traces.add([])
        foreign = trace_pb2.Span(trace_id="ab" * 16, span_id="cd" * 8)
        foreign.end_time.GetCurrentTime()
        await client.traces.add([foreign])  # of a trace nobody knows: ignored
