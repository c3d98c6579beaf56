"""What an engine is to a worker: one loaded model that turns requests into pieces of text, several at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

Backend = Literal["cpu", "cuda", "rocm", "metal"]
Finish = Literal["stop", "length", "tool_calls"]
DEFAULT_CONTEXT_LENGTH = 8192
"""Tokens a slot holds unless told otherwise: memory for the KV cache grows with it, and few requests need more."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for, or the next piece of one; `index` counts the calls of one answer from 0."""

    id: str
    name: str
    arguments_json: str
    index: int


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may ask to have called; the schema is JSON text, empty when it takes nothing."""

    name: str
    description: str
    parameters_json_schema: str


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `role` is system, user, assistant or tool."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One generation: `texts` to embed, or `messages`, or `prompt` when there are none of both.

    Ranges are those of the contract's Sampling.
    `max_tokens` counts the whole answer, `generated_token_ids` included; None: up to the context length.
    `repeatable`: the caller chose the seed, so the same request is to draw the same tokens again.
    """

    prompt: str = ""
    messages: tuple[Message, ...] = ()
    texts: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    repeatable: bool = False
    stop: tuple[str, ...] = ()
    logprobs: int = 0
    json_schema: str = ""
    grammar: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    parallel_tool_calls: bool = True
    logit_bias: tuple[tuple[int, float], ...] = ()
    generated_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """One likely token; `logprob` is the natural logarithm of its probability, NaN where the engine does not tell."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The token that was drawn at one place, and the likeliest ones there, likeliest first."""

    chosen: TokenProbability
    likeliest: tuple[TokenProbability, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` tokens and exactly their text, in whole UTF-8 characters.

    `token_ids` and `logprobs` have `count` members, or none where the engine does not tell or was not asked.
    """

    text: str
    count: int = 1
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a generation ended, and what its prompt took; the last item an engine yields.

    `embeddings`: one vector for each text that was to be embedded; such a request gets no pieces.
    """

    finish: Finish
    prompt_tokens: int
    cached_prompt_tokens: int = 0
    prompt_eval_s: float = 0.0
    stop_sequence: str = ""
    embeddings: tuple[tuple[float, ...], ...] = ()


class Engine(Protocol):
    """One loaded model. The attributes are true once `load` has returned."""

    name: str
    version: str
    backend: Backend
    slots: int
    context_length: int

    def load(self) -> None:
        """Loads the model; blocks, and is called once, before anything else. Raises errors of `wire.errors`."""
        ...

    def generate(self, request: Request) -> AsyncGenerator[Piece | Ending, None]:
        """Yields pieces, then one `Ending`. Closing it ends the generation and returns when its slot is free.

        At most `slots` run at once; the caller sees to that. Raises `Invalid` for what the model cannot be asked,
        `WrongState` NOT_AN_EMBEDDING_MODEL or NOT_A_GENERATING_MODEL for one of the other kind, `Unserved` for what the
        engine does not do, `Internal` ENGINE_FAILED when it broke.
        """
        ...

    async def count_tokens(self, request: Request) -> int:
        """Returns how many tokens the prompt of a request has, as `generate` would count them; takes no slot."""
        ...

    def close(self) -> None:
        """Frees the model; no generation runs any more."""
        ...
