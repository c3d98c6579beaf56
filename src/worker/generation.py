"""One generation: its events as they go over the wire, kept so that they can be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from wire import errors
from wire.clock import Clock
from wire.spans import Span
from worker import convert
from worker.coalescing import Coalescer
from worker.engines.port import Ending, Piece, Request

_ALWAYS_SENT: Final = 2**63
"""Where the last event stands among the tokens: after all of them."""
_EVENT_BYTES: Final = 120
"""What Python needs for an event beside its message: a tuple, an integer and the header of the bytes."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Whose generation it is and how it is to be run; `keep` lets it go on, and be kept, without a caller."""

    job_id: str
    attempt: int
    first_sequence: int
    keep: bool


class Generation:
    """Turns an engine's pieces into events, in order, and sends them to whoever listens.

    It has ended when `result` or `failure` is set; nothing changes after that. `made_before`: tokens of the answer that
    came from elsewhere; `span`: its step in the job's trace.
    """

    def __init__(self, ticket: Ticket, request: Request, clock: Clock) -> None:
        self.ticket = ticket
        self.completion_tokens = self.made_before = len(request.generated_token_ids)
        self._seed = request.seed
        self.result: convert.Result | None = None
        self.failure: errors.RbeeError | None = None
        self.end_s = 0.0  # when it ended, on the clock's `monotonic`
        self.span: Span | None = None
        self.kept_bytes = 0
        self._clock = clock
        self._accepted_s = self._first_s = self._last_s = clock.monotonic()
        self._events: list[tuple[int, bytes]] = []  # (tokens of the answer after it, message)
        self._news = asyncio.Event()
        self._coalescer = Coalescer(self._emit, asyncio.get_running_loop().call_later)

    @property
    def ended(self) -> bool:
        """Whether anything more can come."""
        return self.result is not None or self.failure is not None

    def add(self, piece: Piece) -> None:
        """Takes the next piece of the answer."""
        self._last_s = self._clock.monotonic()
        if not self._events:
            self._first_s = self._last_s
        self._coalescer.add(piece)

    def finish(self, ending: Ending) -> None:
        """Takes the engine's ending: the answer is whole."""
        self._coalescer.flush()
        made = self.completion_tokens - self.made_before
        span = self._last_s - self._first_s
        self.result = convert.Result(
            ending=ending,
            completion_tokens=self.completion_tokens,
            seed=self._seed,
            first_token_s=self._first_s - self._accepted_s,
            generation_s=span,
            # The first token is where the span begins, so it is not part of the rate.
            tokens_per_second=(made - 1) / span if made > 1 and span else 0.0,
        )
        self._append(convert.done_event(self._next_sequence(), self.result), _ALWAYS_SENT)
        self._end()

    def fail(self, failure: errors.RbeeError) -> None:
        """Ends it with an error; what was made before is still sent."""
        self._coalescer.flush()
        self.failure = failure
        self._end()

    async def send(self, write: Callable[[bytes], Awaitable[None]], after_index: int = 0) -> None:
        """Writes its events with tokens after `after_index`, those there are and those to come, and the last.

        Raises what the generation failed with.
        """
        position = 0
        while True:
            news = self._news
            while position < len(self._events):
                tokens, message = self._events[position]
                position += 1
                if tokens > after_index:
                    self._coalescer.hold()
                    try:
                        await write(message)
                    finally:
                        self._coalescer.release()
            if self.failure is not None:
                raise self.failure
            if self.result is not None:
                return
            await news.wait()

    def _emit(self, piece: Piece) -> None:
        message = convert.tokens_event(self._next_sequence(), piece, self.completion_tokens)
        self.completion_tokens += piece.count
        self._append(message, self.completion_tokens)

    def _append(self, message: bytes, tokens: int) -> None:
        self._events.append((tokens, message))
        self.kept_bytes += len(message) + _EVENT_BYTES
        self._tell()

    def _next_sequence(self) -> int:
        return self.ticket.first_sequence + len(self._events)

    def _end(self) -> None:
        self.end_s = self._clock.monotonic()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
