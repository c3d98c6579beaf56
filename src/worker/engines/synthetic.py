"""An engine without a model: a set number of made-up tokens at a set pace, for benchmarks and tests. It says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from wire import errors
from wire.clock import Clock
from worker.engines.options import read_options
from worker.engines.port import DEFAULT_CONTEXT_LENGTH, Backend, Ending, Piece, Request

_TICK_S = 0.004
"""Streams wake on this grid, together: a timer for each token of 100 streams would cost more than the tokens."""
_BURST = 64
"""Tokens made in one go when there is no pace to keep; then others have their turn."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How the engine behaves; each field is an engine option of that name."""

    tokens_per_second: float = field(default=50.0, metadata={"help": "tokens per second of each stream; 0: no limit"})
    first_token_ms: float = field(default=0.0, metadata={"help": "milliseconds before the first token"})
    load_ms: float = field(default=0.0, metadata={"help": "milliseconds before the worker is ready"})
    completion_tokens: int = field(default=100, metadata={"help": "tokens of an answer that sets no max_tokens below"})


class Synthetic:
    """Answers every prompt with "synthetic tok1 tok2 ..."; a prompt's tokens are its words."""

    name = "synthetic"
    version = "1 (synthetic: no model, made-up tokens)"
    backend: Backend = "cpu"

    def __init__(self, slots: int, context_length: int, options: Mapping[str, str], clock: Clock) -> None:
        self.slots = slots
        self.context_length = context_length or DEFAULT_CONTEXT_LENGTH
        self._pace = read_options(Pace, options, self.name)
        self._clock = clock
        self._ticker = _Ticker(clock)

    def load(self) -> None:
        """Takes the time it was told to take: there is no model."""
        threading.Event().wait(self._pace.load_ms / 1000)

    def close(self) -> None:
        """Does nothing: there is no model."""

    async def count_tokens(self, request: Request) -> int:
        """Returns the number of words."""
        said = (*request.texts, *(message.content for message in request.messages), request.prompt)
        return len("\n".join(said).split())

    async def generate(self, request: Request) -> AsyncGenerator[Piece | Ending, None]:
        """Yields one piece per token, each when it is due; the same request always gets the same answer."""
        self._refuse_unserved(request)
        prompt_tokens = await self.count_tokens(request)
        if prompt_tokens >= self.context_length:
            raise errors.prompt_too_long(prompt_tokens, self.context_length)
        room = self.context_length - prompt_tokens
        allowed = min(room, request.max_tokens or room)
        words, stop_sequence = _answer(min(allowed, self._pace.completion_tokens), request.stop)
        first = len(request.generated_token_ids)
        start = self._clock.monotonic() + self._pace.first_token_ms / 1000
        step = 1 / self._pace.tokens_per_second if self._pace.tokens_per_second else 0.0
        for index, word in enumerate(words[first:]):
            due = start + index * step
            if due > self._clock.monotonic():
                await self._ticker.until(due)
            elif index % _BURST == 0:
                await asyncio.sleep(0)
            yield Piece(word, 1, (first + index,))
        cut = not stop_sequence and allowed < self._pace.completion_tokens
        yield Ending("length" if cut else "stop", prompt_tokens, stop_sequence=stop_sequence)

    def _refuse_unserved(self, request: Request) -> None:
        asked = {
            "embedding": request.texts,
            "output_format": request.json_schema or request.grammar,
            "tools": request.tools,
            "sampling.logprobs": request.logprobs,
            "sampling.logit_bias": request.logit_bias,
        }
        if names := [name for name, value in asked.items() if value]:
            raise errors.Unserved(
                f"the synthetic engine does not serve {', '.join(names)}: use engine llamacpp",
                faults=[errors.FieldFault(f"job.{name}", "not served by the synthetic engine") for name in names],
            )


def _answer(count: int, stop: tuple[str, ...]) -> tuple[list[str], str]:
    """Returns the texts of at most `count` tokens, cut before the first stop sequence, and that sequence."""
    words = ["synthetic", *(f" tok{number}" for number in range(1, count))][:count]
    text = "".join(words)
    places = [(text.index(sequence), sequence) for sequence in stop if sequence in text]
    if not places:
        return words, ""
    end, met = min(places)
    kept: list[str] = []
    for word, begin in zip(words, itertools.accumulate(map(len, words), initial=0), strict=False):
        if begin < end:
            kept.append(word[: end - begin])
    return kept, met


class _Ticker:
    """One timer for everybody who waits, set to the earliest of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    async def until(self, due: float) -> None:
        """Returns at the first tick at or after `due`, in seconds of the clock's `monotonic`."""
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (due, next(self._order), future))
        if self._timer is None:
            self._arm()
        elif self._waiting[0][2] is future:
            self._timer.cancel()
            self._arm()
        await future

    def _arm(self) -> None:
        tick = -(-self._waiting[0][0] // _TICK_S) * _TICK_S
        self._timer = asyncio.get_running_loop().call_later(max(0.0, tick - self._clock.monotonic()), self._fire)

    def _fire(self) -> None:
        now = self._clock.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
        self._timer = None
        if self._waiting:
            self._arm()
