"""/metrics: what Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from queen.metrics import prometheus


def page(text: Callable[[], str]) -> Route:
    """Returns the route of a page whose text is made when it is asked for."""

    async def metrics(_: Request) -> Response:
        return Response(text(), headers={"content-type": prometheus.CONTENT_TYPE})

    return Route("/metrics", metrics, methods=["GET"])
