"""The queen's metrics: all her instruments, the pauses of her loop, and who is sent them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Final, ParamSpec, Protocol

from queen.metrics import prometheus
from queen.metrics.cluster import Present
from queen.metrics.instruments import Histogram, Instrument
from queen.metrics.jobs import SHORT_S, JobMetrics, ModelNames
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.registry.tenants import TenantTable
from wire.clock import Clock

Facts = ParamSpec("Facts")


def each(*told: Callable[Facts, None]) -> Callable[Facts, None]:
    """Returns a function that tells all of these what it is told."""

    def tell(*facts: Facts.args, **named: Facts.kwargs) -> None:
        for one in told:
            one(*facts, **named)

    return tell


LAG_EVERY_S: Final = 1.0
"""How often it is measured how late the loop is."""


class Receiver(Protocol):
    """Where metrics are sent to, each `every_s` seconds."""

    every_s: float

    async def send(self, instruments: list[Instrument], began: float, now: float) -> None:
        """Sends the values of instruments as they are; `began`: since when they count. Raises nothing."""
        ...

    async def close(self) -> None:
        """Ends the way there, within some seconds."""
        ...


class Meter:
    """Counts while somebody may look. `jobs` is told what happens; all else is looked up when it is asked for."""

    def __init__(
        self, cluster: Cluster, clock: Clock, instance_id: str, receiver: Receiver | None, *, served: bool
    ) -> None:
        self._on = served or receiver is not None
        self._cluster, self._clock = cluster, clock
        self._receiver = receiver
        self._began = clock.now()
        self._resource = {
            "service.name": "queen-rbee",
            "service.version": version("rbee"),
            "service.instance.id": instance_id,
        }
        self._names = ModelNames(cluster.models)
        self.jobs = JobMetrics(self._names, on=self._on)
        self._lag = Histogram(
            "rbee.queen.loop.lag", "s", f"How late the loop is, measured each {LAG_EVERY_S:g} s", bounds=SHORT_S
        )
        self._instruments: list[Instrument] = [*self.jobs.instruments, self._lag]

    def look_at(self, jobs: JobTable, tenants: TenantTable) -> None:
        """Adds what there is: jobs, and the cluster."""
        self._instruments += Present(jobs, self._cluster, tenants, self._names, self._clock).instruments

    def parts(self) -> Iterator[str]:
        """Yields all values as Prometheus reads them, some at a time."""
        return prometheus.parts(self._instruments, self._resource)

    async def run(self) -> None:
        """Measures the loop, and sends what there is to send, until cancelled."""
        if not self._on:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._measure_lag(), name="loop lag")
            if self._receiver is not None:
                group.create_task(self._send(self._receiver), name="metrics")

    async def close(self) -> None:
        """Sends the last values."""
        if self._receiver is not None:
            await self._receiver.send(self._instruments, self._began, self._clock.now())
            await self._receiver.close()

    async def _measure_lag(self) -> None:
        while True:
            due = self._clock.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.record(max(0.0, self._clock.monotonic() - due))

    async def _send(self, receiver: Receiver) -> None:
        while True:
            await asyncio.sleep(receiver.every_s)
            await receiver.send(self._instruments, self._began, self._clock.now())
