"""The calls of a client about traces: what was done for a job, and which were slow."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

import grpc

from rbee.v1 import trace_pb2, trace_service_pb2, trace_service_pb2_grpc

pb = trace_service_pb2


class Traces:
    """What a queen keeps of what was done lately. Methods raise errors of `wire.errors`, the contract lists which.

    `ask` and `pages` are the client's.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        ask: Callable[..., Awaitable[Any]],
        pages: Callable[..., AsyncGenerator[Any, None]],
    ) -> None:
        self._stub: trace_service_pb2_grpc.TraceServiceAsyncStub = trace_service_pb2_grpc.TraceServiceStub(channel)
        self._ask = ask
        self._pages = pages

    async def get(self, job_id: str) -> list[trace_pb2.Span]:
        """Returns what was done for a job in all programs, by when it began; what still runs has no end."""
        return list((await self._ask(self._stub.Get, pb.TraceServiceGetRequest(job_id=job_id))).spans)

    async def slowest(self, *, page_size: int = 0) -> AsyncGenerator[pb.TraceSummary, None]:
        """Yields jobs at rest whose traces are kept, those first that waited longest for their first token."""
        async for page in self._pages(self._stub.List, pb.TraceServiceListRequest(page_size=page_size)):
            for one in page.traces:
                yield one

    async def add(self, spans: Iterable[trace_pb2.Span]) -> None:
        """Adds ended spans of the caller's own, at most 64, to the traces of its jobs."""
        request = pb.TraceServiceAddRequest(request_id=secrets.token_hex(8), spans=spans)
        await self._ask(self._stub.Add, request)
