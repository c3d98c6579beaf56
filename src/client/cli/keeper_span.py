"""The keeper's own step in a job's trace: from the command line to the end of the answer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from wire import errors
from wire.clock import SystemClock

if TYPE_CHECKING:
    from client.client import Client
    from wire.spans import Span


@asynccontextmanager
async def traced(queen: Client, command: str) -> AsyncIterator[None]:
    """Makes the jobs that are handed in within one trace that begins here; the queen gets this step when it is over.

    Whether it is exported say OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG of this process, as its parent's would.
    """
    from wire import sampling, span_messages, telemetry
    from wire.spans import Recorder

    ended: list[Span] = []
    keeper = Recorder("rbee", SystemClock(), ended.append, roots=sampling.sampler(os.environ))
    try:
        with keeper.span(telemetry.SPAN_KEEPER, {"rbee.command": command}, kind="client"):
            yield
    finally:
        # A queen that has gone, or is of an older version, is told of elsewhere.
        with suppress(errors.RbeeError):
            await queen.traces.add(map(span_messages.message, ended))
