"""OpenAI's requests, checked, as jobs: one for each choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.types import Scope

from queen.web import extras, schema
from queen.web.styles import ChatStyle, ChunkStyle, Style, TextStyle, VectorStyle
from rbee.v1 import generation_pb2, job_pb2
from wire import errors

_ROLES: Final = {
    "system": generation_pb2.ROLE_SYSTEM,
    "developer": generation_pb2.ROLE_SYSTEM,
    "user": generation_pb2.ROLE_USER,
    "assistant": generation_pb2.ROLE_ASSISTANT,
    "tool": generation_pb2.ROLE_TOOL,
}
_NUMBERS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
_SEEDS: Final = 2**32
_MOST_CHOICES: Final = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What one request asks for. `style`: how its answer looks, `stream`: in chunks, None for a whole one.

    `likeliest`: tokens to tell at each place, None for no probabilities. `echoed`: what each choice begins with.
    """

    style: Style
    model: str
    specs: list[job_pb2.JobSpec]
    extras: extras.Extras
    stream: ChunkStyle | None
    include_usage: bool
    likeliest: int | None = None
    echoed: tuple[str, ...] = ()


def chat(body: Mapping[str, Any], scope: Scope) -> Asked:
    """Returns what a chat completion request asks for; raises `Invalid` naming every bad parameter."""
    faults = schema.faults_of("ChatCompletionRequest", body)
    if not faults:
        faults = [*_message_faults(body["messages"]), *_chat_faults(body)]
    if faults:
        raise errors.invalid(faults)
    spec = job_pb2.JobSpec(chat=generation_pb2.ChatInput(messages=map(_message, body["messages"])))
    likeliest = (body.get("top_logprobs") or 0) if body.get("logprobs") else None
    _set_format(spec, body.get("response_format") or {})
    spec.tools.extend(map(_tool, body.get("tools") or ()))
    if choice := body.get("tool_choice"):
        spec.tool_choice = choice if isinstance(choice, str) else choice["function"]["name"]
    if (parallel := body.get("parallel_tool_calls")) is not None:
        spec.parallel_tool_calls = parallel
    return _asked(ChatStyle(), [spec], body, scope, likeliest)


def text(body: Mapping[str, Any], scope: Scope) -> Asked:
    """Returns what a completion request asks for; raises `Invalid` naming every bad parameter."""
    faults = schema.faults_of("CompletionRequest", body)
    if not faults:
        faults = list(_text_faults(body))
    if faults:
        raise errors.invalid(faults)
    prompts = [body["prompt"]] if isinstance(body["prompt"], str) else body["prompt"]
    specs = [job_pb2.JobSpec(prompt=prompt) for prompt in prompts]
    return _asked(TextStyle(), specs, body, scope, body.get("logprobs"))


def vectors(body: Mapping[str, Any], scope: Scope) -> Asked:
    """Returns what an embedding request asks for; raises `Invalid` naming every bad parameter."""
    if faults := schema.faults_of("EmbeddingRequest", body):
        raise errors.invalid(faults)
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    spec = job_pb2.JobSpec(embedding=generation_pb2.EmbeddingInput(texts=texts))
    return _asked(VectorStyle(packed=body.get("encoding_format") == "base64"), [spec], body, scope, None)


def _asked(
    style: ChunkStyle | VectorStyle,
    specs: list[job_pb2.JobSpec],
    body: Mapping[str, Any],
    scope: Scope,
    likeliest: int | None,
) -> Asked:
    """Returns the request whose inputs are in `specs`, with what all of them share, each as often as it is wanted."""
    wanted, choices = extras.read(scope, body), body.get("n") or 1
    sampling = _sampling(body, likeliest)
    jobs = []
    for index, (spec, _) in enumerate((spec, number) for spec in specs for number in range(choices)):
        job = job_pb2.JobSpec() if choices > 1 else spec
        if choices > 1:
            job.CopyFrom(spec)
        job.model = body["model"]
        job.sampling.CopyFrom(sampling)
        if body.get("seed") is not None:
            job.sampling.seed = (int(body["seed"]) + index) % _SEEDS
        job.priority, job.session_id, job.tenant_id = wanted.priority, wanted.session, wanted.tenant
        job.labels.update(wanted.labels)
        jobs.append(job)
    return Asked(
        style=style,
        model=body["model"],
        specs=jobs,
        extras=wanted,
        stream=style if body.get("stream") and not isinstance(style, VectorStyle) else None,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        likeliest=likeliest,
        echoed=tuple(job.prompt for job in jobs) if body.get("echo") else (),
    )


def _sampling(body: Mapping[str, Any], likeliest: int | None) -> generation_pb2.Sampling:
    sampling = generation_pb2.Sampling(
        logprobs=0 if likeliest is None else max(1, int(likeliest)),
        stop=[body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or (),
        logit_bias={int(token): bias for token, bias in (body.get("logit_bias") or {}).items()},
        **{name: body[name] for name in _NUMBERS if body.get(name) is not None},
    )
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    if most is not None:
        sampling.max_tokens = int(most)
    if body.get("top_k") is not None:
        sampling.top_k = int(body["top_k"])
    return sampling


def _set_format(spec: job_pb2.JobSpec, wanted: Mapping[str, Any]) -> None:
    if wanted.get("type") == "json_object":
        spec.output_format.json_schema = '{"type":"object"}'
    elif wanted.get("type") == "json_schema":
        spec.output_format.json_schema = orjson.dumps(wanted["json_schema"]["schema"]).decode()


def _message(message: Mapping[str, Any]) -> generation_pb2.ChatMessage:
    content = message.get("content") or ""
    return generation_pb2.ChatMessage(
        role=_ROLES[message["role"]],
        content=content if isinstance(content, str) else "".join(part["text"] for part in content),
        name=message.get("name") or "",
        tool_call_id=message.get("tool_call_id") or "",
        tool_calls=(
            generation_pb2.ToolCall(
                id=call["id"], name=call["function"]["name"], arguments_json=call["function"]["arguments"], index=index
            )
            for index, call in enumerate(message.get("tool_calls") or ())
        ),
    )


def _tool(tool: Mapping[str, Any]) -> generation_pb2.Tool:
    function = tool["function"]
    parameters = function.get("parameters")
    return generation_pb2.Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters_json_schema="" if parameters is None else orjson.dumps(parameters).decode(),
    )


# What the schema cannot say: parameters that need or exclude each other.


def _message_faults(messages: list[Mapping[str, Any]]) -> list[errors.FieldFault]:
    faults = []
    for index, message in enumerate(messages):
        path, role = f"messages[{index}]", message["role"]
        if message.get("content") is None and not (role == "assistant" and message.get("tool_calls")):
            faults.append(errors.FieldFault(f"{path}.content", "required"))
        if message.get("tool_calls") and role != "assistant":
            faults.append(errors.FieldFault(f"{path}.tool_calls", "for the assistant's messages only"))
        if (role == "tool") != bool(message.get("tool_call_id")):
            expected = "required" if role == "tool" else "for a tool's messages only"
            faults.append(errors.FieldFault(f"{path}.tool_call_id", expected))
    return faults


def _chat_faults(body: Mapping[str, Any]) -> list[errors.FieldFault]:
    faults = _shared_faults(body)
    most = {body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None}
    if len(most) > 1:
        faults.append(errors.FieldFault("max_tokens", "the same as max_completion_tokens, or left out"))
    if body.get("top_logprobs") and not body.get("logprobs"):
        faults.append(errors.FieldFault("top_logprobs", "only with logprobs: true"))
    if body.get("parallel_tool_calls") is not None and not body.get("tools"):
        faults.append(errors.FieldFault("parallel_tool_calls", "only with tools"))
    return faults


def _text_faults(body: Mapping[str, Any]) -> list[errors.FieldFault]:
    faults = _shared_faults(body)
    if body.get("echo") and body.get("logprobs") is not None:
        faults.append(errors.FieldFault("echo", "not with logprobs: those of a prompt are not told"))
    if isinstance(body["prompt"], list) and len(body["prompt"]) * (body.get("n") or 1) > _MOST_CHOICES:
        faults.append(errors.FieldFault("n", f"at most {_MOST_CHOICES} choices of all prompts together"))
    return faults


def _shared_faults(body: Mapping[str, Any]) -> list[errors.FieldFault]:
    if body.get("stream_options") and not body.get("stream"):
        return [errors.FieldFault("stream_options", "only with stream: true")]
    return []
