"""The hive's stream to its queen: hello, then reports; directives come back. Connects again for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc

from hive.convert import change_to_wire
from hive.core.delta import change_between
from hive.core.model import Snapshot
from rbee.v1 import telemetry_service_pb2, telemetry_service_pb2_grpc
from wire import errors, status, telemetry
from wire.channel import dial
from wire.clock import Clock

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
LEAST_INTERVAL_S: Final = 0.05
_GOODBYE_S: Final = 1.0

Hello = Callable[[], Awaitable[telemetry_service_pb2.HiveHello]]
_Call = Any  # grpc.aio.StreamStreamCall of ReportRequest and ReportResponse


class QueenStream:
    """Reports to one queen. `draw` returns numbers from 0 to 1; `on_refused` is told why she will never accept us."""

    def __init__(
        self,
        queen: str,
        *,
        hello: Hello,
        take: Callable[[], Awaitable[Snapshot]],
        interval_s: float,
        clock: Clock,
        draw: Callable[[], float],
        on_refused: Callable[[errors.RbeeError], None],
    ) -> None:
        self._queen = queen
        self._hello = hello
        self._take = take
        self._interval_s = interval_s
        self._clock = clock
        self._draw = draw
        self._on_refused = on_refused
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._over = False
        self._full_wanted = False
        self._was_connected: bool | None = None
        self._lost_since: float | None = clock.monotonic()

    def lost_for_s(self) -> float:
        """Returns the seconds since the queen was last there; 0 while she is. She is there once she has answered."""
        return 0.0 if self._lost_since is None else self._clock.monotonic() - self._lost_since

    def wake(self) -> None:
        """Sends the next report now instead of at the next tick."""
        self._wake.set()

    def close(self) -> None:
        """Ends the stream after one last report; `run` then returns."""
        self._closing.set()
        self._wake.set()

    async def run(self) -> None:
        """Reports until closed or refused for good."""
        failures = 0
        while not self._closing.is_set():
            failure = await self._session()
            failures = failures + 1 if self._lost_since is not None else 1
            self._note_lost(failure)
            if isinstance(failure, errors.AlreadyExists | errors.Invalid):
                self._on_refused(failure)
                return
            longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(failures - 1, 10))
            with suppress(TimeoutError):
                async with asyncio.timeout(longest_s * (0.5 + self._draw() / 2)):
                    await self._closing.wait()

    async def _session(self) -> errors.RbeeError | None:
        """Holds one stream from hello to its end; returns why it ended, None when it ended in order."""
        self._over = False
        async with dial(self._queen) as channel, asyncio.TaskGroup() as tasks:
            call: _Call = telemetry_service_pb2_grpc.TelemetryServiceStub(channel).Report(metadata=telemetry.inject())
            reading = tasks.create_task(self._read(call))
            try:
                await self._write(call)
                if not self._over:
                    await call.done_writing()
                    await asyncio.wait([reading], timeout=_GOODBYE_S)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The call is over; its reader knows why.
                await reading
            finally:
                call.cancel()
        return reading.result()

    async def _write(self, call: _Call) -> None:
        """Sends hello and reports until the call is over or the hive closes."""
        await call.write(telemetry_service_pb2.ReportRequest(hello=await self._hello()))
        number, before, closing = 0, None, False
        while not self._over and not closing:
            self._wake.clear()
            closing = self._closing.is_set()
            after = await self._take()
            if self._full_wanted:
                before, self._full_wanted = None, False
            number += 1
            report = change_to_wire(change_between(before, after), number, after.time_s)
            await call.write(telemetry_service_pb2.ReportRequest(report=report))
            before = after
            if not closing:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._wake.wait()

    async def _read(self, call: _Call) -> errors.RbeeError | None:
        """Follows directives until the call is over; returns why it is."""
        try:
            while (directive := await call.read()) is not grpc.aio.EOF:
                self._follow(directive)
        except grpc.aio.AioRpcError as error:
            return status.from_rpc_error(error)
        except asyncio.CancelledError:
            # Our own `call.cancel()` surfaces here as well; a cancelled task must still end as one.
            if not call.cancelled():
                raise
        finally:
            self._over = True
            self._wake.set()
        return None

    def _follow(self, directive: telemetry_service_pb2.ReportResponse) -> None:
        if self._lost_since is not None:
            self._lost_since = None
            if self._was_connected is not True:
                log.info("the queen at %s is there", self._queen)
            self._was_connected = True
        interval_s = directive.report_interval.ToNanoseconds() / 1e9
        if interval_s > 0:
            self._interval_s = max(LEAST_INTERVAL_S, interval_s)
        self._full_wanted = self._full_wanted or directive.full_report

    def _note_lost(self, failure: errors.RbeeError | None) -> None:
        """Logs once per change, not once per try."""
        if self._lost_since is None:
            self._lost_since = self._clock.monotonic()
        if self._was_connected is not False and not self._closing.is_set():
            why = failure.message if failure is not None else "she ended the stream"
            log.warning("the queen at %s is not there: %s; trying until she is", self._queen, why)
        self._was_connected = False
