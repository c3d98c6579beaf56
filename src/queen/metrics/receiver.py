"""Whether somebody is sent metrics, by the OTEL_* variables."""

from __future__ import annotations

from collections.abc import Mapping

from queen.metrics.meter import Receiver
from wire import otlp


def from_environment(environment: Mapping[str, str]) -> Receiver | None:
    """Returns the receiver the OTEL_* variables name; None when there is none, or one that pulls, as Prometheus."""
    if not otlp.is_sent(environment, "METRICS") or environment.get("OTEL_METRICS_EXPORTER") == "prometheus":
        return None
    # Imported here because the SDK takes 0.4 s to import and most queens export nothing.
    from queen.metrics.export import Export, exporter

    return Export(exporter(environment), environment)
