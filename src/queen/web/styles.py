"""How answers look: those of chat completions and those of plain ones, whole and in chunks."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from rbee.v1 import event_pb2, generation_pb2

FINISH: Final = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}

Json = dict[str, Any]


@dataclass(slots=True)
class Part:
    """Some of one choice's answer, or all of it.

    `first`: nothing came before. `place`: where its text begins in that with log probabilities. `done`: the ending.
    """

    text: str = ""
    logprobs: list[generation_pb2.TokenLogprobs] = field(default_factory=list)
    tool_calls: list[generation_pb2.ToolCall] = field(default_factory=list)
    done: event_pb2.Done | None = None
    first: bool = False
    place: int = 0

    @property
    def finish_reason(self) -> str | None:
        """Why it ended; None while it has not."""
        return FINISH.get(self.done.finish_reason, "stop") if self.done is not None else None


def part_of(events: Iterable[event_pb2.JobEvent]) -> Part:
    """Returns what events of a job carry of its answer."""
    part, texts = Part(), []
    for event in events:
        if event.HasField("tokens"):
            tokens = event.tokens
            texts.append(tokens.text)
            part.logprobs.extend(tokens.logprobs)
            part.tool_calls.extend(tokens.tool_calls)
        elif event.HasField("done"):
            part.done = event.done
    part.text = "".join(texts)
    return part


class Style(Protocol):
    """The look of an endpoint's whole answers. `likeliest`: tokens to tell at each place, None for no probabilities."""

    id_prefix: str
    whole: str

    def answer(self, parts: list[Part], likeliest: int | None) -> Json:
        """Returns what a whole answer says beside its head."""
        ...


class ChunkStyle(Style, Protocol):
    """The look of answers that also come in chunks."""

    chunk: str

    def delta(self, index: int, part: Part, likeliest: int | None) -> Json:
        """Returns a choice of a chunk."""
        ...


class ChatStyle:
    """Chat completions."""

    id_prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def answer(self, parts: list[Part], likeliest: int | None) -> Json:
        """Returns what a whole answer says beside its head."""
        choices = [self.choice(index, part, likeliest) for index, part in enumerate(parts)]
        return {"choices": choices, "usage": usage(parts)}

    def choice(self, index: int, part: Part, likeliest: int | None) -> Json:
        """Returns a whole choice."""
        calls = [{key: call[key] for key in ("id", "type", "function")} for call in _tool_calls(part.tool_calls)]
        message: Json = {"role": "assistant", "content": part.text or (None if calls else ""), "refusal": None}
        if calls:
            message["tool_calls"] = calls
        logprobs = _chat_logprobs(part, likeliest)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": part.finish_reason}

    def delta(self, index: int, part: Part, likeliest: int | None) -> Json:
        """Returns a choice of a chunk."""
        delta: Json = {"role": "assistant"} if part.first else {}
        if part.text or (part.first and not part.tool_calls):
            delta["content"] = part.text
        if part.tool_calls:
            delta["tool_calls"] = [_call_piece(call) for call in _tool_calls(part.tool_calls)]
        logprobs = _chat_logprobs(part, likeliest) if part.logprobs else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": part.finish_reason}


class TextStyle:
    """Plain completions."""

    id_prefix = "cmpl-"
    whole = chunk = "text_completion"

    def answer(self, parts: list[Part], likeliest: int | None) -> Json:
        """Returns what a whole answer says beside its head."""
        choices = [self.choice(index, part, likeliest) for index, part in enumerate(parts)]
        return {"choices": choices, "usage": usage(parts)}

    def choice(self, index: int, part: Part, likeliest: int | None) -> Json:
        """Returns a whole choice."""
        logprobs = _text_logprobs(part, likeliest)
        return {"index": index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish_reason}

    delta = choice


class VectorStyle:
    """Embeddings: numbers, or the base64 of 32-bit little-endian ones. They are not streamed."""

    id_prefix = "embd-"
    whole = "list"

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed

    def answer(self, parts: list[Part], likeliest: int | None) -> Json:
        """Returns what a whole answer says beside its head."""
        vectors = [vector.values for part in parts if part.done is not None for vector in part.done.embeddings]
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if self._packed else list(vector)}
            for index, vector in enumerate(vectors)
        ]
        return {"data": data, "usage": usage(parts)}


def _packed(vector: Iterable[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def usage(parts: Iterable[Part]) -> Json:
    """Returns the tokens of choices that have ended, together."""
    told = [part.done.usage for part in parts if part.done is not None]
    prompt, completion = (sum(one.prompt_tokens for one in told), sum(one.completion_tokens for one in told))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_prompt_tokens for one in told)},
    }


def _tool_calls(pieces: Iterable[generation_pb2.ToolCall]) -> list[Json]:
    """Returns tool calls, the pieces of each joined."""
    calls: dict[int, Json] = {}
    for piece in pieces:
        call = calls.setdefault(piece.index, {"index": piece.index, "id": "", "type": "function",
                                              "function": {"name": "", "arguments": ""}})  # fmt: skip
        call["id"] += piece.id
        call["function"]["name"] += piece.name
        call["function"]["arguments"] += piece.arguments_json
    return list(calls.values())


def _call_piece(call: Json) -> Json:
    """Returns a tool call as chunks have it: what says which call it is comes with its first piece alone."""
    if call["id"]:
        return call
    return {"index": call["index"], "function": {"arguments": call["function"]["arguments"]}}


def _chat_logprobs(part: Part, likeliest: int | None) -> Json | None:
    if likeliest is None:
        return None
    return {
        "content": [
            {**_told(place.chosen), "top_logprobs": [_told(one) for one in place.likeliest[:likeliest]]}
            for place in part.logprobs
        ],
        "refusal": None,
    }


def _text_logprobs(part: Part, likeliest: int | None) -> Json | None:
    if likeliest is None:
        return None
    offsets, place_in_text = [], part.place
    for place in part.logprobs:
        offsets.append(place_in_text)
        place_in_text += len(place.chosen.text)
    return {
        "tokens": [place.chosen.text for place in part.logprobs],
        "token_logprobs": [_finite(place.chosen.logprob) for place in part.logprobs],
        "top_logprobs": [
            {one.text: _finite(one.logprob) for one in place.likeliest[:likeliest]} for place in part.logprobs
        ],
        "text_offset": offsets,
    }


def _told(token: generation_pb2.TokenProbability) -> Mapping[str, Any]:
    """Returns a token; `bytes` is null where its text alone does not tell them, `logprob` where no engine told it."""
    bytes_of = None if "\ufffd" in token.text else list(token.text.encode())
    return {"token": token.text, "logprob": _finite(token.logprob), "bytes": bytes_of}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
