import asyncio
import contextlib
import os
import random
import secrets
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration

from hive import program
from hive.config import read_settings
from hive.processes.ports import Launch
from rbee.v1 import (
    hive_agent_service_pb2,
    hive_agent_service_pb2_grpc,
    telemetry_service_pb2,
    telemetry_service_pb2_grpc,
    worker_pb2,
)
from wire.channel import dial
from wire.clock import SystemClock
from wire.server import Server

HERE = Path(__file__).parent
SOURCE = HERE.parent.parent / "src"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(SOURCE)}
WORKER_COMMAND = (sys.executable, str(HERE / "scripted_worker.py"))


def write_gguf(path, *, file_type=gguf.LlamaFileType.MOSTLY_F16, tensors=2, heads=4, kv_heads=2, blocks=3, tokens=8):
    """A small but complete llama file; `kv_heads` may be a list, one per block."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(blocks)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_token_list([f"token{number}" for number in range(tokens)])
    writer.add_token_scores([0.0] * tokens)
    for number in range(tensors):
        writer.add_tensor(f"blk.{number}.weight", np.zeros((8, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(name="write_gguf")
def write_gguf_fixture():
    return write_gguf


class Stream:
    """One hive's stream as the queen sees it: hello, the reports as sent, and the state they add up to."""

    def __init__(self, hello):
        self.hello = hello
        self.reports = []
        self.workers = {}
        self.models = []
        self.devices = {}
        self.removed = set()
        self.ended_in_order = False

    def apply(self, report):
        self.reports.append(report)
        if report.full:
            self.workers, self.devices = {}, {}
        self.devices |= {device.id: device for device in report.devices}
        for change in report.workers:
            known = self.workers.setdefault(change.worker_id, telemetry_service_pb2.WorkerReport())
            for field, _ in change.ListFields():
                known.ClearField(field.name)
            known.MergeFrom(change)
            for path in change.absent.paths:
                known.ClearField(path)
            known.ClearField("absent")
        for worker_id in report.removed_worker_ids:
            self.workers.pop(worker_id)
            self.removed.add(worker_id)
        if report.models_changed:
            self.models = list(report.models)


class Queen(telemetry_service_pb2_grpc.TelemetryServiceServicer):
    """The queen's end of the stream."""

    def __init__(self):
        self.streams = []
        self.refusal = None
        self.interval_s = 0.2
        self.port = 0
        self._changed = asyncio.Condition()
        self._server = None
        self._calls = []

    async def start(self):
        self._server = Server("queen")
        self._server.add(telemetry_service_pb2.DESCRIPTOR.services_by_name["TelemetryService"], self)
        self.port = await self._server.start(f"127.0.0.1:{self.port}")
        return self

    async def stop(self):
        await self._server.stop(0)

    async def Report(self, request_iterator, context):
        first = await anext(request_iterator)
        if self.refusal is not None:
            raise self.refusal
        stream = Stream(first.hello)
        async with self._changed:
            self.streams.append(stream)
            self._changed.notify_all()
        self._calls.append(context)
        await self.direct(context)
        async for message in request_iterator:
            async with self._changed:
                stream.apply(message.report)
                self._changed.notify_all()
        stream.ended_in_order = True

    async def direct(self, context=None, *, full_report=False):
        interval = Duration()
        interval.FromNanoseconds(int(self.interval_s * 1e9))
        directive = telemetry_service_pb2.ReportResponse(report_interval=interval, full_report=full_report)
        await (context or self._calls[-1]).write(directive)

    async def until(self, predicate, timeout_s=10):
        """Returns the newest stream once it satisfies `predicate`."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self.streams and predicate(self.streams[-1]))
            return self.streams[-1]

    async def until_worker(self, worker_id, state, timeout_s=10):
        stream = await self.until(lambda s: worker_id in s.workers and s.workers[worker_id].state == state, timeout_s)
        return stream.workers[worker_id]


class RunningHive:
    """A hive in this process, and a stub that commands it."""

    def __init__(self, stub, queen, settings, task):
        self.stub = stub
        self.queen = queen
        self.settings = settings
        self.task = task

    async def spawn(self, worker_id="w1", *, ready_timeout_s=10, **options):
        return [answer.worker async for answer in self.spawning(worker_id, ready_timeout_s=ready_timeout_s, **options)]

    def spawning(self, worker_id="w1", *, ready_timeout_s=10, model_ref="synthetic:test", slots=2, **options):
        timeout = Duration()
        timeout.FromNanoseconds(int(ready_timeout_s * 1e9))
        spec = worker_pb2.WorkerSpec(
            worker_id=worker_id, model_ref=model_ref, engine="synthetic", slots=slots, engine_options=options
        )
        return self.stub.SpawnWorker(hive_agent_service_pb2.SpawnWorkerRequest(spec=spec, ready_timeout=timeout))

    async def stop(self, worker_id="w1", grace_s=0):
        grace = Duration()
        grace.FromNanoseconds(int(grace_s * 1e9))
        answer = await self.stub.StopWorker(hive_agent_service_pb2.StopWorkerRequest(worker_id=worker_id, grace=grace))
        return answer.exit


@pytest.fixture
async def queen():
    queen = await Queen().start()
    yield queen
    await queen.stop()


@pytest.fixture
def make_settings(tmp_path, queen):
    def make(**changes):
        arguments = ["--queen", f"127.0.0.1:{queen.port}", "--listen", "127.0.0.1:0", "--name", "h1"]
        settings = read_settings([*arguments, "--data-dir", str(tmp_path / "data")], {})
        return replace(settings, model_dirs=(tmp_path / "models",), report_interval_s=0.2, **changes)

    return make


@pytest.fixture
async def start_hive(make_settings, queen):
    """Starts hives in this process; each has ended, and left no child, when the test ends."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(worker_command=WORKER_COMMAND, term_wait_s=5.0, **changes):
            settings = make_settings(**changes)
            launch = Launch(worker_command, ENVIRONMENT, lambda: secrets.token_hex(32), term_wait_s)
            sources = program.Sources(SystemClock(), random.Random(1).random, secrets.token_hex(8), launch)
            task = asyncio.create_task(program.run(settings, sources))
            waiting = asyncio.create_task(queen.until(lambda stream: stream.reports))
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            stream = await waiting
            channel = await stack.enter_async_context(dial(stream.hello.address))
            hive = RunningHive(hive_agent_service_pb2_grpc.HiveAgentServiceStub(channel), queen, settings, task)
            stack.push_async_callback(end, hive)
            return hive

        yield start
    assert psutil.Process().children() == []


async def end(hive):
    if not hive.task.done():
        await hive.stub.Shutdown(hive_agent_service_pb2.ShutdownRequest())
    async with asyncio.timeout(10):
        await asyncio.wait([hive.task])


@pytest.fixture
async def hive(start_hive):
    return await start_hive()


@pytest.fixture
async def start_process(tmp_path, queen):
    """Starts hives as processes of their own; the returned ones are killed at the end if they still run."""
    started = []

    async def start(*arguments, name="h1", script=HERE / "scripted_worker.py", data_dir=tmp_path / "data"):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "scripted_hive.py"),
            str(script),
            *("--queen", f"127.0.0.1:{queen.port}", "--listen", "127.0.0.1:0", "--name", name),
            *("--data-dir", str(data_dir), "--report-interval", "200ms", *arguments),
            env=ENVIRONMENT,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
