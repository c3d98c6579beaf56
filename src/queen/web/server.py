"""The HTTP server: uvicorn's, in the queen's loop, without its signals; connections that dawdle are closed."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from queen.web import trouble
from wire import errors
from wire.channel import split_address

IDLE_S: Final = 75
"""How long a connection may stay open without a request, also before its first: longer than clients keep theirs."""
HEAD_S: Final = 10.0
"""How long a request's head may take to come."""
HEAD_BYTES: Final = 64 * 1024
"""The most of it, with what comes along of the body."""
BACKLOG: Final = 2048
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000))
"""A caller's machine that was cut off is noticed within a minute, as by gRPC's pings."""


class HttpServer:
    """Serves an application. `start` returns when it serves, `stop` when nothing of it is left."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None

    def bind(self, address: str) -> str:
        """Binds "host:port" (port 0: any free one) and returns what it is then. Raises `WrongState` PORT_IN_USE."""
        host, port = split_address(address)
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted connections have it too
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    bound.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            bound.bind((host, port))
        except OSError as error:
            bound.close()
            raise errors.WrongState(
                f"queen-rbee cannot serve HTTP on {host} port {port}: it is in use or not this machine's. "
                f"Stop what uses it, choose another with --http {host}:PORT (RBEE_QUEEN_HTTP), or none with --http off",
                "PORT_IN_USE",
            ) from error
        self._socket = bound
        return f"{address.rpartition(':')[0]}:{bound.getsockname()[1]}"

    async def start(self, app: ASGIApp) -> None:
        """Serves an application at the bound address."""
        assert self._socket is not None, "bound before"
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=1,
            backlog=BACKLOG,
        )
        config.load()
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what callers do wrong is told to them alone
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not `serve`: it would take the queen's signals, and wake ten times a second to look whether it is to end.
        await server.startup(sockets=[self._socket])
        self._server = server

    async def stop(self) -> None:
        """Takes no new connections, ends those there are within a second."""
        if self._server is not None:
            await self._server.shutdown(sockets=[self._socket] if self._socket is not None else [])
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()
        elif self._socket is not None:
            self._socket.close()


class _Connection(HttpToolsProtocol):
    """A connection as uvicorn serves it; a request's head has its time and its size, and ends are prompt."""

    _head: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, f"the request's head is over {HEAD_BYTES:,} bytes", "HEAD_TOO_LARGE")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._head = self.loop.call_later(HEAD_S, self._refuse, 408, "the request did not come", "REQUEST_TIMED_OUT")
        self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}}

    def on_headers_complete(self) -> None:
        self._head_came()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "what was sent is not HTTP", "INVALID_HTTP")

    def timeout_keep_alive_handler(self) -> None:
        # Not closed: what a caller who does not read has not read would be kept for ever.
        self.transport.abort()

    def _head_came(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _refuse(self, status: int, message: str, reason: str) -> None:
        """Answers what is no request of the application's, and closes."""
        self._head_came()
        if self.transport.is_closing():
            return
        body = trouble.json_of(errors.Invalid(message, reason))
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()


ABORT: Final = "rbee.connection"
"""The extension of a request's scope with `abort`, which ends its connection without waiting for the caller."""


def abort(scope: Scope) -> None:
    """Ends a request's connection without waiting for the caller."""
    scope["extensions"][ABORT]["abort"]()
