"""Where OpenTelemetry's signals are to be sent, by its standard variables. Nothing of the SDK is imported here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

log = logging.getLogger(__name__)

Signal = Literal["TRACES", "METRICS"]
Protocol = Literal["grpc", "http/protobuf"]


def is_sent(environment: Mapping[str, str], signal: Signal) -> bool:
    """Tells whether somebody is named who is sent a signal."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environment.get(f"OTEL_{signal}_EXPORTER")
    where_to = (exporter, *_said(environment, "OTEL_EXPORTER_OTLP_%sENDPOINT", signal))
    return any(where_to) and exporter != "none"


def protocol(environment: Mapping[str, str], signal: Signal) -> Protocol:
    """Returns the protocol a signal is sent by: gRPC unless told otherwise."""
    said = next(filter(None, _said(environment, "OTEL_EXPORTER_OTLP_%sPROTOCOL", signal)), "grpc")
    if said == "grpc":
        return "grpc"
    if said != "http/protobuf":
        log.warning("OTEL_EXPORTER_OTLP_PROTOCOL: %s is not spoken here, http/protobuf is used", said)
    return "http/protobuf"


def _said(environment: Mapping[str, str], name: str, signal: Signal) -> list[str | None]:
    """Returns what is said for one signal, and for all."""
    return [environment.get(name % one) for one in (f"{signal}_", "")]
