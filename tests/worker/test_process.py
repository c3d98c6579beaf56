"""llm-worker-rbee as a process: how it starts, announces itself and ends, and what it says when it cannot."""

import asyncio
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager

import grpc
import pytest

from rbee.v1 import (
    device_pb2,
    engine_service_pb2_grpc,
    generation_pb2,
    hive_agent_service_pb2,
    hive_agent_service_pb2_grpc,
    job_pb2,
)
from rbee.v1 import engine_service_pb2 as pb
from wire import channel, errors, span_messages, telemetry
from wire.server import Server

SYNTHETIC = ("--engine", "synthetic", "--port", "0")
SLOW = ("--engine-option", "tokens_per_second=40", "--engine-option", "completion_tokens=12")


class Hive(hive_agent_service_pb2_grpc.HiveAgentServiceServicer):
    """A hive that knows one token, once."""

    def __init__(self) -> None:
        self.announced = asyncio.get_running_loop().create_future()

    async def AnnounceWorker(self, request, context):
        if request.spawn_token != "the-token":
            raise errors.Unauthenticated("no worker is expected with this token", "BAD_SPAWN_TOKEN")
        self.announced.set_result(request)
        return hive_agent_service_pb2.AnnounceWorkerResponse(worker_id="w-1")


@asynccontextmanager
async def hive():
    """A served hive and its address."""
    servicer = Hive()
    server = Server("test hive")
    server.add(hive_agent_service_pb2.DESCRIPTOR.services_by_name["HiveAgentService"], servicer)
    port = await server.start("127.0.0.1:0")
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        await server.stop(grace_s=0)


@asynccontextmanager
async def worker(*arguments, token="", **variables):
    """A worker's process; killed at the end if it still runs."""
    environment = os.environ | {"RBEE_SPAWN_TOKEN": token, "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "worker", *map(str, arguments)),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_with(process, pattern):
    """The first line of its log that matches."""
    seen = b""
    while line := await process.stderr.readline():
        seen += line
        if found := re.search(pattern, line.decode()):
            return found
    pytest.fail(f"no line with {pattern!r} in: {seen.decode()}")


@asynccontextmanager
async def connected(port):
    async with channel.dial(f"127.0.0.1:{port}") as link:
        yield engine_service_pb2_grpc.EngineServiceStub(link)


def request(**more):
    job = job_pb2.JobSpec(model="m", prompt="What is a hive?\n", sampling=generation_pb2.Sampling(temperature=0))
    return pb.GenerateRequest(job_id="job-1", attempt=1, job=job, **more)


async def ended(process):
    """Its exit status and the lines it still had to say."""
    said = (await process.stderr.read()).decode().splitlines()
    return await process.wait(), said


async def test_it_loads_the_model_announces_itself_with_its_token_and_serves(model_path):
    model = ("--model", model_path, "--port", "0", "--slots", 3)
    async with hive() as (servicer, address), worker(*model, "--hive", address, token="the-token") as w:
        told = await servicer.announced
        assert (told.slots_total, told.backend) == (3, device_pb2.BACKEND_CPU)
        assert told.context_length > 0
        async with connected(told.port) as stub:
            call = stub.Generate(request())
            assert (await call.read()).events[0].tokens.text
            now = await stub.GetStatus(pb.GetStatusRequest())
            assert now.model_ref == f"file:{model_path}"
        w.send_signal(signal.SIGTERM)
        status, said = await ended(w)
    assert status == 0, said


async def test_a_token_the_hive_does_not_know_ends_it_with_status_3():
    async with hive() as (_, address), worker(*SYNTHETIC, "--hive", address, token="another") as w:
        status, said = await ended(w)
    assert status == 3
    assert "the hive does not know this worker" in said[-1]


async def test_a_hive_that_is_gone_lets_running_work_finish_and_ends_the_worker():
    async with hive() as (servicer, address), worker(*SYNTHETIC, *SLOW, "--hive", address, token="the-token") as w:
        told = await servicer.announced
        async with connected(told.port) as stub:
            call = stub.Generate(request())
            await call.read()
            w.stdin.close()
            messages = [message async for message in rest_of(call)]
            assert messages[-1].events[0].done.usage.completion_tokens == 12
        status, said = await ended(w)
    assert (status, said[-1].split(": ")[-1]) == (0, "ended in order")


async def rest_of(call):
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_work_finish_and_refuses_new(number):
    async with worker(*SYNTHETIC, *SLOW) as w:
        port = (await line_with(w, r"on 127\.0\.0\.1:(\d+)"))[1]
        async with connected(port) as stub:
            call = stub.Generate(request())
            await call.read()
            w.send_signal(number)
            await line_with(w, "finishing what runs")
            messages = [message async for message in rest_of(call)]
            assert messages[-1].events[0].done.usage.completion_tokens == 12
        status, said = await ended(w)
    assert (status, said[-1].split(": ")[-1]) == (0, "ended in order")
    assert "Traceback" not in "".join(said)


async def test_a_second_signal_ends_it_at_once():
    async with worker(*SYNTHETIC, "--engine-option", "completion_tokens=1000000") as w:
        port = (await line_with(w, r"on 127\.0\.0\.1:(\d+)"))[1]
        async with connected(port) as stub:
            call = stub.Generate(request())
            await call.read()
            w.send_signal(signal.SIGTERM)
            await line_with(w, "finishing what runs")
            w.send_signal(signal.SIGTERM)
            assert await w.wait() == 128 + signal.SIGTERM


async def test_a_corrupt_model_ends_it_with_a_last_line_that_says_so(tmp_path, model_path):
    path = tmp_path / "half.gguf"
    path.write_bytes(model_path.read_bytes()[:1_000_000])
    async with worker("--model", path) as w:
        status, said = await ended(w)
    assert status == 1
    assert f"{path} is not a usable GGUF model: truncated: tensor data ends at byte 1000000 of" in said[-1]


async def test_a_model_llamacpp_refuses_ends_it_with_both_their_words(tmp_path, model_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(model_path.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"))
    async with worker("--model", path) as w:
        status, said = await ended(w)
    assert status == 1
    assert any("blk.0.attn_q.weight" in line for line in said), said
    assert f"llama.cpp cannot load {path}" in said[-1]


async def test_a_port_in_use_ends_it_with_a_last_line_that_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with worker("--engine", "synthetic", "--port", port) as w:
            status, said = await ended(w)
    assert status == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in said[-1]


async def test_an_option_the_engine_does_not_know_ends_it():
    async with worker("--engine", "synthetic", "--engine-option", "speed=9") as w:
        status, said = await ended(w)
    assert status == 1
    assert "speed: not an option of engine synthetic" in said[-1]


async def test_a_generation_is_a_span_of_the_callers_trace_and_holds_no_text(model_path):
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with worker("--model", model_path, "--port", "0", "--worker-id", "mill-1") as w:
        port = (await line_with(w, r"on 127\.0\.0\.1:(\d+)"))[1]
        async with connected(port) as stub:
            asked = request()
            asked.job.sampling.max_tokens = 12
            call = stub.Generate(asked, metadata=(("traceparent", f"00-{trace}-b7ad6b7169203331-01"),))
            answer = "".join([m.events[0].tokens.text async for m in rest_of(call)])
            sent = span_messages.in_trailers(await call.trailing_metadata())
            asked.job_id = "job-2"
            untraced = stub.Generate(asked)
            assert [message async for message in rest_of(untraced)]
            assert not span_messages.in_trailers(await untraced.trailing_metadata())
        w.send_signal(signal.SIGTERM)
        assert (await ended(w))[0] == 0
    (span,) = span_messages.read(sent)
    assert (span.name, telemetry.trace_hex(span.trace_id)) == ("rbee.generate", trace)
    assert (telemetry.span_hex(span.parent_id), span.instance) == ("b7ad6b7169203331", "mill-1")
    told = span.attributes
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("text_completion", "m")
    assert told["gen_ai.usage.output_tokens"] == len(answer.encode())  # a token a byte
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["gen_ai.server.time_to_first_token"] > 0
    assert told["gen_ai.server.time_per_output_token"] > 0
    assert answer
    assert answer not in str(span)
    assert "What is a hive" not in str(span)
