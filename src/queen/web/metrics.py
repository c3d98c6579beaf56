"""/metrics: what Prometheus scrapes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from queen.metrics import prometheus


def page(parts: Callable[[], Iterable[str]]) -> Route:
    """Returns the route of a page whose parts are made when it is asked for."""

    async def metrics(_: Request) -> Response:
        text = []
        for part in parts():
            text.append(part)
            await asyncio.sleep(0)  # a thousand workers take 10 ms: tokens go in between
        return Response("".join(text), headers={"content-type": prometheus.CONTENT_TYPE})

    return Route("/metrics", metrics, methods=["GET"])
