"""What a caller asks for, in Python's words, and the JobSpec it becomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, Required, TypedDict

from rbee.v1 import generation_pb2, job_pb2
from wire import errors, validation
from wire.errors import FieldFault

RoleName = Literal["system", "user", "assistant", "tool"]
PriorityName = Literal["interactive", "batch"]


class ChatMessage(TypedDict):
    """One message of a chat."""

    role: RoleName
    content: str


class JobOptions(TypedDict, total=False):
    """Everything a job may ask for. Only `model` and one of `prompt` and `messages` are required.

    An option that is absent or None takes the default of the contract, see proto/rbee/v1/generation.proto.
    """

    model: Required[str]
    """An alias or file name ("rbee-tiny"), or a reference ("file:/models/a.gguf", "hf:org/repo::file")."""
    prompt: str | None
    """What a person says; it goes through the model's own chat template unless `raw` is set. At most 4 MiB."""
    messages: Sequence[ChatMessage] | None
    """A whole chat, oldest message first, instead of `prompt`."""
    system: str | None
    """Standing instructions, put before the prompt or the messages."""
    raw: bool
    """Continue the prompt as it stands, without a chat template. Default False."""
    max_tokens: int | None
    """Most tokens to generate, 1 to 1,048,576. Default: up to the context length."""
    temperature: float | None
    """0 (always the likeliest) to 2. Default 0.8."""
    top_p: float | None
    """Keep the likeliest tokens whose probabilities add up to this, above 0 up to 1. Default 0.95."""
    top_k: int | None
    """Keep this many likeliest tokens, 0 (all) to 1,000,000. Default 40."""
    min_p: float | None
    """Keep tokens at least this fraction as likely as the likeliest, 0 to 1. Default 0.05."""
    repetition_penalty: float | None
    """Divide the score of tokens already present by this, above 0 up to 2. Default 1 (off)."""
    presence_penalty: float | None
    """Subtracted from the score of tokens already present, -2 to 2. Default 0."""
    frequency_penalty: float | None
    """Subtracted for every time a token is present, -2 to 2. Default 0."""
    seed: int | None
    """Seed of the draw, 0 to 4,294,967,295. Default: drawn by the worker, see `Answer.done.seed`."""
    stop: Sequence[str] | None
    """End when one of these texts comes. At most 16, each 1 to 256 bytes."""
    logprobs: int | None
    """Report the log probabilities of this many likeliest tokens, 0 (none) to 20. Default 0."""
    json_schema: str | Mapping[str, Any] | None
    """The output is JSON that satisfies this JSON Schema, given as text or as a dict."""
    grammar: str | None
    """The output obeys this GBNF grammar. Not together with `json_schema`."""
    priority: PriorityName | None
    """How urgent it is. Default "interactive"."""
    session: str | None
    """Groups requests of one conversation. At most 256 bytes."""
    tenant: str | None
    """Who asks. Default: the default tenant."""
    labels: Mapping[str, str] | None
    """Free marks for policies and lists, at most 64."""
    timeout_s: float | None
    """Seconds from submission to the end, above 0 up to what the queen allows, 1800 s unless set otherwise.

    Default of this and the other timeouts: what the queen has set for the model, else for all. Here 300 s.
    """
    queue_timeout_s: float | None
    """Seconds of one stay in the queue. Default: `timeout_s`."""
    start_timeout_s: float | None
    """Seconds waiting for a worker that is started for it. Default 300."""
    first_token_timeout_s: float | None
    """Seconds from dispatch to the first token. Default: `timeout_s`."""
    stall_timeout_s: float | None
    """Seconds between two tokens. Default 60."""
    no_failover: bool
    """Fail the job when its worker is lost instead of going on elsewhere. Default False."""


_SAMPLING: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "logprobs",
)
_TIMEOUTS: Final = {
    "timeout_s": "total",
    "queue_timeout_s": "queue",
    "start_timeout_s": "start",
    "first_token_timeout_s": "first_token",
    "stall_timeout_s": "stall",
}


def job_spec(options: JobOptions) -> job_pb2.JobSpec:
    """Returns the job a caller asks for; raises `Invalid` with every bad field where one cannot even be written down.

    Ranges are the queen's to check; here only what the contract's types cannot hold is refused, such as -1 tokens.
    """
    job = job_pb2.JobSpec(
        model=options["model"],
        session_id=options.get("session") or "",
        tenant_id=options.get("tenant") or "",
        labels=options.get("labels") or {},
        no_failover=options.get("no_failover", False),
    )
    faults = [*_set_input(job, options), *_set_numbers(job, options), *_set_format(job, options)]
    if (priority := options.get("priority")) is not None:
        name = f"PRIORITY_{priority.upper()}"
        if name in job_pb2.Priority.keys():  # noqa: SIM118 (an enum is not a dict)
            job.priority = job_pb2.Priority.Value(name)
        else:
            faults.append(FieldFault("job.priority", f"interactive or batch, not {priority}"))
    if faults:
        known = {fault.field for fault in faults}
        faults += [fault for fault in validation.job_faults(job) if fault.field not in known]
        raise errors.invalid(faults)
    return job


def _set_input(job: job_pb2.JobSpec, options: JobOptions) -> Iterator[FieldFault]:
    prompt, messages = options.get("prompt"), options.get("messages")
    if (prompt is None) == (messages is None):
        yield FieldFault("job.prompt", "exactly one of prompt and messages")
        return
    if prompt is not None and options.get("raw", False):
        if options.get("system") is not None:
            yield FieldFault("job.chat.messages", "a system text needs the chat template: leave out raw")
        job.prompt = prompt
        return
    chat: list[ChatMessage] = list(messages) if messages is not None else [{"role": "user", "content": prompt or ""}]
    if (system := options.get("system")) is not None:
        chat.insert(0, {"role": "system", "content": system})
    job.chat.SetInParent()
    for index, message in enumerate(chat):
        name = f"ROLE_{str(message.get('role')).upper()}"
        known = name in generation_pb2.Role.keys()  # noqa: SIM118 (an enum is not a dict)
        if not known:
            yield FieldFault(f"job.chat.messages[{index}].role", "system, user, assistant or tool")
        role = generation_pb2.Role.Value(name) if known else generation_pb2.ROLE_UNSPECIFIED
        job.chat.messages.add(role=role, content=message.get("content", ""))


def _set_numbers(job: job_pb2.JobSpec, options: JobOptions) -> Iterator[FieldFault]:
    given: Mapping[str, Any] = options
    for name in _SAMPLING:
        if (value := given.get(name)) is None:
            continue
        try:
            setattr(job.sampling, name, value)
        except (TypeError, ValueError):
            yield FieldFault(f"job.sampling.{name}", f"a number within its range, not {value!r}")
    job.sampling.stop.extend(options.get("stop") or ())
    for name, field in _TIMEOUTS.items():
        if (seconds := given.get(name)) is None:
            continue
        try:
            getattr(job.timeouts, field).FromNanoseconds(round(seconds * 1e9))
        except (TypeError, ValueError, OverflowError):
            yield FieldFault(f"job.timeouts.{field}", f"a number of seconds, not {seconds!r}")


def _set_format(job: job_pb2.JobSpec, options: JobOptions) -> Iterator[FieldFault]:
    schema, grammar = options.get("json_schema"), options.get("grammar")
    if schema is not None and grammar is not None:
        yield FieldFault("job.output_format", "a JSON Schema or a grammar, not both")
    elif schema is not None:
        job.output_format.json_schema = schema if isinstance(schema, str) else json.dumps(schema)
    elif grammar is not None:
        job.output_format.grammar = grammar
