import asyncio
import sys
from urllib.parse import quote

import grpc
import psutil
import pytest

from rbee.v1 import (
    device_pb2,
    engine_service_pb2,
    engine_service_pb2_grpc,
    hive_agent_service_pb2,
    worker_pb2,
)
from wire import status
from wire.channel import dial

LOADING, READY = worker_pb2.WORKER_STATE_LOADING, worker_pb2.WORKER_STATE_READY
DRAINING, FAILED = worker_pb2.WORKER_STATE_DRAINING, worker_pb2.WORKER_STATE_FAILED


async def failure_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), status.from_rpc_error(caught.value)


async def test_a_worker_is_started_announces_itself_and_is_reported(hive, queen):
    first, last = await hive.spawn("w1", slots=3)
    assert (first.state, last.state) == (LOADING, READY)
    assert (last.slots_total, last.context_length, last.backend) == (3, 512, device_pb2.BACKEND_CPU)
    assert psutil.Process(last.pid).is_running()
    async with dial(last.address) as channel:
        stub = engine_service_pb2_grpc.EngineServiceStub(channel)
        assert not (await stub.GetStatus(engine_service_pb2.GetStatusRequest())).generations
    stream = await queen.until(
        lambda stream: (one := stream.workers.get("w1")) and one.state == READY and one.rss_mb > 0
    )
    reported = stream.workers["w1"]
    assert (reported.state, reported.address, reported.pid) == (READY, last.address, last.pid)
    assert reported.start_time.seconds > 0
    assert not reported.HasField("vram_mb")
    (listed,) = (await hive.stub.ListWorkers(hive_agent_service_pb2.ListWorkersRequest())).workers
    assert (listed.worker_id, listed.state, listed.spec.slots) == ("w1", READY, 3)


async def test_the_token_is_in_the_environment_and_nowhere_in_argv(hive):
    _, worker = await hive.spawn("w1", colour="a=b")
    process = psutil.Process(worker.pid)
    token = process.environ()["RBEE_SPAWN_TOKEN"]
    assert len(bytes.fromhex(token)) == 32
    assert token not in " ".join(process.cmdline())
    assert process.cmdline()[-2:] == ["--engine-option", "colour=a=b"]


async def test_calls_for_one_worker_id_share_one_start(hive):
    answers = await asyncio.gather(*(hive.spawn("w1") for _ in range(3)))
    assert len({answer[-1].pid for answer in answers}) == 1
    again = await hive.spawn("w1")
    assert again[-1].pid == answers[0][-1].pid
    assert len(psutil.Process().children()) == 1


async def test_a_start_goes_on_when_its_caller_goes_away(hive, queen):
    call = hive.spawning("w1")
    assert (await call.read()).worker.state == LOADING
    call.cancel()
    await queen.until_worker("w1", READY)


async def test_a_worker_that_dies_while_loading_is_an_error_with_its_last_lines(hive, queen):
    code, error = await failure_of(hive.spawn("w1", do="crash"))
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_START_FAILED")
    assert "exit status 3" in error.message
    assert "cannot load: the tensors are wrong" in error.message
    failed = await queen.until_worker("w1", FAILED)
    assert failed.exit.exit_code == 3
    assert failed.exit.last_lines[-1] == "cannot load: the tensors are wrong"
    assert failed.exit.exit_time.seconds > 0
    assert not failed.HasField("pid")


async def test_a_chatty_death_still_fits_into_an_error_and_its_report(hive, queen):
    code, error = await failure_of(hive.spawn("w1", do="crash", chatter="ä" * 5000))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "cannot load: the tensors are wrong" in error.message
    assert 500 < len(quote(error.message)) < 3500
    failed = await queen.until_worker("w1", FAILED)
    assert len(failed.exit.last_lines) == 20
    assert max(map(len, failed.exit.last_lines)) <= 4096


async def test_a_worker_that_is_not_ready_in_time_is_killed(hive, queen):
    code, error = await failure_of(hive.spawn("w1", ready_timeout_s=0.8, do="silent"))
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_START_FAILED")
    assert "not ready within 0.8 s" in error.message
    assert psutil.Process().children() == []
    assert (await queen.until_worker("w1", FAILED)).exit.exit_code == -9


async def test_a_program_that_cannot_be_started_is_an_error(start_hive):
    hive = await start_hive(worker_command=("/nonexistent/worker",))
    code, error = await failure_of(hive.spawn("w1"))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "No such file or directory" in error.message


async def test_an_exit_is_reported_within_a_second_and_forgotten_when_asked(hive, queen):
    queen.interval_s = 60
    await queen.direct()
    _, worker = await hive.spawn("w1")
    await queen.until_worker("w1", READY)
    psutil.Process(worker.pid).kill()
    failed = await queen.until_worker("w1", FAILED, timeout_s=1)
    assert failed.exit.exit_code == -9
    assert failed.exit.last_lines[0] == "loading test"
    assert (await hive.stop("w1")).exit_code == -9
    await queen.until(lambda stream: "w1" in stream.removed)


async def test_stop_drains_then_ends_the_process(hive, queen):
    _, worker = await hive.spawn("w1")
    await queen.until_worker("w1", READY)
    ended = await hive.stop("w1", grace_s=5)
    assert ended.exit_code == 0
    assert "drain asked" in ended.last_lines
    assert not psutil.pid_exists(worker.pid)
    stream = await queen.until(lambda stream: "w1" in stream.removed)
    assert "w1" not in stream.workers
    code, error = await failure_of(hive.stop("w1"))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, "WORKER_NOT_FOUND")


async def test_a_busy_worker_is_ended_when_its_grace_is_over(hive, queen):
    await hive.spawn("w1", busy="yes")
    stopping = asyncio.create_task(hive.stop("w1", grace_s=0.3))
    await queen.until_worker("w1", DRAINING)
    assert (await stopping).exit_code == 0


async def test_a_worker_that_does_not_listen_is_killed(start_hive):
    hive = await start_hive(term_wait_s=0.3)
    await hive.spawn("w1", do="deaf")
    assert (await hive.stop("w1")).exit_code == -9


async def test_a_worker_can_be_stopped_while_it_loads(hive, queen):
    call = hive.spawning("w1", do="silent")
    assert (await call.read()).worker.state == LOADING
    await hive.stop("w1")
    with pytest.raises(grpc.aio.AioRpcError, match="was stopped while it loaded"):
        await call.read()
    await queen.until(lambda stream: "w1" in stream.removed)


async def test_a_wrong_token_is_refused_and_the_worker_stays_loading(hive):
    code, error = await failure_of(hive.spawn("w1", do="wrong-token"))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "BAD_SPAWN_TOKEN" in error.message or "spawn token is not good" in error.message


async def test_a_token_is_good_once(hive, queen):
    await hive.spawn("w1", do="announce-twice")
    failed = await queen.until_worker("w1", FAILED)
    assert any("spawn token is not good" in line for line in failed.exit.last_lines)


@pytest.mark.parametrize("token", ["", "0" * 64, "nicht-ascii-ü"])
async def test_nobody_else_can_announce(hive, token):
    call = hive.spawning("w1", do="silent")
    await call.read()
    request = hive_agent_service_pb2.AnnounceWorkerRequest(spawn_token=token, port=1234)
    code, error = await failure_of(hive.stub.AnnounceWorker(request))
    assert (code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "BAD_SPAWN_TOKEN")
    (worker,) = (await hive.stub.ListWorkers(hive_agent_service_pb2.ListWorkersRequest())).workers
    assert worker.state == LOADING


async def test_every_bad_field_is_named_at_once(hive):
    spec = worker_pb2.WorkerSpec(
        worker_id="no spaces", engine="steam", slots=257, model_ref="file:relative", device_ids=["gpu7"]
    )
    spec.engine_options["a=b"] = "c"
    request = hive_agent_service_pb2.SpawnWorkerRequest(spec=spec)
    request.ready_timeout.seconds = -1
    code, error = await failure_of(hive.stub.SpawnWorker(request).read())
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert {fault.field for fault in error.faults} == {
        "spec.worker_id",
        "spec.engine",
        "spec.slots",
        "spec.model_ref",
        "spec.device_ids[0]",
        "spec.engine_options[a=b]",
        "ready_timeout",
    }


async def test_a_worker_is_told_the_devices_it_may_use(hive):
    spec = worker_pb2.WorkerSpec(
        worker_id="w1", engine="synthetic", slots=1, model_ref="synthetic:x", device_ids=["cpu"]
    )
    answers = [a.worker async for a in hive.stub.SpawnWorker(hive_agent_service_pb2.SpawnWorkerRequest(spec=spec))]
    command = psutil.Process(answers[-1].pid).cmdline()
    assert command[command.index("--device") + 1] == "cpu"


async def test_a_missing_model_and_a_corrupt_one_start_nothing(hive, tmp_path, write_gguf):
    code, error = await failure_of(hive.spawn("w1", model_ref=f"file:{tmp_path}/missing.gguf"))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    path = write_gguf(tmp_path / "bad.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    code, error = await failure_of(hive.spawn("w1", model_ref=f"file:{path}"))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE")
    assert "truncated: tensor data ends at byte" in error.message
    assert psutil.Process().children() == []
    good = write_gguf(tmp_path / "good.gguf")
    _, worker = await hive.spawn("w1", model_ref=f"file:{good}")
    command = psutil.Process(worker.pid).cmdline()
    assert command[command.index("--model") + 1] == str(good)
    assert command[command.index("--model-ref") + 1] == f"file:{good}"


async def test_the_real_worker_comes_up_under_a_hive_and_ends_with_it(start_hive, queen):
    hive = await start_hive(worker_command=(sys.executable, "-m", "worker"))
    _, worker = await hive.spawn("w1", slots=3, ready_timeout_s=30)
    assert (worker.state, worker.slots_total) == (READY, 3)
    async with dial(worker.address) as channel:
        stub = engine_service_pb2_grpc.EngineServiceStub(channel)
        told = await stub.GetStatus(engine_service_pb2.GetStatusRequest())
        assert (told.model_ref, told.engine, told.slots_available) == ("synthetic:test", "synthetic", 3)
    ended = await hive.stop("w1", grace_s=5)
    assert ended.exit_code == 0
    code, error = await failure_of(hive.spawn("w2", no_such_option="1"))
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_START_FAILED")
    assert "no_such_option" in error.message
