"""A job's answer as it comes: pieces of text, every event, and the way back in after a broken connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc

from rbee.v1 import event_pb2, generation_pb2, inference_service_pb2, job_service_pb2
from wire import errors, status

CANCEL_TIMEOUT_S: Final = 5.0

Message = inference_service_pb2.InferResponse | job_service_pb2.JobServiceWatchResponse
Call = (
    grpc.aio.UnaryStreamCall[Any, inference_service_pb2.InferResponse]
    | grpc.aio.UnaryStreamCall[Any, job_service_pb2.JobServiceWatchResponse]
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some tokens of an answer, in order, without gaps or repeats; `str(piece)` is their text."""

    text: str
    """Whole UTF-8 characters; empty while a character is incomplete."""
    count: int
    """How many tokens it carries."""
    first_index: int
    """Index of the first of them in the answer, from 0."""
    token_ids: tuple[int, ...] = ()
    """Their ids, where the engine tells."""
    logprobs: tuple[generation_pb2.TokenLogprobs, ...] = ()
    """Their log probabilities, when asked for."""

    def __str__(self) -> str:
        """Returns the text."""
        return self.text


@dataclass(frozen=True, slots=True)
class Stream:
    """The calls an answer is made of; `Client` gives them."""

    begin: Callable[[Sequence[int]], Call]
    """Opens the first stream, or begins again after the tokens with these ids."""
    resume: Callable[[str, int, Sequence[int]], Call]
    """Opens a stream of a job's events after a sequence; the ids of the tokens up to there are told."""
    cancel: Callable[[str], Awaitable[Any]]
    """Cancels a job, unless somebody else listens to it."""
    explain: Callable[[grpc.aio.AioRpcError], errors.RbeeError]
    """Names the error of a failed call."""


class Answer:
    """The answer of one job. Iterate it for `Piece`s, or `events()` for everything that happens; once.

    Leaving the iteration early cancels the job unless it is detached. A broken connection is mended by re-attaching
    after the last event seen, for `reattach_s` seconds; only then `Unreachable` is raised. `Conflict` OUTPUT_CHANGED is
    raised when an answer had to be generated anew and came out differently.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        job_id: str = "",
        after_sequence: int = 0,
        outlives_caller: bool = False,
        reattach_s: float,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self.job_id = job_id
        """The job's id; empty until the queen has accepted it."""
        self.sequence = after_sequence
        """Sequence of the last event seen."""
        self.done: event_pb2.Done | None = None
        """Usage, timings, seed and finish reason; None until the answer is complete."""
        self._asked = not job_id
        self._seen = Seen()
        self._stream = stream
        self._outlives_caller = outlives_caller
        self._reattach_s = reattach_s
        self._on_lost = on_lost

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Returns the pieces."""
        return self.pieces()

    async def text(self) -> str:
        """Returns the whole answer, once it is complete."""
        return "".join([piece.text async for piece in self])

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Yields the answer's tokens as they come; raises the error the job ended with."""
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.HasField("tokens"):
                    tokens = event.tokens
                    yield Piece(
                        tokens.text,
                        tokens.count,
                        tokens.first_index,
                        tuple(tokens.token_ids),
                        tuple(tokens.logprobs),
                    )

    async def events(self) -> AsyncGenerator[event_pb2.JobEvent, None]:
        """Yields everything that happens to the job, in sequence; raises the error the job ended with."""
        call, waits, at_rest, broke_off = self._stream.begin(()), pauses(self._reattach_s), False, False
        try:
            while not at_rest:
                try:
                    async for message in call:
                        waits = pauses(self._reattach_s)
                        for event in self._fresh(message):
                            at_rest = event.HasField("done")
                            yield event
                    if not at_rest:
                        at_rest = True
                        raise errors.Internal(
                            f"job {self.job_id} ended without a word; see: rbee jobs show {self.job_id}"
                        )
                except grpc.aio.AioRpcError as error:
                    if self.job_id and _is_broken(error):
                        await self._pause(waits, error)
                        call = self._stream.resume(self.job_id, self.sequence, self._seen.token_ids)
                        broke_off = True
                        continue
                    found = self._stream.explain(error)
                    if not (broke_off and self._asked and found.reason == "JOB_NOT_FOUND"):
                        at_rest = True
                        raise self._named(found) from error
                    # The queen was killed before she had noted the job down.
                    call, broke_off = self._stream.begin(self._seen.token_ids), False
        finally:
            call.cancel()
            # To the queen a call that ends may be a connection that broke, and its caller about to come back.
            if self.job_id and not at_rest and not self._outlives_caller:
                # UsageError: the client was closed before this was.
                with suppress(errors.RbeeError, grpc.aio.UsageError):
                    await self._stream.cancel(self.job_id)

    def _fresh(self, message: Message) -> Iterator[event_pb2.JobEvent]:
        if isinstance(message, inference_service_pb2.InferResponse) and message.job_id not in ("", self.job_id):
            self.job_id, self.sequence = message.job_id, 0
        for event in message.events:
            if event.sequence > self.sequence:
                self.sequence = event.sequence
                if event.HasField("done"):
                    self.done = event.done
                if not event.HasField("tokens") or self._seen.take(event.tokens):
                    yield event

    def _named(self, error: errors.RbeeError) -> errors.RbeeError:
        """Returns the error with the job it is about, where that is known."""
        if self.job_id:
            error.metadata.setdefault("job_id", self.job_id)
        return error

    async def _pause(self, waits: Iterator[float], error: grpc.aio.AioRpcError) -> None:
        pause = next(waits, None)
        if pause is None:
            raise errors.Unreachable(
                f"the queen went away while job {self.job_id} ran and did not come back within {self._reattach_s:g} s. "
                f"What came so far is right; for the rest: rbee up, then "
                f"rbee jobs watch {self.job_id} --after {self.sequence}",
                "QUEEN_LOST",
                metadata={"job_id": self.job_id, "after_sequence": str(self.sequence)},
            ) from error
        if self._on_lost is not None:
            self._on_lost(self.job_id)
        await asyncio.sleep(pause)


class Seen:
    """The part of an answer that its caller has."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._ids: list[int] = []
        self._count = 0
        self._texts: list[str] = []
        self._length = 0
        self._begins: dict[int, int] = {}  # index of a piece's first token -> characters before it
        self._next = 0  # index after the newest token that came, new or not
        self._again: str | None = None  # text that came again, from the character `_from` on
        self._from = 0

    @property
    def token_ids(self) -> Sequence[int]:
        """Ids of all its tokens; empty where the engine did not tell them, or the first ones were never seen."""
        return self._ids if self._first == 0 and len(self._ids) == self._count else ()

    def take(self, tokens: event_pb2.Tokens) -> bool:
        """Takes in tokens, and leaves of them what is new; tells whether anything is.

        An answer that is generated anew, from the begin of one of its pieces, must go on as it did: raises `Conflict`
        OUTPUT_CHANGED when it does not.
        """
        if self._first is None:
            self._first = self._count = self._next = tokens.first_index
        if tokens.first_index < self._next:
            self._again, self._from = "", self._begins.get(tokens.first_index, -1)
        self._next = tokens.first_index + tokens.count
        if self._again is not None:
            return self._take_again(tokens)
        self._add(tokens)
        return True

    def _add(self, tokens: event_pb2.Tokens) -> None:
        self._ids.extend(tokens.token_ids)
        self._begins[tokens.first_index] = self._length
        self._texts.append(tokens.text)
        self._length += len(tokens.text)
        self._count = tokens.first_index + tokens.count

    def _take_again(self, tokens: event_pb2.Tokens) -> bool:
        assert self._again is not None, "the answer has begun anew"
        seen = "".join(self._texts)[self._from :]
        self._again += tokens.text
        known = min(len(seen), len(self._again))
        if self._from < 0 or self._again[:known] != seen[:known]:
            raise errors.Conflict(
                "queen and worker were lost at once, and the answer, generated anew, came out differently; ask again, "
                "with temperature 0 or a seed if it must come out the same",
                "OUTPUT_CHANGED",
            )
        fresh = tokens.first_index + tokens.count - self._count
        if fresh <= 0 or len(self._again) <= len(seen):
            return False
        tokens.text = self._again[len(seen) :]
        tokens.first_index, tokens.count = self._count, fresh
        del tokens.token_ids[: max(0, len(tokens.token_ids) - fresh)]
        del tokens.logprobs[: max(0, len(tokens.logprobs) - fresh)]
        self._again = None
        self._add(tokens)
        return True


def pauses(longest_s: float) -> Iterator[float]:
    """Yields pauses before the tries to get back, doubling from 0.1 to 2 s, `longest_s` seconds in all."""
    pause, left = 0.1, longest_s
    while left > 0:
        yield min(pause, left)
        left -= pause
        pause = min(pause * 2, 2.0)


def _is_broken(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether the connection failed rather than the job: only the queen's own errors carry details."""
    said_by_queen = any(key == status.DETAILS_KEY for key, _ in error.trailing_metadata() or ())
    return not said_by_queen and error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
