"""The caller's side of one request: its body, within limits, and whether he is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope

from queen.web.trouble import BodyTooLarge, BodyTooSlow, WrongMediaType
from wire import errors

BODY_S: Final = 30.0
"""How long a caller may take to send a body."""


class Gone(Exception):
    """The caller went away: there is nobody to answer."""


def header(scope: Scope, name: bytes) -> str:
    """Returns a header of a request, "" when there is none; what is not UTF-8 is replaced."""
    return next((value.decode(errors="replace") for key, value in scope["headers"] if key == name), "")


async def read_json(scope: Scope, receive: Receive, most_bytes: int) -> dict[str, Any]:
    """Returns a request's body, a JSON object, read and parsed once.

    Raises BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, REQUEST_TIMED_OUT, INVALID_JSON; `Gone`.
    """
    if header(scope, b"content-type").partition(";")[0].strip().lower() != "application/json":
        raise WrongMediaType("the body must be JSON: send the header Content-Type: application/json")
    if header(scope, b"content-encoding") not in ("", "identity"):
        raise WrongMediaType("the body must not be compressed: leave out the header Content-Encoding")
    length = header(scope, b"content-length")
    too_large = BodyTooLarge(f"the body is over {most_bytes:,} bytes; more with --http-body-limit-mb of the queen")
    if length.isdigit() and int(length) > most_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most_bytes:
                    raise too_large
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise BodyTooSlow(f"the body did not come within {BODY_S:.0f} s") from None
    return _parsed(parts[0] if len(parts) == 1 else b"".join(parts))


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except ValueError as error:
        raise errors.Invalid(f"the body is not JSON: {error}", "INVALID_JSON") from None
    if not isinstance(found, dict):
        raise errors.Invalid("the body is not a JSON object", "INVALID_JSON")
    return found


async def while_connected(receive: Receive, work: Awaitable[None]) -> None:
    """Awaits some work and raises what it raises; when its caller goes away first, cancels it and raises `Gone`."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(_outcome(work))
        watching = group.create_task(_disconnected(receive))
        working.add_done_callback(lambda _: watching.cancel())
        watching.add_done_callback(lambda _: working.cancel())
    if working.cancelled():
        raise Gone
    if (error := working.result()) is not None:
        raise error


async def _outcome(work: Awaitable[None]) -> Exception | None:
    """Returns what some work raised: a group would wrap it."""
    try:
        await work
    except Exception as error:  # noqa: BLE001  # raised again by who waits
        return error
    return None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
