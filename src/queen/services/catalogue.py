"""Every service of the contract the queen serves, and those that have their time later."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from google.protobuf.descriptor import FileDescriptor

from rbee.v1 import (
    hive_service_pb2,
    inference_service_pb2,
    job_service_pb2,
    log_service_pb2,
    log_service_pb2_grpc,
    model_service_pb2,
    policy_service_pb2,
    telemetry_service_pb2,
    tenant_service_pb2,
    trace_service_pb2,
    worker_service_pb2,
)
from wire.server import Server

_FILES: Final[tuple[FileDescriptor, ...]] = (
    hive_service_pb2.DESCRIPTOR,
    inference_service_pb2.DESCRIPTOR,
    job_service_pb2.DESCRIPTOR,
    log_service_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
    policy_service_pb2.DESCRIPTOR,
    telemetry_service_pb2.DESCRIPTOR,
    tenant_service_pb2.DESCRIPTOR,
    trace_service_pb2.DESCRIPTOR,
    worker_service_pb2.DESCRIPTOR,
)

SERVICES: Final = {name: file.services_by_name[name] for file in _FILES for name in file.services_by_name}


def adder(server: Server) -> Callable[..., None]:
    """Returns what adds a service to a server by its name in the contract."""

    def add(name: str, servicer: object, raw: Collection[str] = ()) -> None:
        server.add(SERVICES[name], servicer, raw)

    return add


def add_unserved(server: Server) -> None:
    """Adds the services whose time has not come; each rpc answers UNIMPLEMENTED and says what it will do."""
    add = adder(server)
    add("LogService", log_service_pb2_grpc.LogServiceServicer())
