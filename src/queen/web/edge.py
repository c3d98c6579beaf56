"""The edge of every HTTP call: its id, who may ask from a browser, and errors as answers, in one place."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from queen.web import trouble
from queen.web.caller import Gone, header
from wire import channel, errors

log = logging.getLogger(__name__)

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""What is echoed of a caller's X-Request-Id; anything else gets an id of ours."""

Headers = Mapping[str, str]


async def respond(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Sends a whole JSON answer."""
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    await send({"type": "http.response.start", "status": status, "headers": encoded(fields)})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, value: Any, status: int = 200, headers: Headers | None = None) -> None:
    """Sends a value as JSON."""
    await respond(send, status, orjson.dumps(value), headers)


def encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Returns headers as ASGI has them; what no header may hold is replaced, so that no value ends one."""
    return [(name.encode(), re.sub(r"[^\x20-\x7e]", "?", value).encode()) for name, value in headers.items()]


class Edge:
    """Wraps the routes. `new_id` makes ids "req-..."; `origins` are pages of other sites that may ask."""

    def __init__(self, routes: ASGIApp, new_id: Callable[[str], str], origins: Collection[str]) -> None:
        self._routes = routes
        self._new_id = new_id
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one call; whatever goes wrong becomes an answer while none has begun."""
        assert scope["type"] == "http", "the server speaks HTTP alone"
        given = header(scope, b"x-request-id")
        request_id = given if REQUEST_ID.fullmatch(given) else self._new_id("req")
        scope["app"] = self  # by which starlette's router knows that errors are caught
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check_origin(scope)
            await self._routes(scope, receive, send_with_id)
        except Gone:
            return
        except HTTPException as refused:
            await self._answer(send_with_id, _told_by_router(scope, refused), begun, dict(refused.headers or {}))
        except errors.RbeeError as error:
            await self._answer(send_with_id, error, begun)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"], extra={"request_id": request_id})
            failed = errors.Internal(f"the request failed inside rbee; the queen's log has it as {request_id}")
            await self._answer(send_with_id, failed, begun)

    async def _answer(
        self, send: Send, error: errors.RbeeError, begun: bool, headers: dict[str, str] | None = None
    ) -> None:
        if not begun:
            headers = {**(headers or {}), **trouble.headers_of(error)}
            await respond(send, trouble.status_of(error), trouble.json_of(error), headers)

    def _check_origin(self, scope: Scope) -> None:
        """Refuses pages of other sites: a browser sends what they ask with the rights of whoever looks at them."""
        origin = header(scope, b"origin")
        if not origin or origin in self._origins or "*" in self._origins:
            return
        if not channel.is_loopback(urlsplit(origin).hostname or ""):
            raise errors.Denied(
                f"pages of {origin[:100]} may not ask; allow them with --http-origin {origin[:100]} of the queen",
                "ORIGIN_NOT_ALLOWED",
            )


def no_such_path(scope: Scope) -> trouble.NoSuchPath:
    """Returns the error for a path where nothing is served."""
    return trouble.NoSuchPath(f"nothing is served at {scope['path'][:200]}; see: /openapi.json")


def _told_by_router(scope: Scope, refused: HTTPException) -> errors.RbeeError:
    if refused.status_code == 405:
        return trouble.WrongMethod(f"{scope['path']} is not served by {scope['method']}")
    return no_such_path(scope)
