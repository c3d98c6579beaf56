"""llama.cpp's streamed chunks, read into pieces: tokens wait until their text is whole, and leave together with it.

So an answer can be taken up elsewhere after any piece: what its ids say and what its text says is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Final

from wire import errors
from worker.engines import llama_requests
from worker.engines.port import (
    Ending,
    Finish,
    Piece,
    Request,
    TokenLogprobs,
    TokenProbability,
    ToolCall,
)

_FINISH: Final[dict[str, Finish]] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


def engine_error(error: dict[str, Any]) -> errors.RbeeError:
    """Returns llama.cpp's error object as an error of the taxonomy."""
    if error.get("type") == "exceed_context_size_error":
        return errors.prompt_too_long(error["n_prompt_tokens"], error["n_ctx"])
    message = f"llama.cpp refuses the request: {error.get('message', error)}"
    if 400 <= error.get("code", 500) < 500:
        return errors.Invalid(message)
    return errors.Internal(message, "ENGINE_FAILED")


class TextReader:
    """Reads the chunks of one completion call. `ask` puts a question to llama.cpp's listener."""

    def __init__(self, request: Request, ask: Callable[[str, dict[str, Any]], Any]) -> None:
        self.ended = False
        self.failure: errors.RbeeError | None = None
        self._ask = ask
        self._logprobs = request.logprobs
        replays = llama_requests.must_replay(request)
        self._replay = request.generated_token_ids if replays else ()
        self._fed = 0 if replays else len(request.generated_token_ids)
        self._made = 0
        self._held_ids: list[int | None] = []
        self._held_logprobs: list[TokenLogprobs | None] = []

    def read(self, chunk: dict[str, Any]) -> list[Piece | Ending]:
        """Returns what a chunk completes, if anything; sets `ended` or `failure` at the last one."""
        if "error" in chunk:
            self.failure = engine_error(chunk["error"])
            return []
        native = chunk["__verbose"]
        if "prompt_progress" in native:
            return []
        if native["stop"]:
            return [*self._rest(native), *self._end(native)]
        self._hold(native)
        # Without text there is nothing to send yet: part of a stop sequence, or a token that has no text.
        return self._release(native["content"]) if native["content"] else []

    def _rest(self, native: dict[str, Any]) -> list[Piece | Ending]:
        """Returns the tokens llama.cpp withheld as the possible beginning of a stop sequence that then did not come."""
        if native["stop_type"] != "limit" or not self._held_ids or None in self._held_ids:
            return []
        text = self._ask("/detokenize", {"tokens": self._held_ids})["content"]
        return self._release(text) if text and "\ufffd" not in text else []

    def _hold(self, native: dict[str, Any]) -> None:
        # llama.cpp sends no chunk for a token that ends inside a character; only the count betrays it.
        lost = native["tokens_predicted"] - self._made - len(native["tokens"])
        self._made = native["tokens_predicted"]
        self._held_ids += [*[None] * lost, *native["tokens"]]
        if self._logprobs:
            told = [_logprobs(place) for place in native.get("completion_probabilities", ())]
            self._held_logprobs += [*[None] * lost, *told]

    def _release(self, text: str) -> list[Piece | Ending]:
        ids = self._held_ids if None not in self._held_ids else self._recovered(text)
        count = len(self._held_ids)
        logprobs = (
            place or TokenLogprobs(TokenProbability(number or 0, "", math.nan), ())
            for place, number in itertools.zip_longest(self._held_logprobs, ids)
        )
        piece = Piece(
            text,
            count,
            tuple(number for number in ids if number is not None),
            tuple(logprobs) if len(self._held_logprobs) == count else (),
        )
        self._held_ids, self._held_logprobs = [], []
        if not self._replay:
            return [piece]
        expected, self._replay = self._replay[: piece.count], self._replay[piece.count :]
        if piece.token_ids != expected:
            self.failure = _came_out_differently()
        return []

    def _recovered(self, text: str) -> list[int | None]:
        """Returns the ids of the held tokens, with those llama.cpp never told taken from cutting their text again.

        Empty when the tokenizer cuts it differently: then nobody can tell.
        """
        cut = self._ask("/tokenize", {"content": text, "with_pieces": True})["tokens"][-len(self._held_ids) :]
        ids = [token["id"] for token in cut]
        bytes_of = [p.encode() if isinstance(p, str) else bytes(p) for p in (token["piece"] for token in cut)]
        agrees = len(ids) == len(self._held_ids) and all(
            a in (None, b) for a, b in zip(self._held_ids, ids, strict=True)
        )
        return ids if agrees and b"".join(bytes_of) == text.encode() else []

    def _end(self, native: dict[str, Any]) -> list[Piece | Ending]:
        if self._replay:
            self.failure = self.failure or _came_out_differently()
            return []
        self.ended = True
        timings = native["timings"]
        prompt_tokens = native["tokens_evaluated"] - self._fed
        finish: Finish = "length" if native["stop_type"] == "limit" else "stop"
        cached = min(timings["cache_n"], prompt_tokens)
        return [Ending(finish, prompt_tokens, cached, timings["prompt_ms"] / 1000, native["stopping_word"])]


class ChatReader:
    """Reads the chunks of one chat call with tools. Token ids are not told there."""

    def __init__(self) -> None:
        self.ended = False
        self.failure: errors.RbeeError | None = None
        self._made = 0
        self._held_text = ""
        self._held_calls: tuple[ToolCall, ...] = ()
        self._finish: Finish = "stop"

    def read(self, chunk: dict[str, Any]) -> list[Piece | Ending]:
        """Returns what a chunk brings, if anything; sets `ended` or `failure` at the last one."""
        if "error" in chunk:
            self.failure = engine_error(chunk["error"])
            return []
        timings = chunk.get("timings") or {}
        if not chunk["choices"]:
            self.ended = True
            usage = chunk["usage"]
            cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            ending = Ending(self._finish, usage["prompt_tokens"], cached, timings.get("prompt_ms", 0.0) / 1000)
            return [*self._release(0), ending]
        choice = chunk["choices"][0]
        self._finish = _FINISH.get(choice["finish_reason"] or "", self._finish)
        delta = choice["delta"]
        self._held_text += delta.get("content") or ""
        self._held_calls += tuple(map(_tool_call, delta.get("tool_calls") or ()))
        # What stands at a prompt's end may begin a call, told before any token: it goes with the first one.
        count = timings.get("predicted_n", 0) - self._made
        return self._release(count) if count > 0 else []

    def _release(self, count: int) -> list[Piece | Ending]:
        text, calls = self._held_text, self._held_calls
        if not text and not calls:
            return []
        self._made += count
        self._held_text, self._held_calls = "", ()
        return [Piece(text, count, tool_calls=calls)]


def _came_out_differently() -> errors.Internal:
    return errors.Internal(
        "this answer obeys a grammar and came out differently when it was generated again, so it cannot be continued; "
        "with temperature 0, or a seed, it can",
        "ENGINE_FAILED",
    )


def _tool_call(call: dict[str, Any]) -> ToolCall:
    function = call.get("function", {})
    return ToolCall(call.get("id") or "", function.get("name") or "", function.get("arguments") or "", call["index"])


def _logprobs(place: dict[str, Any]) -> TokenLogprobs:
    return TokenLogprobs(_probability(place), tuple(map(_probability, place["top_logprobs"])))


def _probability(told: dict[str, Any]) -> TokenProbability:
    return TokenProbability(told["id"], told["token"], told["logprob"])
