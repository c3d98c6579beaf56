"""Every service of the queen over the Connect protocol and gRPC-Web: for browsers, and for curl with JSON.

The methods are those the gRPC server has, called in-process with the same care at their edge; connectrpc speaks the
protocols. Nothing is written down per method: the descriptors say it all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc
import orjson
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from protobuf import message_from_json_value
from protobuf.wkt import Any as PackedAny
from protobuf.wkt import Struct
from starlette.routing import Route
from starlette.types import Message as Event
from starlette.types import Receive, Scope, Send

from queen.config import Settings
from queen.web import edge, server
from queen.web.answering import SlowReader
from queen.web.caller import BODY_S, header
from queen.web.trouble import BodyTooSlow, WrongMediaType
from wire import errors, status
from wire.server import Method

log = logging.getLogger(__name__)

_PACKAGE: Final = "/rbee.v1."
_STREAMS: Final = {
    (False, False): StreamType.UNARY,
    (False, True): StreamType.SERVER_STREAM,
    (True, False): StreamType.CLIENT_STREAM,
    (True, True): StreamType.BIDI_STREAM,
}
assert error_details_pb2.DESCRIPTOR, "the details of errors are known to the pool"


def route(methods: Mapping[str, Method], told: Settings) -> Route:
    """Returns the route of all methods, by path "/package.Service/Method"."""
    return Route(_PACKAGE + "{call:path}", Connect(methods, told.http_body_limit, told.http_patience), methods=["POST"])


class Connect:
    """Answers calls of methods. `body_bytes`: the largest request; `patience_s`: how long an answer may stay unread."""

    def __init__(self, methods: Mapping[str, Method], body_bytes: int, patience_s: float) -> None:
        self._endpoints = {path: _endpoint(method) for path, method in methods.items()}
        self._patience_s = patience_s
        self._app = _Application(
            service=None,
            endpoints=lambda _: self._endpoints,
            read_max_bytes=body_bytes,
            compressions=(),  # it would cost more than it saves between machines that share a room
            codecs=(_Binary(), _Json()),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one call."""
        if scope["path"] not in self._endpoints:
            raise edge.no_such_path(scope)
        if header(scope, b"content-type").partition("+")[0] == "application/grpc":
            raise WrongMediaType("gRPC is spoken at the queen's other port, 7833 by default; here: Connect or gRPC-Web")
        # What is not UTF-8 is replaced, as everywhere here.
        heard = [(name, value.decode(errors="replace").encode()) for name, value in scope["headers"]]
        try:
            await self._app({**scope, "headers": heard}, _in_time(receive), self._patient(send))
        except SlowReader:
            log.warning("the caller of %s does not read its answer: ended", scope["path"])
            server.abort(scope)
            await receive()  # returns when the connection is gone

    def _patient(self, send: Send) -> Send:
        async def patient(event: Event) -> None:
            try:
                async with asyncio.timeout(self._patience_s):
                    await send(event)
            except TimeoutError:
                raise SlowReader from None

        return patient


class _Application(ConnectASGIApplication[None]):
    path = _PACKAGE


def _in_time(receive: Receive) -> Receive:
    """Returns a `receive` whose body must have come within its time."""
    until: float | None = asyncio.get_running_loop().time() + BODY_S

    async def in_time() -> Event:
        nonlocal until
        try:
            async with asyncio.timeout_at(until):
                event = await receive()
        except TimeoutError:
            raise _refusal(BodyTooSlow(f"the body did not come within {BODY_S:.0f} s")) from None
        if not event.get("more_body", False):
            until = None
        return event

    return in_time


@dataclass(frozen=True, slots=True)
class _Relayed:
    """An answer that was never unpacked (docs/adr/0001)."""

    body: bytes
    kind: type[Message]


class _Context:
    """What a servicer gets of its call, as from gRPC."""

    def __init__(self, call: RequestContext[Any, Any], write: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self._call = call
        self.write = write

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Returns the headers."""
        return tuple(self._call.request_headers.allitems())

    def time_remaining(self) -> float | None:
        """Returns the seconds that the caller still waits; None where it has not said."""
        left_ms = self._call.timeout_ms
        return None if left_ms is None else left_ms / 1000

    async def abort(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> NoReturn:
        """Ends the call with an error."""
        sent = next((value for key, value in trailers if key == status.DETAILS_KEY), b"")
        raise _failed(code, text, sent)


def _failed(code: grpc.StatusCode, text: str, sent: bytes) -> ConnectError:
    """Returns an error of gRPC's as Connect has it. `sent`: a serialised google.rpc.Status with its details."""
    name = "CANCELED" if code is grpc.StatusCode.CANCELLED else code.name
    return ConnectError(Code[name], text, [_Detail(one) for one in status_pb2.Status.FromString(sent).details])


def _refusal(error: errors.RbeeError) -> ConnectError:
    """Returns an error of the taxonomy as Connect has it."""
    [(_, sent)] = status.to_trailers(error)
    return _failed(status.code_of(error), error.message, sent)


class _Detail(ErrorDetail):
    """A detail of an error, which is shown in plain JSON beside its bytes: curl knows no Protobuf."""

    def __init__(self, packed: any_pb2.Any) -> None:
        super().__init__(PackedAny(type_url=packed.type_url, value=packed.value))
        kind = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        shown = json_format.MessageToDict(message_factory.GetMessageClass(kind).FromString(packed.value))
        self._message = message_from_json_value(Struct, shown)


class _Binary:
    """Protobuf's binary form; what was never unpacked goes as it is."""

    def name(self) -> str:
        return "proto"

    def encode(self, message: Message | _Relayed) -> bytes:
        return message.body if isinstance(message, _Relayed) else message.SerializeToString()

    def decode(self, body: bytes | bytearray, kind: type[Message]) -> Message:
        try:
            return kind.FromString(bytes(body))
        except DecodeError:
            raise _refusal(errors.Invalid(f"the body is no {kind.DESCRIPTOR.name}", "INVALID_BODY")) from None


class _Json:
    """Protobuf's JSON form; names that the contract does not have are passed over, as the protocol wants it."""

    def name(self) -> str:
        return "json"

    def encode(self, message: Message | _Relayed) -> bytes:
        told = message.kind.FromString(message.body) if isinstance(message, _Relayed) else message
        return orjson.dumps(json_format.MessageToDict(told))

    def decode(self, body: bytes | bytearray, kind: type[Message]) -> Message:
        try:
            return json_format.Parse(bytes(body), kind(), ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError) as error:
            sentence = f"the body is no {kind.DESCRIPTOR.name} in JSON: {error}"
            raise _refusal(errors.Invalid(sentence, "INVALID_JSON")) from None


def _endpoint(method: Method) -> Any:
    """Returns a method as connectrpc serves it."""
    told = method.descriptor
    kind = message_factory.GetMessageClass(told.output_type)
    info = MethodInfo(
        name=told.name,
        service_name=told.containing_service.full_name,
        input=message_factory.GetMessageClass(told.input_type),
        output=kind,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=_STREAMS[told.client_streaming, told.server_streaming],
    )

    async def answer(request: Any, call: RequestContext[Any, Any]) -> Any:
        return await method.call(request, _Context(call))

    async def stream(request: Any, call: RequestContext[Any, Any]) -> AsyncIterator[Any]:
        # As gRPC does, a write returns when the one before it has left: what gathers meanwhile goes with the next.
        written: asyncio.Queue[Any] = asyncio.Queue(1)

        async def write(message: Any) -> None:
            await written.put(_Relayed(message, kind) if method.raw else message)

        async with asyncio.TaskGroup() as group:
            calling = group.create_task(_outcome(method.call(request, _Context(call, write)), written))
            try:
                while (message := await written.get()) is not None:
                    yield message
            except GeneratorExit:  # nobody wants the rest; a group would wrap it
                calling.cancel()
        if not calling.cancelled() and (error := calling.result()) is not None:
            raise error

    async def refuse(requests: Any, call: RequestContext[Any, Any]) -> NoReturn:
        name = f"{told.containing_service.name}.{told.name}"
        raise _refusal(errors.Unserved(f"{name} streams both ways, which this protocol cannot: use gRPC, port 7833"))

    if told.client_streaming:
        return Endpoint.client_stream(info, refuse)
    return Endpoint.server_stream(info, stream) if told.server_streaming else Endpoint.unary(info, answer)


async def _outcome(work: Awaitable[None], written: asyncio.Queue[Any]) -> Exception | None:
    """Returns what some work raised, and ends what it has written."""
    error = None
    try:
        await work
    except Exception as raised:  # noqa: BLE001  # raised again by who reads
        error = raised
    await written.put(None)
    return error
