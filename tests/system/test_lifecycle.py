"""How the programs start and end, in order and otherwise."""

import signal
import subprocess
import sys

import pytest

import rbee
from programs import Queen, alive, running_queen, wait_for
from programs import rbee as keeper
from rbee.v1 import hive_pb2, job_pb2


def test_stopping_in_order_leaves_nothing(own_queen):
    own_queen.start()
    assert keeper(own_queen, "infer", "Hi", "--model", "copy", "--max-tokens", "3").returncode == 0
    assert len(own_queen.machines()) == 2
    assert own_queen.stop() == 0
    assert "stopped" in own_queen.log


async def test_a_stopping_queen_lets_streams_finish_and_takes_no_new_jobs(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        options = {"tokens_per_second": "20", "completion_tokens": "30"}
        await client.spawn_worker("synthetic:s", slots=1, engine_options=options)
        pieces = aiter(client.infer(model="synthetic:s", prompt="x"))
        await anext(pieces)
        own_queen.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "no new jobs" in own_queen.log, "the queen stops")
        with pytest.raises(rbee.Unreachable) as caught:
            [piece async for piece in client.infer(model="synthetic:s", prompt="y")]
        assert caught.value.reason == "QUEEN_STOPPING"
        assert len([piece async for piece in pieces]) > 5
    assert own_queen.process.wait(30) == 0


async def test_hives_and_workers_outlive_a_killed_queen_and_detached_jobs_go_on(own_queen):
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        options = {"tokens_per_second": "20", "completion_tokens": "100000"}
        worker = await client.spawn_worker("synthetic:k", slots=1, engine_options=options)
        running = await client.submit(model="synthetic:k", prompt="x", max_tokens=5)
        waiting = await client.submit(model="copy", prompt="What is a hive?", temperature=0.0)
        first, second = await client.get_job(running.id), await client.get_job(waiting.id)
        assert first.detached
        assert second.detached
        children = own_queen.machines()
        own_queen.kill()
        assert alive(children) == children
    own_queen.start()
    async with rbee.connect(own_queen.address) as client:
        (hive,) = [one async for one in client.hives()]
        assert hive.state == hive_pb2.HIVE_STATE_HEALTHY
        assert worker.id in [one.id async for one in client.workers()]
        for job in (running, waiting):
            _ = [piece async for piece in client.watch(job.id)]
            assert (await client.get_job(job.id)).state == job_pb2.JOB_STATE_COMPLETE
    own_queen.stop()
    assert not alive(children)


def test_a_killed_hive_leaves_no_worker(own_queen):
    own_queen.start()
    assert keeper(own_queen, "infer", "Hi", "--model", "copy", "--max-tokens", "3").returncode == 0
    hive, worker = sorted(own_queen.machines(), key=lambda one: one.create_time())
    hive.kill()
    wait_for(lambda: not alive([worker]), "the worker ends")
    wait_for(lambda: "has ended with status -9" in own_queen.log, "the queen sees it")
    said = keeper(own_queen, "infer", "Hi", "--model", "copy", "--max-tokens", "3")
    assert "no hive is online" in said.stderr
    assert keeper(own_queen, "hive", "start").returncode == 0
    assert keeper(own_queen, "infer", "Hi", "--model", "copy", "--max-tokens", "3").returncode == 0


def test_up_and_down_by_the_keeper(tmp_path):
    queen = Queen(tmp_path)
    try:
        first = keeper(queen, "up", "--detach", env_extra={"RBEE_QUEEN_HIVE_LISTEN": "127.0.0.1:0"})
        assert first.returncode == 0, first.stderr
        again = keeper(queen, "up", "--detach")
        assert again.returncode == 0, again.stderr
        assert "mill" in keeper(queen, "status").stdout or "healthy" in keeper(queen, "status").stdout
        assert keeper(queen, "down").returncode == 0
        assert keeper(queen, "down").returncode == 0, "nothing to stop is not an error"
        assert keeper(queen, "status").returncode == 4
    finally:
        queen.end_everything()


def test_two_queens_on_one_data_directory(own_queen, tmp_path):
    own_queen.start(hive=False)
    other = Queen(tmp_path)
    process = other.launch()
    assert process.wait(20) == 1
    assert f"another queen (process {own_queen.process.pid}) uses the data directory" in other.log


def test_two_queens_on_one_port(own_queen, tmp_path):
    own_queen.start(hive=False)
    said = subprocess.run(
        [sys.executable, "-m", "queen", "--listen", own_queen.address, "--data-dir", str(tmp_path / "other")],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert said.returncode == 1
    assert "it is in use" in said.stderr
    assert "--listen" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_queen_does_not_expose_herself(tmp_path):
    said = subprocess.run(
        [sys.executable, "-m", "queen", "--listen", "0.0.0.0:0", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert said.returncode == 64
    assert "needs TLS" in said.stderr


def test_a_second_queen_elsewhere_does_not_touch_the_first(own_queen, tmp_path):
    own_queen.start()
    with running_queen(tmp_path / "second"):
        pass
    assert keeper(own_queen, "infer", "Hi", "--model", "copy", "--max-tokens", "3").returncode == 0
