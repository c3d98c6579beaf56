"""A request in the words of llama.cpp's completion and chat calls.

Their fields: github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
"""

from __future__ import annotations

import json
from typing import Any, Final

from wire import errors
from worker.engines.port import Message, Request, Tool

_DRAWN_BY_LLAMA: Final = 0xFFFFFFFF
"""The seed that makes llama.cpp draw one of its own, which nobody could report."""

_SPACING: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is spaced, in the words of llguidance, which compiles schemas. Left free, small models space for ever."""


def settings(request: Request, context_length: int) -> dict[str, Any]:
    """Returns what both calls share: how tokens are drawn, and how the answer is to come."""
    body: dict[str, Any] = {
        "stream": True,
        # A prompt read in other batches gives slightly other numbers, which is enough to draw other tokens.
        "cache_prompt": not request.repeatable,
        # A sign of life per batch of the prompt, so that a generation can be ended while its prompt is read.
        "return_progress": True,
        "n_predict": -1 if request.max_tokens is None else request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repeat_penalty": request.repetition_penalty,
        "repeat_last_n": context_length,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        "seed": min(request.seed, _DRAWN_BY_LLAMA - 1),
        "stop": list(request.stop),
        "logit_bias": [[token, bias] for token, bias in request.logit_bias],
    }
    if request.json_schema:
        body["json_schema"] = json.loads(request.json_schema)
        body["json_schema"].setdefault("x-guidance", _SPACING)
    if request.grammar:
        if request.grammar.lstrip().startswith("%llguidance"):
            raise errors.invalid(
                [errors.FieldFault("job.output_format.grammar", "a GBNF grammar, not an llguidance one")]
            )
        body["grammar"] = request.grammar
    return body


def completion(request: Request, prompt: str) -> dict[str, Any]:
    """Returns what continues a text; generated tokens go in as ids, so that their text is not cut anew."""
    body: dict[str, Any] = {
        "prompt": prompt,
        "n_probs": request.logprobs,
        # The only way to token ids in these calls: the native form of each chunk comes along as "__verbose".
        "verbose": True,
        "return_tokens": True,
    }
    if request.generated_token_ids and not must_replay(request):
        body["prompt"] = [prompt, *request.generated_token_ids]
        if request.max_tokens is not None:
            body["n_predict"] = request.max_tokens - len(request.generated_token_ids)
    return body


def must_replay(request: Request) -> bool:
    """Tells whether a continuation must be generated anew up to where it was.

    llama.cpp starts a grammar at the first new token; it cannot be told what the output was before.
    """
    return bool(request.generated_token_ids and (request.json_schema or request.grammar))


def chat(request: Request) -> dict[str, Any]:
    """Returns the messages, in the form llama.cpp's chat templates take."""
    return {"messages": [_message(message) for message in request.messages]}


def tools(request: Request) -> dict[str, Any]:
    """Returns the tools, and what makes each chunk of the chat call say how many tokens there are."""
    choice, offered = request.tool_choice or "auto", request.tools
    if choice not in ("auto", "none", "required"):
        # llama.cpp takes no name there: it has to call one, and there is no other.
        choice, offered = "required", tuple(tool for tool in request.tools if tool.name == choice)
    return {
        "tools": [_tool(tool) for tool in offered],
        "tool_choice": choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "reasoning_format": "none",
        "timings_per_token": True,
        "stream_options": {"include_usage": True},
    }


def refuse_unserved_with_tools(request: Request, supports_tools: bool) -> None:
    """Raises what stands against tools: a model without them, or what the chat call does not take or tell."""
    if not supports_tools:
        fault = errors.FieldFault("job.tools", "none: this model's chat template has no place for tools")
        raise errors.invalid([fault])
    if request.logprobs:
        raise errors.Unserved(
            "engine llamacpp does not report log probabilities together with tools",
            faults=[errors.FieldFault("job.sampling.logprobs", "none together with tools")],
        )
    if request.generated_token_ids:
        raise errors.Unserved("engine llamacpp cannot go on with an answer that may call tools; generate it anew")


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in message.tool_calls
        ]
    if message.name:
        body["name"] = message.name
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = json.loads(tool.parameters_json_schema) if tool.parameters_json_schema else {"type": "object"}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}
