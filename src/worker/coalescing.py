"""Joins pieces into events: the first at once, later ones after at most 15 ms. Messages cost more than tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from worker.engines.port import Piece

SPAN_S: Final = 0.015
"""Longest a token waits for company: unnoticeable to a reader, and up to 66 messages a second for a fast model."""


class Timer(Protocol):
    """Something that happens later unless it is cancelled."""

    def cancel(self) -> None:
        """Makes it not happen."""
        ...


CallLater = Callable[[float, Callable[[], None]], Timer]


class Coalescer:
    """Collects pieces and hands them on, joined, to `emit`.

    While a write is outstanding (between `hold` and `release`) nothing is handed on: what comes meanwhile would only
    queue behind it, message by message. `call_later` takes seconds and a function.
    """

    def __init__(self, emit: Callable[[Piece], None], call_later: CallLater) -> None:
        self._emit = emit
        self._call_later = call_later
        self._pending: list[Piece] = []
        self._timer: Timer | None = None
        self._holds = 0
        self._is_due = True  # the first piece does not wait

    def add(self, piece: Piece) -> None:
        """Takes a piece; the first is handed on before this returns."""
        if self._pending and bool(self._pending[-1].token_ids) != bool(piece.token_ids):
            self.flush()  # an event tells the ids of all its tokens or of none
        self._pending.append(piece)
        if self._is_due and not self._holds:
            self.flush()
        elif self._timer is None and not self._is_due:
            self._timer = self._call_later(SPAN_S, self._expire)

    def hold(self) -> None:
        """Notes that a write has begun."""
        self._holds += 1

    def release(self) -> None:
        """Notes that a write has ended; hands on what became due meanwhile."""
        self._holds -= 1
        if self._is_due and not self._holds and self._pending:
            self.flush()

    def flush(self) -> None:
        """Hands on what there is, now."""
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            pending, self._pending = self._pending, []
            self._emit(_joined(pending))

    def _expire(self) -> None:
        self._timer = None
        self._is_due = True
        if not self._holds:
            self.flush()


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        text="".join(piece.text for piece in pieces),
        count=sum(piece.count for piece in pieces),
        token_ids=tuple(number for piece in pieces for number in piece.token_ids),
        logprobs=tuple(place for piece in pieces for place in piece.logprobs),
        tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
    )
