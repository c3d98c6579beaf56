"""Whether somebody is sent metrics, by the OTEL_* variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from queen.metrics.meter import Receiver

_WHERE_TO: Final = (
    "OTEL_METRICS_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


def from_environment(environment: Mapping[str, str]) -> Receiver | None:
    """Returns the receiver the OTEL_* variables name; None when there is none, or one that pulls, as Prometheus."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    named = environment.get("OTEL_METRICS_EXPORTER", "")
    if not any(environment.get(name) for name in _WHERE_TO) or named in ("none", "prometheus"):
        return None
    # Imported here because the SDK takes 0.4 s to import and most queens export nothing.
    from queen.metrics.export import Export, exporter

    return Export(exporter(environment), environment)
