"""TelemetryService: what the machines report, and the cluster as viewers see it."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration

from queen.core.model import Hive, HiveState
from queen.core.ports import Store
from queen.links import reports
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable
from queen.services.cluster_view import ClusterView
from rbee.v1 import telemetry_service_pb2, telemetry_service_pb2_grpc
from wire import errors
from wire.channel import split_address
from wire.clock import Clock

pb = telemetry_service_pb2
log = logging.getLogger(__name__)

REPORT_INTERVAL: Final = Duration(seconds=1)
WATCH_S: Final = 1.0
LEAST_WATCH_S: Final = 0.1
MOST_WATCH_S: Final = 3600.0
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,63}")


class TelemetryService(telemetry_service_pb2_grpc.TelemetryServiceServicer):
    """Keeps the registry as the hives see their machines. `instance_id` was drawn when this queen started.

    `heard` is called with the name of a hive after each of its reports; `leaving`, once set, ends all viewers' streams.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        jobs: JobTable,
        store: Store,
        clock: Clock,
        instance_id: str,
        heard: Callable[[str], None],
        leaving: asyncio.Event,
    ) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._instance_id = instance_id
        self._heard = heard
        self._leaving = leaving

    async def Report(self, request_iterator: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Serves one hive's stream: hello, then reports, until it ends."""
        first = await context.read()
        if not isinstance(first, pb.ReportRequest) or not first.HasField("hello"):
            raise errors.invalid([errors.FieldFault("hello", "the first message of a stream is hello")])
        hello = first.hello
        self._check(hello)
        hive_id = hello.hive_id
        self._greet(hello)
        try:
            await context.write(self._directive())
            while isinstance(message := await context.read(), pb.ReportRequest):
                if message.report.full or self._knows(hive_id):
                    self._apply(hive_id, message.report)
                else:
                    await context.write(self._directive(full=True))
        finally:
            self._cluster.disconnect(hive_id, hello.instance_id)
            log.info("hive %s has ended its report stream", hive_id)

    async def WatchCluster(self, request: pb.WatchClusterRequest, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Streams the cluster as it is, then what changes."""
        interval_s = request.interval.ToNanoseconds() / 1e9 or WATCH_S
        if not LEAST_WATCH_S <= interval_s <= MOST_WATCH_S:
            expected = f"{LEAST_WATCH_S:g} s to {MOST_WATCH_S:g} s, not {interval_s:g} s"
            raise errors.invalid([errors.FieldFault("interval", expected)])
        view = ClusterView(self._cluster, self._jobs, self._clock)
        while True:
            await context.write(await view.look())
            try:
                async with asyncio.timeout(interval_s):
                    await self._leaving.wait()
            except TimeoutError:
                continue
            raise errors.Unreachable("the queen is stopping; watch again", "QUEEN_STOPPING", retry_after_s=5.0)

    def _check(self, hello: pb.HiveHello) -> None:
        faults = []
        if not _NAME.fullmatch(hello.hive_id):
            faults.append(errors.FieldFault("hello.hive_id", "1 to 63 letters, digits, '.', '_' and '-'"))
        try:
            split_address(hello.address)
        except errors.Invalid as error:
            faults.append(errors.FieldFault("hello.address", error.message))
        if not hello.instance_id:
            faults.append(errors.FieldFault("hello.instance_id", "an id drawn when the hive started"))
        if faults:
            raise errors.invalid(faults, "hello")
        known = self._cluster.get_hive(hello.hive_id)
        other = self._cluster.connected_instance(hello.hive_id) not in (None, hello.instance_id)
        # An instance that was cut off may still seem connected; its silence tells.
        if other and known is not None and known.state is HiveState.HEALTHY:
            raise errors.AlreadyExists(
                f"another live hive is named {hello.hive_id}; choose another name with: rbee-hive --name NAME",
                "HIVE_EXISTS",
            )

    def _greet(self, hello: pb.HiveHello) -> None:
        hive_id = hello.hive_id
        if self._cluster.get_hive(hive_id) is None:
            self._cluster.register_hive(Hive(hive_id))
        self._cluster.connect(hive_id, hello.instance_id)
        self._cluster.introduced(hive_id, reports.hello_changes(hello))
        hive = self._cluster.get_hive(hive_id)
        assert hive is not None, "it was registered above"
        self._store.save_hive(hive)
        log.info("hive %s reports from %s", hive_id, hello.address)

    def _knows(self, hive_id: str) -> bool:
        """Tells whether a report of what has changed is of use: what an offline hive said before is forgotten."""
        hive = self._cluster.get_hive(hive_id)
        return hive is not None and hive.online

    def _apply(self, hive_id: str, report: pb.HiveReport) -> None:
        now = self._clock.now()
        hive = self._cluster.get_hive(hive_id)
        assert hive is not None, "its hello came first"
        for worker in report.workers:
            self._cluster.heard_worker(hive_id, worker.worker_id, now, reports.worker_changes(worker))
        for worker_id in report.removed_worker_ids:
            self._cluster.forget_worker(worker_id)
        if report.full:
            self._cluster.keep_workers(hive_id, frozenset(worker.worker_id for worker in report.workers))
        # Last, so that a hive that comes back is healthy only once its workers are known.
        self._cluster.heard(hive_id, now, reports.report_changes(report, hive))
        self._heard(hive_id)

    def _directive(self, *, full: bool = False) -> pb.ReportResponse:
        return pb.ReportResponse(queen_instance_id=self._instance_id, report_interval=REPORT_INTERVAL, full_report=full)
