"""A program's gRPC server: every service by its descriptor, with the edge of a call (errors, trace) in one place."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry import context as otel_context

from wire import errors, span_messages, status, telemetry
from wire.channel import ADDRESSEE, MAX_MESSAGE_BYTES, split_address
from wire.spans import Span

log = logging.getLogger(__name__)

SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Two programs on one port must fail, not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

MOST_TRAILER_BYTES: Final = 3500
"""Bytes of an error's details and spans together: in base64, beside a message of 3,000 bytes, within gRPC's 8 KB."""

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Check = Callable[[grpc.aio.ServicerContext[Any, Any]], None]


@dataclass(frozen=True, slots=True)
class Method:
    """A method as it is served: `call(request, context)` checks, joins traces, ends with an error's status.

    `raw`: it writes serialised answers instead of messages.
    """

    descriptor: MethodDescriptor
    call: Behaviour
    raw: bool


class Server:
    """A gRPC server with health per service and reflection. Streaming methods use `context.write`, never `yield`.

    That rule keeps the edge's cost per call, not per message: grpc would otherwise drive one more generator for
    every token. `addressee`, once set, is the id by which others know this program: calls for another are refused.
    `methods` are all that were added, by their path "/package.Service/Method", for those who serve them otherwise too.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names: list[str] = []
        self.methods: dict[str, Method] = {}
        self.port = 0
        self.addressee = ""

    def add(self, service: ServiceDescriptor, servicer: object, raw: Collection[str] = ()) -> None:
        """Serves a service; methods named in `raw` write serialised bytes instead of messages."""
        handlers = {}
        for one in service.methods:
            method = Method(one, _edge(one, getattr(servicer, one.name), self._check), one.name in raw)
            self.methods[f"/{service.full_name}/{one.name}"] = method
            handlers[one.name] = _handler(method)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
        self._names.append(service.full_name)

    async def bind(self, address: str) -> int:
        """Binds "host:port" (port 0: any free one) and returns the port. Raises `WrongState` PORT_IN_USE."""
        host, port = split_address(address)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise errors.WrongState(
                f"{self._program} cannot listen on {host} port {port}: it is in use or not this machine's. "
                f"Stop what uses it, or choose another with --listen {host}:PORT",
                "PORT_IN_USE",
            ) from error
        return self.port

    async def start(self, address: str = "") -> int:
        """Serves, binding an address first unless one is bound; returns the port."""
        if address:
            await self.bind(address)
        reflected = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(reflected, self._server)
        await self._server.start()
        for name in (*self._names, ""):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return self.port

    async def refuse_new(self) -> None:
        """Reports not serving, so that balancers and callers look elsewhere; calls are still answered."""
        for name in (*self._names, ""):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, gives those in progress `grace_s` seconds, then cancels them."""
        await self.refuse_new()
        await self._server.stop(grace_s)

    def _check(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        for key, wanted in context.invocation_metadata() or ():
            if key == ADDRESSEE and self.addressee and wanted != self.addressee:
                raise errors.Unreachable(f"{wanted!s} is gone; at its address is {self.addressee}", "ADDRESSEE_GONE")


def _handler(method: Method) -> grpc.RpcMethodHandler[Any, Any]:
    told = method.descriptor
    reader = message_factory.GetMessageClass(told.input_type).FromString
    writer = None if method.raw else message_factory.GetMessageClass(told.output_type).SerializeToString
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
    }[told.client_streaming, told.server_streaming]
    handler: grpc.RpcMethodHandler[Any, Any] = make(method.call, reader, writer)
    return handler


def _edge(method: MethodDescriptor, behaviour: Behaviour, check: Check) -> Behaviour:
    """Wraps a method once per call: checks it, joins the caller's trace and turns errors into status with details."""
    name = f"{method.containing_service.name}.{method.name}"
    if not inspect.iscoroutinefunction(behaviour):
        # The generated base class's own method: declared in the contract, not served yet.
        promise = (inspect.getdoc(behaviour) or "").partition("\n")[0]
        sentence = f"{name} is not served by this version yet. What it will do: {promise}"

        async def unserved(request: Any, context: Any) -> None:
            await abort(context, errors.Unserved(sentence))

        return unserved

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        token = otel_context.attach(telemetry.extract(context.invocation_metadata()))
        with span_messages.carrying() as spans:
            try:
                check(context)
                answer = await behaviour(request, context)
                if spans:
                    context.set_trailing_metadata(span_messages.trailers(spans))
                return answer
            except errors.RbeeError as error:
                await abort(context, error, spans)
            except grpc.aio.AbortError:
                raise
            except grpc.RpcError as error:
                await abort(context, status.from_rpc_error(error), spans)
            except Exception:
                trace_id = telemetry.trace_id()
                log.exception("%s failed", name)
                await abort(context, errors.Internal(f"{name} failed inside rbee; its log has the trace {trace_id}"))
            finally:
                otel_context.detach(token)

    return call


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: errors.RbeeError, spans: Collection[Span] = ()
) -> None:
    """Ends a call with an error of the taxonomy, and with the spans recorded for it; does not return."""
    details, carried = status.to_trailers(error), span_messages.trailers(spans)
    if sum(len(value) for _, value in (*details, *carried)) > MOST_TRAILER_BYTES:
        carried = ()  # the caller needs the error more
    await context.abort(status.code_of(error), status.short(error.message), (*details, *carried))
