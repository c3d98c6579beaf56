"""Metrics on their way to a collector, by the SDK's exporters. Imported only where one is named."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from queen.metrics import instruments as ours
from queen.metrics.instruments import Instrument, Labels
from wire import otlp
from wire.spans import nanoseconds

log = logging.getLogger(__name__)

CLOSE_S: Final = 3.0
"""How long the last values may take to be sent when the queen ends: a collector that is gone must not keep her."""
EVERY_MS: Final = 60_000
"""Default of OTEL_METRIC_EXPORT_INTERVAL."""

_SCOPE: Final = InstrumentationScope("rbee", version("rbee"))


def exporter(environment: Mapping[str, str]) -> MetricExporter:
    """Returns the exporter the OTEL_* variables name: OTLP over gRPC unless told otherwise."""
    if environment.get("OTEL_METRICS_EXPORTER") == "console":
        return ConsoleMetricExporter()
    if otlp.protocol(environment, "METRICS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter()


class Export:
    """Sends metrics from a thread of its own; while one sending takes, no other begins."""

    def __init__(self, exporter: MetricExporter, environment: Mapping[str, str]) -> None:
        self.every_s = int(environment.get("OTEL_METRIC_EXPORT_INTERVAL") or EVERY_MS) / 1000
        self._exporter = exporter
        self._service = environment.get("OTEL_SERVICE_NAME") or "queen-rbee"
        self._resource: Resource | None = None
        self._thread: threading.Thread | None = None
        self._failing = False
        # The SDK's exporters say the same at each try; what there is to say is said here, once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    async def send(self, instruments: list[Instrument], began: float, now: float) -> None:
        """Sends the values of instruments as they are; `began`: since when they count."""
        if self._thread is None or not self._thread.is_alive():
            values = [_metric(one, nanoseconds(began), nanoseconds(now)) for one in instruments]
            self._begin(lambda: self._export(values))

    async def close(self) -> None:
        """Ends the exporter once what is on its way is sent, within `CLOSE_S` seconds."""
        sending = self._thread

        def end() -> None:
            if sending is not None:
                sending.join(CLOSE_S)
            self._exporter.shutdown()

        await asyncio.to_thread(self._begin(end).join, CLOSE_S)

    def _begin(self, work: Callable[[], None]) -> threading.Thread:
        # Not a thread of the loop's own pool: the process would wait for that, however long the collector takes.
        self._thread = threading.Thread(target=work, name="metrics", daemon=True)
        self._thread.start()
        return self._thread

    def _export(self, values: list[Metric]) -> None:
        if self._resource is None:
            self._resource = Resource.create({"service.name": self._service, "service.version": version("rbee")})
        scope = ScopeMetrics(_SCOPE, [one for one in values if one.data.data_points], "")
        result = self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        failed = result is not MetricExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("metrics are not exported: the collector does not take them; it is tried again, in silence")
        elif self._failing and not failed:
            log.info("metrics are exported again")
        self._failing = failed


def _metric(one: Instrument, began: int, now: int) -> Metric:
    """Returns an instrument's values as the SDK has them."""
    if isinstance(one, ours.Gauge):
        points = [NumberDataPoint(_attributes(one, labels), began, now, value) for labels, value in one.read()]
        return Metric(one.name, one.meaning, one.unit, Gauge(points))
    if isinstance(one, ours.Counter):
        counted = [NumberDataPoint(_attributes(one, labels), began, now, value) for labels, value in one.points.items()]
        return Metric(
            one.name, one.meaning, one.unit, Sum(counted, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        )
    spreads = [
        HistogramDataPoint(
            attributes=_attributes(one, labels),
            start_time_unix_nano=began,
            time_unix_nano=now,
            count=sum(spread.counts),
            sum=spread.total,
            bucket_counts=tuple(spread.counts),
            explicit_bounds=one.bounds,
            min=spread.least,
            max=spread.most,
        )
        for labels, spread in one.points.items()
    ]
    return Metric(one.name, one.meaning, one.unit, Histogram(spreads, AggregationTemporality.CUMULATIVE))


def _attributes(one: Instrument, labels: Labels) -> dict[str, str]:
    return {name: value for name, value in zip(one.labels, labels, strict=True) if value}
