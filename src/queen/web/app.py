"""Everything the queen serves over HTTP, as one application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from queen.config import Settings
from queen.core.model import Job
from queen.core.ports import Store
from queen.dispatch.callers import Callers
from queen.registry.cluster import Cluster
from queen.registry.jobs import LiveJob
from queen.services.intake import Intake, Models
from queen.web import edge, requests, schema
from queen.web.answering import Answering, Desk
from queen.web.cluster import Health, ModelPages
from wire.clock import Clock

TOLD: Final = (
    "x-request-id",
    "x-rbee-job",
    "x-rbee-worker",
    "x-rbee-hive",
    "x-rbee-policy",
    "x-rbee-queue-ms",
    "retry-after",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
)
"""Headers that pages of other sites may read where they may ask at all."""

OWN_PAGES: Final = r"https?://(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?"
"""Origins of pages of this machine's own addresses, which may always ask."""


def build(
    told: Settings,
    *,
    intake: Intake,
    models: Models,
    cluster: Cluster,
    store: Store,
    callers: Callers,
    cancel: Callable[[LiveJob, str], Job],
    clock: Clock,
    new_id: Callable[[str], str],
    more: Sequence[BaseRoute] = (),
) -> ASGIApp:
    """Returns the application. `cancel` ends a job and says why; `more`: what others serve beside."""
    desk = Desk(intake, callers, cancel, clock, told.http_patience, told.http_body_limit)
    pages, health = ModelPages(cluster, models), Health(cluster, store, lambda: intake.is_open)
    origins = told.http_origin
    schema.prepare()
    routes = [
        _at("/v1/chat/completions", Answering(desk, requests.chat), "POST"),
        _at("/v1/completions", Answering(desk, requests.text), "POST"),
        _at("/v1/embeddings", Answering(desk, requests.vectors), "POST"),
        _at("/v1/models", pages.list),
        _at("/v1/models/{model:path}", pages.get),
        _at("/healthz", health.live),
        _at("/readyz", health.ready),
        _at("/openapi.json", _document),
        *more,
    ]
    app = edge.Edge(Router(routes, redirect_slashes=False, default=_nothing), new_id, origins)
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_origin_regex=OWN_PAGES,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=TOLD,
    )


def _at(path: str, app: ASGIApp, method: str = "GET") -> Route:
    return Route(path, _Endpoint(app), methods=[method])


class _Endpoint:
    """An application that starlette takes for one: functions it would call with a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


async def _document(scope: Scope, receive: Receive, send: Send) -> None:
    await edge.respond(send, 200, schema.document_json())


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise edge.no_such_path(scope)
