"""The lines a child process writes, kept for whoever asks what happened."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final

log = logging.getLogger(__name__)

KEPT_LINES: Final = 1000
MAX_LINE_BYTES: Final = 4096
"""A longer line is kept and logged in pieces, so that a child without line ends cannot fill the hive's memory."""


class OutputLines(asyncio.Protocol):
    """The reading end of a child's standard output and error: the last 1,000 lines, each also in the debug log."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self._partial = b""
        self._transport: asyncio.BaseTransport | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is called by the loop when the pipe is open."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Is called by the loop with what the child wrote."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        for line in lines:
            self._keep(line)

    def connection_lost(self, exc: Exception | None) -> None:
        """Is called by the loop when nobody has the pipe open for writing any more."""
        if self._partial:
            self._keep(self._partial)
            self._partial = b""
        self._ended.set()

    def tail(self, count: int) -> tuple[str, ...]:
        """Returns the last `count` lines, oldest first."""
        return tuple(self._lines)[-count:]

    async def drained(self, timeout_s: float) -> None:
        """Returns when everything was read; after `timeout_s` at the latest, for a grandchild may hold the pipe."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            log.debug("something still holds the output of an ended worker", extra={"worker_id": self._worker_id})
        if self._transport is not None:
            self._transport.close()

    def _keep(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), MAX_LINE_BYTES):
            text = line[start : start + MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
            self._lines.append(text)
            log.debug("%s", text, extra={"worker_id": self._worker_id})
