import asyncio
import contextlib
import os
import signal

import grpc
import psutil
import pytest

from hive import ending
from hive.config import KEYS, bundled_model_dir, read_settings
from rbee.v1 import hive_agent_service_pb2, hive_agent_service_pb2_grpc, hive_pb2, worker_pb2
from wire import errors
from wire.channel import dial

READY, FAILED = worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_FAILED


async def test_hello_says_who_it_is_and_the_first_report_everything(start_hive, queen, tmp_path, write_gguf):
    (tmp_path / "models").mkdir()
    write_gguf(tmp_path / "models" / "a.gguf")
    hive = await start_hive(managed=True)
    stream = await queen.until(lambda stream: len(stream.reports) >= 3)
    hello = stream.hello
    assert (hello.hive_id, hello.mode, hello.pid) == ("h1", hive_pb2.HIVE_MODE_LOCAL, os.getpid())
    assert [model.name for model in hello.models] == ["a"]
    assert "cpu" in [device.id for device in hello.devices]
    first, *later = stream.reports
    assert first.full
    assert [model.name for model in first.models] == ["a"]
    assert first.disk_free_bytes > 0
    assert not any(report.full or report.models_changed for report in later)
    assert [report.number for report in stream.reports] == list(range(1, len(stream.reports) + 1))
    answer = await hive.stub.GetCapabilities(hive_agent_service_pb2.GetCapabilitiesRequest())
    assert answer.hello.instance_id == hello.instance_id
    assert list(answer.engines) == ["llamacpp", "synthetic"]


async def test_models_are_listed_inspected_and_reported_when_they_come(hive, queen, tmp_path, write_gguf):
    (tmp_path / "models").mkdir()
    path = write_gguf(tmp_path / "models" / "new.gguf")
    stream = await queen.until(lambda stream: stream.models)
    assert stream.models[0].model_ref == f"file:{path}"
    listed = await hive.stub.ListModels(hive_agent_service_pb2.ListModelsRequest())
    assert [model.name for model in listed.models] == ["new"]
    request = hive_agent_service_pb2.InspectModelRequest(path=str(path))
    assert (await hive.stub.InspectModel(request)).model.family == "llama"


async def test_what_is_not_served_yet_says_so(hive):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await hive.stub.DeleteModel(hive_agent_service_pb2.DeleteModelRequest())
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_directive_asks_for_a_full_report(hive, queen):
    seen = len(queen.streams[-1].reports)
    await queen.direct(full_report=True)
    stream = await queen.until(lambda stream: any(report.full for report in stream.reports[seen:]))
    after = len(stream.reports)
    await queen.until(lambda stream: len(stream.reports) > after + 1)
    assert not any(report.full for report in stream.reports[after:])


async def test_after_a_queens_restart_the_hive_starts_over_and_its_workers_go_on(hive, queen):
    _, worker = await hive.spawn("w1")
    instance_id = queen.streams[-1].hello.instance_id
    await queen.stop()
    queen.streams.clear()
    await queen.start()
    stream = await queen.until(lambda stream: stream.reports)
    assert stream.hello.instance_id == instance_id
    assert stream.reports[0].full
    assert stream.reports[0].number == 1
    assert stream.workers["w1"].pid == worker.pid
    assert stream.workers["w1"].spec.worker_id == "w1"


async def test_being_away_and_back_is_logged_once_each(hive, queen, caplog):
    caplog.set_level("INFO", logger="hive.telemetry.stream")
    await queen.stop()
    queen.streams.clear()
    tries = asyncio.Semaphore(0)

    def hang_up(reader, writer):
        writer.close()
        tries.release()

    async with await asyncio.start_server(hang_up, "127.0.0.1", queen.port), asyncio.timeout(10):
        for _ in range(4):
            await tries.acquire()
    await queen.start()
    await queen.until(lambda stream: len(stream.reports) > 1)
    lost, found = caplog.messages[-2:]  # before them, on a busy machine, that she was there at first
    assert "is not there" in lost
    assert "is there" in found
    assert sum("is not there" in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (errors.AlreadyExists("another live hive is named h1", "HIVE_EXISTS"), ending.TAKEN),
        (errors.Invalid("its address is not one"), ending.USAGE),
    ],
)
async def test_a_hive_that_is_refused_stops_its_workers_and_ends(hive, queen, refusal, code):
    await hive.spawn("w1")
    queen.refusal = refusal
    await queen.stop()
    await queen.start()
    async with asyncio.timeout(15):
        assert await hive.task == code
    assert psutil.Process().children() == []


async def test_shutdown_stops_the_workers_answers_and_ends(hive, queen):
    _, worker = await hive.spawn("w1")
    stream = await queen.until_worker("w1", READY) and queen.streams[-1]
    await hive.stub.Shutdown(hive_agent_service_pb2.ShutdownRequest())
    assert not psutil.pid_exists(worker.pid)
    assert await hive.task == 0
    assert stream.ended_in_order
    assert stream.workers == {}


async def test_no_worker_outlives_a_hive_that_is_cancelled_or_breaks(hive):
    await asyncio.gather(hive.spawn("w1"), hive.spawn("w2", do="deaf"))
    loading = hive.spawning("w3", do="silent")
    await loading.read()
    children = psutil.Process().children()
    hive.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hive.task
    psutil.wait_procs(children, timeout=5)
    assert psutil.Process().children() == []


async def test_orphaned_idle_workers_end_and_with_them_a_managed_hive(start_hive, queen):
    hive = await start_hive(managed=True, orphan_timeout_s=0.5)
    await hive.spawn("w1")
    await queen.stop()
    async with asyncio.timeout(10):
        assert await hive.task == 0
    assert psutil.Process().children() == []


async def test_an_orphan_keeps_busy_workers_and_an_unmanaged_hive_stays(start_hive, queen):
    hive = await start_hive(orphan_timeout_s=0.3)
    _, idle = await hive.spawn("idle")
    _, busy = await hive.spawn("busy", busy="yes")
    await queen.stop()
    with contextlib.suppress(psutil.NoSuchProcess):
        await asyncio.to_thread(psutil.Process(idle.pid).wait, 10)
    assert [child.pid for child in psutil.Process().children()] == [busy.pid]
    assert not hive.task.done()


async def test_sigterm_ends_the_process_and_its_workers_in_order(start_process, queen):
    process = await start_process("--log-format", "json")
    stream, hive_children = await spawned(process, queen)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    assert not any(child.is_running() for child in hive_children)
    assert stream.ended_in_order


async def test_a_second_signal_does_not_wait(start_process, queen):
    process = await start_process()
    _, (child,) = await spawned(process, queen, do="deaf", busy="yes")
    process.send_signal(signal.SIGINT)
    await queen.until_worker("w1", worker_pb2.WORKER_STATE_DRAINING)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(4):
        assert await process.wait() == 0
    assert not child.is_running()


async def test_workers_of_a_killed_hive_end_by_themselves(start_process, queen):
    process = await start_process()
    _, (child,) = await spawned(process, queen)
    process.kill()
    await asyncio.to_thread(child.wait, 5)


async def test_a_second_hive_of_one_name_on_one_machine_is_refused(start_process, queen, tmp_path):
    first = await start_process()
    await queen.until(lambda stream: stream.reports)
    second = await start_process()
    _, said = await second.communicate()
    assert second.returncode == 75
    assert f"a hive named h1 runs already on this machine (process {first.pid})".encode() in said
    other = await start_process(name="h2")
    await queen.until(lambda stream: stream.hello.hive_id == "h2")
    assert (tmp_path / "data" / "hives" / "h2.lock").read_text() == f"{other.pid}\n"
    first.kill()
    await first.wait()
    await start_process()
    await queen.until(lambda stream: stream.hello.hive_id == "h1")


async def test_a_port_in_use_and_a_wrong_name_are_told_plainly(start_process, queen):
    process = await start_process("--listen", f"127.0.0.1:{queen.port}")
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"it is in use" in said
    assert b"Traceback" not in said
    process = await start_process(name="two words")
    _, said = await process.communicate()
    assert process.returncode == 64
    assert b"--name: 1 to 63 letters" in said


async def spawned(process, queen, **options):
    """Starts a worker on a hive in its own process; returns the hive's stream and its child processes."""
    stream = await queen.until(lambda stream: stream.hello.pid == process.pid and stream.reports)
    spec = worker_pb2.WorkerSpec(
        worker_id="w1", model_ref="synthetic:x", engine="synthetic", slots=1, engine_options=options
    )
    async with dial(stream.hello.address) as channel:
        stub = hive_agent_service_pb2_grpc.HiveAgentServiceStub(channel)
        async for _ in stub.SpawnWorker(hive_agent_service_pb2.SpawnWorkerRequest(spec=spec)):
            pass
    return stream, psutil.Process(process.pid).children()


def test_flags_go_before_the_environment_and_that_before_defaults(tmp_path):
    environment = {"RBEE_HIVE_NAME": "env", "RBEE_QUEEN": "10.0.0.1:7", "RBEE_MODEL_DIR": f"{tmp_path}/a:{tmp_path}/b"}
    settings = read_settings(["--name", "flag", "--orphan-timeout", "2m"], environment)
    assert (settings.name, settings.queen, settings.listen) == ("flag", "10.0.0.1:7", "127.0.0.1:7835")
    assert settings.orphan_timeout_s == 120
    assert settings.model_dirs[:2] == (tmp_path / "a", tmp_path / "b")
    assert read_settings(["--name", "n", "--model-dir", str(tmp_path)], environment).model_dirs[0] == tmp_path
    default = read_settings(["--data-dir", str(tmp_path)], {})
    assert default.model_dirs[0] == tmp_path / "models"
    assert default.model_dirs[-1] == bundled_model_dir()
    assert (default.report_interval_s, default.orphan_timeout_s, default.managed) == (1.0, 600.0, False)


def test_every_bad_setting_is_named_at_once():
    with pytest.raises(errors.Invalid) as caught:
        read_settings(["--queen", "x", "--name", "a b", "--report-interval", "soon", "--log-format", "xml"], {})
    assert [fault.field for fault in caught.value.faults] == ["--queen", "--name", "--report-interval", "--log-format"]


def test_help_names_every_setting_with_its_variable(capsys):
    with pytest.raises(SystemExit):
        read_settings(["--help"], {})
    shown = capsys.readouterr().out
    for key in KEYS:
        assert key.option in shown
        assert key.variable in shown
