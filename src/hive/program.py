"""The hive put together: what is built, in which order it starts, and in which order it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from hive import convert, ending
from hive.config import Settings
from hive.devices.cpu import CpuReader
from hive.devices.nvidia import NvidiaReader
from hive.devices.port import DeviceReader
from hive.ending import Ending
from hive.links.worker import WorkerLink
from hive.lock import name_lock
from hive.models.catalogue import Catalogue
from hive.processes.ports import Launch
from hive.processes.supervisor import Supervisor
from hive.services.agent import HiveAgentService
from hive.telemetry.sampling import Sampler
from hive.telemetry.stream import QueenStream
from rbee.v1 import hive_agent_service_pb2, hive_pb2, telemetry_service_pb2
from wire import errors, span_messages
from wire.channel import is_loopback, split_address
from wire.clock import Clock
from wire.server import Server
from wire.spans import Recorder

log = logging.getLogger(__name__)

SIGNAL_GRACE_S: Final = 30.0
_ANSWER_S: Final = 1.0
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound
"""Addresses that mean "all of this machine's", and the one of each kind that programs on it can dial."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What a hive takes from its surroundings. `draw` returns numbers from 0 to 1; `instance_id` differs each start."""

    clock: Clock
    draw: Callable[[], float]
    instance_id: str
    launch: Launch


async def run(settings: Settings, sources: Sources) -> int:
    """Runs a hive until it is asked to end and returns the process's exit status; no child outlives it.

    Raises `AlreadyExists` HIVE_EXISTS and `WrongState` PORT_IN_USE or DATA_DIR_UNUSABLE at start.
    """
    end = Ending()
    with name_lock(settings.data_dir, settings.name):
        try:
            async with asyncio.TaskGroup() as tasks:
                await _Hive(settings, sources, tasks, end).run()
        except* errors.RbeeError as group:
            raise group.exceptions[0] from None
    return end.exit_code


class _Hive:
    """The objects of one run."""

    def __init__(self, settings: Settings, sources: Sources, tasks: asyncio.TaskGroup, end: Ending) -> None:
        self._settings = settings
        self._sources = sources
        self._tasks = tasks
        self._end = end
        self._address = ""
        self._serving: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        self._supervisor = Supervisor(
            tasks=tasks,
            launch=sources.launch,
            serving=self._serving,
            link=WorkerLink(),
            clock=sources.clock,
            on_change=self._changed,
        )
        self._catalogue = Catalogue(settings.model_dirs)
        self._sampler = Sampler(
            _device_readers(), self._supervisor, self._catalogue, settings.model_dirs[0], sources.clock
        )
        self._stream = QueenStream(
            settings.queen,
            hello=self._hello,
            take=self._sampler.take,
            interval_s=settings.report_interval_s,
            clock=sources.clock,
            draw=sources.draw,
            on_refused=self._refused,
        )
        self._server = Server("rbee-hive")

    async def run(self) -> None:
        """Serves and reports until asked to end, then stops the workers, the stream and the server, in this order."""
        self._listen_to_signals()
        try:
            await self._start()
            reporting = self._tasks.create_task(self._stream.run())
            watching = (
                self._tasks.create_task(self._catalogue.watch(self._settings.report_interval_s, self._changed)),
                self._tasks.create_task(self._watch_for_orphanhood()),
            )
            await self._end.requested()
            log.info("hive %s stops", self._settings.name)
            await self._server.refuse_new()
            await self._supervisor.stop_all(self._end.grace_s)
            self._stream.close()
            await asyncio.wait([reporting], timeout=2 * _ANSWER_S)
            for task in (reporting, *watching):
                task.cancel()
        finally:
            self._supervisor.kill_all()
            await self._server.stop(_ANSWER_S)

    async def _start(self) -> None:
        self._server.add(
            hive_agent_service_pb2.DESCRIPTOR.services_by_name["HiveAgentService"],
            HiveAgentService(
                supervisor=self._supervisor,
                catalogue=self._catalogue,
                sampler=self._sampler,
                hello=self._hello,
                on_shutdown=lambda: self._end.request(ending.OK),
                recorder=Recorder("rbee-hive", self._sources.clock, span_messages.carry, instance=self._settings.name),
            ),
        )
        # Models and devices are known before anybody can ask, so that the first hello names them.
        await self._catalogue.refresh()
        await self._sampler.take()
        listen_host, _ = split_address(self._settings.listen)
        if not is_loopback(listen_host):
            log.warning(
                "listening on %s: whoever reaches it can start workers here; keep it behind a firewall", listen_host
            )
        port = await self._server.start(self._settings.listen)
        self._address = self._settings.advertise or f"{_reachable_host(listen_host, self._settings.queen)}:{port}"
        self._serving.set_result((_callback_address(listen_host, port), self._address.rpartition(":")[0]))
        log.info(
            "hive %s serves on %s: %d models, devices %s",
            self._settings.name,
            self._address,
            len(self._catalogue.models),
            ", ".join(device.id for device in self._sampler.devices),
        )

    async def _hello(self) -> telemetry_service_pb2.HiveHello:
        mode = hive_pb2.HIVE_MODE_LOCAL if self._settings.managed else hive_pb2.HIVE_MODE_NETWORK
        return telemetry_service_pb2.HiveHello(
            hive_id=self._settings.name,
            address=self._address,
            instance_id=self._sources.instance_id,
            version=_version(),
            platform=f"{platform.system().lower()} {platform.machine()}",
            devices=map(convert.device_to_wire, self._sampler.devices),
            models=map(convert.model_to_wire, self._catalogue.models),
            mode=mode,
            pid=os.getpid(),
        )

    async def _watch_for_orphanhood(self) -> None:
        """Frees the memory of idle workers once the queen has been gone for long; a managed hive then ends."""
        timeout_s = self._settings.orphan_timeout_s
        while True:
            await asyncio.sleep(min(1.0, timeout_s))
            if self._stream.lost_for_s() < timeout_s:
                continue
            await self._supervisor.stop_idle()
            if self._settings.managed and self._supervisor.running_count == 0:
                log.warning("the queen that started this hive has been gone for %g s: it ends", timeout_s)
                self._end.request(ending.OK)

    def _changed(self) -> None:
        self._stream.wake()

    def _refused(self, failure: errors.RbeeError) -> None:
        log.error("the queen at %s refuses this hive: %s", self._settings.queen, failure.message)
        self._end.request(ending.TAKEN if isinstance(failure, errors.AlreadyExists) else ending.USAGE)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._end.is_requested:
            log.warning("a second signal: workers are killed")
            self._supervisor.kill_all()
        self._end.request(ending.OK, SIGNAL_GRACE_S)


def _device_readers() -> tuple[DeviceReader, ...]:
    nvidia = NvidiaReader.open()
    return (CpuReader(),) if nvidia is None else (nvidia, CpuReader())


def _callback_address(listen_host: str, port: int) -> str:
    """Returns the address under which programs on this machine reach a server that listens on `listen_host`."""
    host = _WILDCARDS.get(listen_host, listen_host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reachable_host(listen_host: str, queen: str) -> str:
    """Returns the host part of our address as the queen can dial it: the address packets to her leave from.

    Connecting a datagram socket sends nothing; it only asks the routing table.
    """
    if listen_host not in _WILDCARDS:
        return f"[{listen_host}]" if ":" in listen_host else listen_host
    family = socket.AF_INET6 if ":" in listen_host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(split_address(queen))
            host = str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _version() -> str:
    try:
        return version("rbee")
    except PackageNotFoundError:
        return "0"
