"""What there is now, looked up when somebody asks: the queue, workers, devices, reports, streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from queen.core.model import Device, HiveState, Priority, WorkerState
from queen.metrics.instruments import Gauge, Labels
from queen.metrics.jobs import MODEL, PRIORITY, TENANT
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.registry.tenants import TenantTable
from wire.clock import Clock

HIVE: Final = "rbee.hive.id"
DEVICE: Final = "rbee.device.id"

_MB: Final = 2**20

Points = Iterator[tuple[Labels, float]]


class Present:
    """The gauges of a queen. Hives are those that are registered, devices those that online ones report."""

    def __init__(
        self,
        jobs: JobTable,
        cluster: Cluster,
        tenants: TenantTable,
        model_name: Callable[[str], str],
        clock: Clock,
    ) -> None:
        self._jobs = jobs
        self._cluster = cluster
        self._tenants = tenants
        self._model = model_name
        self._clock = clock
        self.instruments = [
            Gauge(
                "rbee.queue.depth", "{job}", "Jobs that wait, by the class they go with",
                *(PRIORITY, TENANT), read=self._depth,
            ),
            Gauge("rbee.worker.count", "{worker}", "Workers of online hives", "rbee.worker.state", read=self._workers),
            Gauge(
                "rbee.worker.slots", "{slot}", "Slots, promised to a job (taken) or free",
                *(MODEL, "rbee.slot.state"), read=self._slots,
            ),
            Gauge("rbee.hive.count", "{hive}", "Hives that are registered", "rbee.hive.state", read=self._hives),
            Gauge(
                "rbee.device.memory.usage", "By", "Memory of a device: ours, foreign (other programs'), free",
                *(HIVE, DEVICE, "rbee.memory.state"), read=self._memory,
            ),
            Gauge(
                "rbee.device.memory.booked", "By", "Memory promised to the workers of a device",
                *(HIVE, DEVICE), read=self._booked,
            ),
            Gauge("rbee.hive.report.age", "s", "Since a hive's newest report", HIVE, read=self._age),
            Gauge(
                "rbee.streams.open", "{stream}", "Streams: of callers that read a job, of hives that report",
                "rbee.stream.kind", read=self._streams,
            ),
        ]  # fmt: skip

    def _depth(self) -> Points:
        self._jobs.queue.promote(self._clock.now())
        waiting: dict[Labels, float] = {
            (lane.value, tenant.id): 0 for tenant in self._tenants.list() for lane in Priority
        }
        waiting |= {(lane.value, tenant_id): count for lane, tenant_id, count in self._jobs.queue.depths()}
        yield from waiting.items()

    def _workers(self) -> Points:
        counted = Counter(worker.state for worker in self._cluster.list_online_workers())
        yield from (((state.value,), counted[state]) for state in WorkerState)

    def _slots(self) -> Points:
        counted: Counter[Labels] = Counter()
        for worker in self._cluster.list_online_workers():
            free, model = max(0, self._cluster.slots_available(worker.id)), self._model(worker.model_ref)
            counted[model, "free"] += free
            counted[model, "taken"] += worker.slots_total - free
        yield from counted.items()

    def _hives(self) -> Points:
        counted = Counter(hive.state for hive in self._cluster.list_hives())
        yield from (((state.value,), counted[state]) for state in HiveState)

    def _memory(self) -> Points:
        for hive in self._cluster.list_online_hives():
            for device in hive.devices:
                yield from (((hive.id, device.id, state), _MB * mb) for state, mb in _memory_mb(device))

    def _booked(self) -> Points:
        for hive in self._cluster.list_online_hives():
            claims = self._cluster.claims_mb(hive.id)
            yield from (((hive.id, device.id), _MB * claims.get(device.id, 0)) for device in hive.devices)

    def _age(self) -> Points:
        now = self._clock.now()
        for hive in self._cluster.list_hives():
            if hive.last_report_time is not None:
                yield (hive.id,), max(0.0, now - hive.last_report_time)

    def _streams(self) -> Points:
        yield ("caller",), sum(len(live.feed.readers) for live in self._jobs.in_memory())
        hives = self._cluster.list_hives()
        yield ("hive",), sum(self._cluster.connected_instance(hive.id) is not None for hive in hives)


def _memory_mb(device: Device) -> Iterator[tuple[str, int]]:
    """Yields what is known of a device's memory; what is ours is what neither is free nor foreign."""
    total, free, foreign = device.memory_total_mb, device.memory_free_mb, device.memory_foreign_mb
    if free is not None:
        yield "free", free
    if foreign is not None:
        yield "foreign", foreign
    if total is not None and free is not None and foreign is not None:
        yield "ours", max(0, total - free - foreign)
