"""Checks of a JobSpec that need no state: every bad field at once, each with what was expected."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from rbee.v1 import generation_pb2, job_pb2
from wire.errors import FieldFault

MAX_INPUT_BYTES: Final = 4 * 2**20
LONGEST_S: Final = 7 * 86_400.0
"""The longest of all timeouts, seconds: a week. What a queen allows is hers to say."""

# field of Sampling: (least, most, is the least itself excluded)
_RANGES: Final[dict[str, tuple[float, float, bool]]] = {
    "max_tokens": (1, 1_048_576, False),
    "temperature": (0, 2, False),
    "top_p": (0, 1, True),
    "top_k": (0, 1_000_000, False),
    "min_p": (0, 1, False),
    "repetition_penalty": (0, 2, True),
    "presence_penalty": (-2, 2, False),
    "frequency_penalty": (-2, 2, False),
}


def job_faults(job: job_pb2.JobSpec, path: str = "job", *, longest_s: float = LONGEST_S) -> list[FieldFault]:
    """Returns every bad field of a job; empty when it is right as far as one can tell without the cluster.

    `longest_s`: the most any of its timeouts may be.
    """
    return list(_job_faults(job, path, longest_s))


def _job_faults(job: job_pb2.JobSpec, path: str, longest_s: float) -> Iterator[FieldFault]:
    if not job.model.strip():
        yield FieldFault(f"{path}.model", "a model is required: rbee model list")
    yield from _input_faults(job, path)
    yield from _sampling_faults(job.sampling, f"{path}.sampling")
    yield from _format_faults(job, path)
    yield from _timeout_faults(job.timeouts, f"{path}.timeouts", longest_s)
    if len(job.session_id.encode()) > 256:
        yield FieldFault(f"{path}.session_id", "at most 256 bytes")
    if len(job.labels) > 64:
        yield FieldFault(f"{path}.labels", "at most 64 labels")
    for key, value in job.labels.items():
        if not key or len(key.encode()) > 256 or len(value.encode()) > 256:
            yield FieldFault(f"{path}.labels[{key[:32]}]", "keys of 1 to 256 bytes, values of at most 256 bytes")
    yield from _nul_faults(job, path)
    geo = job.user_geo
    if geo.HasField("latitude") and not -90 <= geo.latitude <= 90:
        yield FieldFault(f"{path}.user_geo.latitude", "-90 to 90 degrees")
    if geo.HasField("longitude") and not -180 <= geo.longitude <= 180:
        yield FieldFault(f"{path}.user_geo.longitude", "-180 to 180 degrees")


def _nul_faults(job: job_pb2.JobSpec, path: str) -> Iterator[FieldFault]:
    """Yields texts that would go into the database and that PostgreSQL cannot hold."""
    for name in ("model", "session_id", "tenant_id"):
        if "\0" in getattr(job, name):
            yield FieldFault(f"{path}.{name}", "text without NUL characters")
    if any("\0" in text for pair in job.labels.items() for text in pair):
        yield FieldFault(f"{path}.labels", "text without NUL characters")


def _input_faults(job: job_pb2.JobSpec, path: str) -> Iterator[FieldFault]:
    which = job.WhichOneof("input")
    if which is None:
        yield FieldFault(f"{path}.prompt", "one of prompt, chat or embedding is required")
    elif job.ByteSize() > MAX_INPUT_BYTES + 65_536 or len(job.prompt) > MAX_INPUT_BYTES:
        yield FieldFault(f"{path}.{which}", "at most 4 MiB in all")
    if which == "prompt" and not job.prompt:
        yield FieldFault(f"{path}.prompt", "must not be empty")
    if which == "chat" and not job.chat.messages:
        yield FieldFault(f"{path}.chat.messages", "at least one message")
    if which == "embedding" and not job.embedding.texts:
        yield FieldFault(f"{path}.embedding.texts", "at least one text")
    for index, message in enumerate(job.chat.messages):
        if message.role not in generation_pb2.Role.values() or message.role == generation_pb2.ROLE_UNSPECIFIED:
            yield FieldFault(f"{path}.chat.messages[{index}].role", "system, user, assistant or tool")
        if len(message.name.encode()) > 64:
            yield FieldFault(f"{path}.chat.messages[{index}].name", "at most 64 bytes")


def _sampling_faults(sampling: generation_pb2.Sampling, path: str) -> Iterator[FieldFault]:
    # ListFields names every field with presence that was set, also one set to 0.
    for descriptor, value in sampling.ListFields():
        name = descriptor.name
        if name not in _RANGES:
            continue
        least, most, exclusive = _RANGES[name]
        # Written so that NaN, which compares false with everything, is refused.
        if not ((least < value if exclusive else least <= value) and value <= most):
            lower = f"above {least:,}" if exclusive else f"{least:,}"
            yield FieldFault(f"{path}.{name}", f"{lower} to {most:,}, not {value:,}")
    if sampling.logprobs > 20:
        yield FieldFault(f"{path}.logprobs", f"0 to 20, not {sampling.logprobs}")
    yield from _bias_faults(sampling, path)
    if len(sampling.stop) > 16:
        yield FieldFault(f"{path}.stop", f"at most 16 stop sequences, not {len(sampling.stop)}")
    for index, text in enumerate(sampling.stop):
        if not 1 <= len(text.encode()) <= 256:
            yield FieldFault(f"{path}.stop[{index}]", "1 to 256 bytes")


def _bias_faults(sampling: generation_pb2.Sampling, path: str) -> Iterator[FieldFault]:
    if len(sampling.logit_bias) > 1024:
        yield FieldFault(f"{path}.logit_bias", f"at most 1,024 tokens, not {len(sampling.logit_bias):,}")
    for token, bias in sampling.logit_bias.items():
        if not -100 <= bias <= 100:
            yield FieldFault(f"{path}.logit_bias[{token}]", f"-100 to 100, not {bias:,}")


def _format_faults(job: job_pb2.JobSpec, path: str) -> Iterator[FieldFault]:
    chosen = job.output_format
    if chosen.WhichOneof("format") == "json_schema" and not _is_json_object(chosen.json_schema):
        yield FieldFault(f"{path}.output_format.json_schema", "a JSON Schema, as the text of a JSON object")
    if chosen.WhichOneof("format") == "grammar" and not chosen.grammar.strip():
        yield FieldFault(f"{path}.output_format.grammar", "a GBNF grammar, not an empty text")
    if job.tools and job.WhichOneof("input") != "chat":
        yield FieldFault(f"{path}.tools", "tools need a chat, not a prompt")
    if job.tool_choice not in ("", "auto", "none", *(() if not job.tools else ("required",)),
                               *(tool.name for tool in job.tools)):  # fmt: skip
        yield FieldFault(f"{path}.tool_choice", "auto, none, required or the name of one of the tools")
    for index, tool in enumerate(job.tools):
        if not tool.name or len(tool.name) > 64 or not tool.name.replace("-", "").replace("_", "").isalnum():
            yield FieldFault(f"{path}.tools[{index}].name", "1 to 64 letters, digits, '_' and '-'")
        if tool.parameters_json_schema and not _is_json_object(tool.parameters_json_schema):
            yield FieldFault(f"{path}.tools[{index}].parameters_json_schema", "the text of a JSON object")


def _timeout_faults(timeouts: job_pb2.JobTimeouts, path: str, longest_s: float) -> Iterator[FieldFault]:
    for descriptor, span in timeouts.ListFields():
        seconds = span.ToNanoseconds() / 1e9
        if not 0 < seconds <= longest_s:
            yield FieldFault(f"{path}.{descriptor.name}", f"above 0 s to {longest_s:,g} s, not {seconds:g} s")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
