"""Disks fill up, files rot, servers go away: the queen says so, loses nothing she acknowledged, and comes back."""

import asyncio
import errno
import itertools
import os
import resource
import sqlite3
import subprocess
import time
from contextlib import contextmanager

import psutil
import pytest

import rbee
from postgres import running_postgres
from programs import rbee as keeper
from programs import running_queen, wait_for
from wire import errors

PAGE = 4096


def refused_to_start(queen):
    """Returns what a queen says who ends at once."""
    said_before = len(queen.log)
    assert queen.launch().wait(60) == 1, queen.log
    said = queen.log[said_before:]
    assert "Traceback" not in said
    return said


def rot(path):
    """Destroys all pages but the first, as they are on disk, and lets everybody notice."""
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS noticed (id)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(b"\xa5" * (path.stat().st_size - PAGE))


@contextmanager
def small_disk(folder, size="48m"):
    """Yields a folder on a file system of its own, where this user may make one.

    There is room for all 408 jobs of 20 kB, should they wait at once, in the database and once more in its log.
    """
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], stderr=subprocess.PIPE)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Leaves no byte free."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while filler.write(b"\0" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def spawn_synthetic(queen):
    pace = ("--engine-option", "tokens_per_second=0", "--engine-option", "completion_tokens=2", "--slots", "16")
    spawned = keeper(queen, "worker", "spawn", "synthetic:s", "--engine", "synthetic", *pace)
    assert spawned.returncode == 0, spawned.stderr


async def infer(client):
    return await client.infer(model="synthetic:s", prompt="What is a hive?").text()


class Submitting:
    """Hands in one big job after the other, each again until it is accepted; notes what was acknowledged."""

    def __init__(self, client):
        self._client = client
        self._numbers = itertools.count()
        self.acknowledged = {}
        self.refused = []
        self._news = asyncio.Event()

    async def one(self):
        request_id = f"r-{next(self._numbers)}"
        while True:
            try:
                job = await self._client.submit(
                    model="synthetic:s", prompt="x" * 20_000, priority="batch", request_id=request_id
                )
            except errors.Unreachable as error:
                self.refused.append(error)
                self._news.set()
                await asyncio.sleep(error.retry_after_s)
            else:
                self.acknowledged[request_id] = job.id
                self._news.set()
                return

    async def until(self, holds):
        while not holds():
            self._news.clear()
            await self._news.wait()

    async def several(self, count):
        await asyncio.gather(*(self.one() for _ in range(count)))

    def check_refusals(self, words):
        assert self.refused
        for error in self.refused:
            assert error.reason == "STORAGE_UNAVAILABLE"
            assert error.retry_after_s
            assert words in error.message

    async def check_all_there(self):
        found = {job.id async for job in self._client.list_jobs()}
        assert set(self.acknowledged.values()) <= found
        assert len(set(self.acknowledged.values())) == len(self.acknowledged)


def test_a_damaged_database_is_named_with_what_to_do(own_queen):
    own_queen.start(hive=False)
    assert own_queen.stop() == 0
    database = own_queen.data_dir / "queen.db"
    whole = database.read_bytes()
    for damaged in (whole[:PAGE] + b"\xa5" * (len(whole) - PAGE), b"\0 not a database" * 1000):
        database.write_bytes(damaged)
        said = refused_to_start(own_queen)
        assert f"the queen's database {database} cannot be used" in said
        assert f"restore it from a backup, or begin with an empty one by: mv {database} {database}.damaged" in said
    database.write_bytes(whole)
    own_queen.start(hive=False)


async def test_pages_that_rot_while_she_runs_are_told_and_tokens_flow_on(tmp_path):
    with running_queen(tmp_path) as queen:
        spawn_synthetic(queen)
        async with rbee.connect(queen.address) as client:
            await client.submit(model="synthetic:s", prompt="one")
            rot(queen.data_dir / "queen.db")
            submits = (client.submit(model="synthetic:s", prompt="two") for _ in range(100))
            with pytest.raises(errors.Unreachable, match="It is damaged: restore it from a backup") as caught:
                await asyncio.gather(*submits)
            assert caught.value.reason == "STORAGE_UNAVAILABLE"
            assert await infer(client)
        assert "Traceback" not in queen.log


def test_a_database_that_may_not_be_written_is_named(own_queen, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk) as mounted:
        own_queen._flags = ("--database", f"sqlite:///{disk}/queen.db")
        own_queen.start(hive=False)
        assert own_queen.stop() == 0
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        elif os.geteuid() != 0:
            (disk / "queen.db").chmod(0o400)
            disk.chmod(0o500)
        else:
            pytest.skip("root without the right to mount can write everywhere")
        said = refused_to_start(own_queen)
        assert f"the database {disk}/queen.db cannot be opened for writing" in said
        assert "Check its permissions" in said
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        else:
            disk.chmod(0o700)
            (disk / "queen.db").chmod(0o600)
        own_queen.start(hive=False)


async def test_a_full_disk_refuses_submits_and_nothing_else(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk) as mounted, running_queen(tmp_path, "--database", f"sqlite:///{disk}/queen.db") as queen:
        spawn_synthetic(queen)
        process = psutil.Process(queen.process.pid)
        async with rbee.connect(queen.address) as client:
            submitting = Submitting(client)
            await submitting.several(8)
            if mounted:
                fill(disk)
            else:
                process.rlimit(resource.RLIMIT_FSIZE, ((disk / "queen.db-wal").stat().st_size + PAGE, -1))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(submitting.several(400))
                await submitting.until(lambda: submitting.refused or task.done())
                for _ in range(5):
                    assert await infer(client)
                there = [job.id async for job in client.list_jobs()]
                assert set(submitting.acknowledged.values()) <= set(there)
                assert len(there) >= len(submitting.acknowledged) + 5, "those answered meanwhile are told from memory"
                assert not task.done()
                if mounted:
                    (disk / "filler").unlink()
                else:
                    process.rlimit(resource.RLIMIT_FSIZE, (-1, -1))
            assert len(submitting.acknowledged) == 408
            submitting.check_refusals("Free disk space" if mounted else "cannot be written")
        assert "Traceback" not in queen.log
        queen.kill()
        queen.start()
        async with rbee.connect(queen.address) as client:
            submitting._client = client
            await submitting.check_all_there()


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


async def test_a_server_that_goes_away_for_ten_seconds_costs_nothing_that_was_acknowledged(postgres, tmp_path):
    with running_queen(tmp_path, "--database", postgres.database("away")) as queen:
        spawn_synthetic(queen)
        async with rbee.connect(queen.address) as client:
            submitting = Submitting(client)
            stop = asyncio.Event()

            async def busy():
                while not stop.is_set():
                    await submitting.one()

            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(busy())
                await submitting.until(lambda: len(submitting.acknowledged) >= 50)
                await asyncio.to_thread(postgres.stop)
                gone_at = time.monotonic()
                while time.monotonic() < gone_at + 10:
                    assert await infer(client), "callers who wait for their tokens do not notice"
                    await asyncio.sleep(0.2)
                before = len(submitting.acknowledged)
                await asyncio.to_thread(postgres.start)
                await submitting.until(lambda: len(submitting.acknowledged) >= before + 50)
                stop.set()
            submitting.check_refusals("Check that the server runs")
            assert "Traceback" not in queen.log
            await submitting.check_all_there()


def test_a_queen_waits_for_a_server_that_is_not_there_yet(postgres, own_queen):
    own_queen._flags = ("--database", postgres.database("late"))
    postgres.stop()
    process = own_queen.launch()
    wait_for(lambda: "trying for" in own_queen.log, "she says what she waits for")
    assert process.poll() is None
    postgres.start()
    wait_for(lambda: "serves on" in own_queen.log, "she serves")
    assert own_queen.stop() == 0
    assert "Traceback" not in own_queen.log
