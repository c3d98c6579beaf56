"""The lifecycle of the hive on the queen's own machine: started as a child process, watched, stopped in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import Process
from collections import deque
from pathlib import Path
from typing import Any, Final

from queen.core.model import Hive, HiveState
from queen.links.hives import HiveLinks
from queen.registry.cluster import Cluster
from wire import errors

log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 60.0
RECONNECT_TIMEOUT_S: Final = 15.0
"""A hive that outlived the queen before this one reconnects within its longest backoff of 2 s; with room to spare."""

DRAIN_S: Final = 30.0
KILL_AFTER_S: Final = 10.0
EXIT_ALREADY_RUNNING: Final = 75
"""EX_TEMPFAIL of sysexits.h: what a hive exits with when another of its name runs on this machine."""


class LocalHives:
    """Starts and stops hives on this machine. Hives of other machines are stopped, never started, here."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        links: HiveLinks,
        data_dir: Path,
        queen_address: str,
        listen: str,
        name: str,
        group: asyncio.TaskGroup,
    ) -> None:
        self._cluster = cluster
        self._links = links
        self._data_dir = data_dir
        self._queen_address = queen_address
        self._listen = listen
        self._name = name
        self._group = group
        self._processes: dict[str, Process] = {}
        self._lock = asyncio.Lock()

    async def start(self, hive_id: str) -> Hive:
        """Starts a hive ("": the local one) and returns it once it reports; at once when it does already.

        Raises `Unreachable` HIVE_START_FAILED with its last log lines, `NotFound` for a hive this queen cannot start.
        """
        name = hive_id or self._name
        known = self._cluster.get_hive(name)
        if name != self._name and known is None:
            raise errors.NotFound(f"there is no hive {name}; see: rbee hive list", "HIVE_NOT_FOUND")
        if name != self._name and not (known and known.online):
            raise errors.WrongState(
                f"hive {name} is on another machine; start it there with: rbee-hive --name {name} --queen HOST:PORT",
                "HIVE_NOT_LOCAL",
            )
        async with self._lock:
            known = self._cluster.get_hive(name)
            if known is None or not known.online:
                if known is None:
                    self._cluster.register_hive(Hive(name, managed=True))
                self._cluster.set_hive_state(name, HiveState.STARTING)
                try:
                    await self._start_process(name)
                except errors.RbeeError:
                    self._cluster.set_hive_state(name, HiveState.OFFLINE)
                    raise
        found = self._cluster.get_hive(name)
        assert found is not None, "it was registered above"
        return found

    async def stop(self, hive_id: str) -> Hive:
        """Stops a hive and its workers and returns it once they have ended; at once when it is not online."""
        hive = self._cluster.get_hive(hive_id)
        if hive is None:
            raise errors.NotFound(f"there is no hive {hive_id}; see: rbee hive list", "HIVE_NOT_FOUND")
        process = self._processes.pop(hive_id, None)
        if hive.online:
            if process is not None and process.pid != hive.pid:
                # One that found its name taken, and ends by itself; one that has not looked yet would find it free.
                if process.returncode is None:
                    process.terminate()
                    await self._ended(hive, process)
                process = None
            try:
                await self._links.shutdown(hive.address, DRAIN_S)
            except errors.Unreachable:
                if process is None:
                    raise
                process.terminate()
            await self._ended(hive, process)
            self._cluster.set_hive_state(hive_id, HiveState.OFFLINE)
        elif process is not None and process.returncode is None:
            process.terminate()
            await self._ended(hive, process)
        found = self._cluster.get_hive(hive_id)
        assert found is not None, "hives are not forgotten by stopping"
        return found

    async def stop_all(self) -> None:
        """Stops the hives this queen or one before her started, and only those."""
        managed = {hive.id for hive in self._cluster.list_hives() if hive.managed and hive.online}
        names = sorted(managed | self._processes.keys())
        for name, outcome in zip(
            names, await asyncio.gather(*(self.stop(name) for name in names), return_exceptions=True), strict=True
        ):
            if isinstance(outcome, BaseException):
                log.error("hive %s could not be stopped in order: %s", name, outcome)

    async def _start_process(self, name: str) -> None:
        log_file = self._data_dir / "logs" / f"hive-{name}.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hive", "--managed", "--name", name),
                *("--queen", self._queen_address, "--listen", self._listen, "--data-dir", str(self._data_dir)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._processes[name] = process
        self._group.create_task(self._watch(name, process), name=f"hive {name}")
        await self._online_or_exited(name, process, START_TIMEOUT_S)
        if process.returncode == EXIT_ALREADY_RUNNING:
            log.info("hive %s runs already; waiting for it to connect", name)
            await self._online_or_exited(name, None, RECONNECT_TIMEOUT_S)
        if not self._is_online(name):
            raise self._start_failure(name, process, log_file)

    async def _watch(self, name: str, process: Process) -> None:
        """Takes a hive whose process has ended by itself for offline at once, without waiting for its silence."""
        await process.wait()
        if self._processes.get(name) is not process:
            return  # it was told to end
        del self._processes[name]
        hive = self._cluster.get_hive(name)
        # A hive that outlived an earlier queen may have connected instead; then this one ends and that one stays.
        if hive is not None and hive.online and hive.pid == process.pid:
            log.error(
                "hive %s has ended with status %s; start it again with: rbee hive start", name, process.returncode
            )
            self._cluster.set_hive_state(name, HiveState.OFFLINE)

    async def _online_or_exited(self, name: str, process: Process | None, timeout_s: float) -> None:
        """Returns when the hive reports, its process has ended, or the time is over."""
        async with asyncio.TaskGroup() as group:
            tasks: set[asyncio.Task[Any]] = {group.create_task(self._cluster.until(lambda: self._is_online(name)))}
            if process is not None:
                tasks.add(group.create_task(process.wait()))
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()

    def _start_failure(self, name: str, process: Process, log_file: Path) -> errors.Unreachable:
        self._processes.pop(name, None)
        with log_file.open(errors="replace") as lines:
            last = "".join(deque(lines, 8)).strip()
        if process.returncode is None:
            process.kill()
            how = f"did not report within {START_TIMEOUT_S:.0f} s"
        else:
            how = f"ended with status {process.returncode}"
        return errors.Unreachable(f"hive {name} {how}; its last log lines ({log_file}):\n{last}", "HIVE_START_FAILED")

    def _is_online(self, name: str) -> bool:
        hive = self._cluster.get_hive(name)
        return hive is not None and hive.state is HiveState.HEALTHY

    async def _ended(self, hive: Hive, process: Process | None) -> None:
        """Returns when a hive that was told to end has ended; a child that does not is killed."""
        if process is None:
            async with asyncio.timeout(KILL_AFTER_S):
                await self._cluster.until(lambda: self._cluster.connected_instance(hive.id) is None)
                if hive.managed:
                    await _process_end(hive.pid)
            return
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await process.wait()
        except TimeoutError:
            log.warning("hive %s did not end within %.0f s; killing it", hive.id, KILL_AFTER_S)
            process.kill()
            await process.wait()


async def _process_end(pid: int) -> None:
    """Returns when a process of this machine that is nobody's child here has ended, where one can wait so."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not on Linux; or it has ended
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
