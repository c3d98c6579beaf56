"""Between the contract's messages and what engines speak; nothing is decided here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from rbee.v1 import device_pb2, engine_service_pb2, event_pb2, generation_pb2, job_pb2
from worker.engines import port

_ROLES: Final = {
    generation_pb2.ROLE_SYSTEM: "system",
    generation_pb2.ROLE_USER: "user",
    generation_pb2.ROLE_ASSISTANT: "assistant",
    generation_pb2.ROLE_TOOL: "tool",
}
_FINISH: Final[dict[port.Finish, generation_pb2.FinishReason.ValueType]] = {
    "stop": generation_pb2.FINISH_REASON_STOP,
    "length": generation_pb2.FINISH_REASON_LENGTH,
    "tool_calls": generation_pb2.FINISH_REASON_TOOL_CALLS,
}
BACKENDS: Final[dict[port.Backend, device_pb2.Backend.ValueType]] = {
    "cpu": device_pb2.BACKEND_CPU,
    "cuda": device_pb2.BACKEND_CUDA,
    "rocm": device_pb2.BACKEND_ROCM,
    "metal": device_pb2.BACKEND_METAL,
}
# Fields of Sampling that engines know by the same name; an absent one takes the default of port.Request.
_SAMPLING: Final = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def to_request(job: job_pb2.JobSpec, seed: int, generated_token_ids: Iterable[int]) -> port.Request:
    """Returns a valid job as engines take it; `seed` is the one that is used, given or drawn."""
    sampling = job.sampling
    given = {name: getattr(sampling, name) for name in _SAMPLING if sampling.HasField(name)}
    return port.Request(
        prompt=job.prompt,
        messages=tuple(map(_message, job.chat.messages)),
        texts=tuple(job.embedding.texts),
        seed=seed,
        repeatable=sampling.HasField("seed"),
        stop=tuple(sampling.stop),
        logprobs=sampling.logprobs,
        json_schema=job.output_format.json_schema,
        grammar=job.output_format.grammar,
        tools=tuple(port.Tool(t.name, t.description, t.parameters_json_schema) for t in job.tools),
        tool_choice=job.tool_choice,
        parallel_tool_calls=job.parallel_tool_calls or not job.HasField("parallel_tool_calls"),
        logit_bias=tuple(sorted(sampling.logit_bias.items())),
        generated_token_ids=tuple(generated_token_ids),
        **given,
    )


def _message(message: generation_pb2.ChatMessage) -> port.Message:
    calls = tuple(port.ToolCall(c.id, c.name, c.arguments_json, c.index) for c in message.tool_calls)
    return port.Message(_ROLES[message.role], message.content, calls, message.tool_call_id, message.name)


def tokens_event(sequence: int, piece: port.Piece, first_index: int) -> bytes:
    """Returns the message that carries a piece, serialised."""
    tokens = event_pb2.Tokens(
        text=piece.text,
        count=piece.count,
        first_index=first_index,
        token_ids=piece.token_ids,
        logprobs=map(_logprobs, piece.logprobs),
        tool_calls=(
            generation_pb2.ToolCall(id=c.id, name=c.name, arguments_json=c.arguments_json, index=c.index)
            for c in piece.tool_calls
        ),
    )
    return _serialised(event_pb2.JobEvent(sequence=sequence, tokens=tokens))


def _logprobs(place: port.TokenLogprobs) -> generation_pb2.TokenLogprobs:
    return generation_pb2.TokenLogprobs(chosen=_probability(place.chosen), likeliest=map(_probability, place.likeliest))


def _probability(told: port.TokenProbability) -> generation_pb2.TokenProbability:
    return generation_pb2.TokenProbability(token_id=told.token_id, text=told.text, logprob=told.logprob)


@dataclass(frozen=True, slots=True)
class Result:
    """How a generation ended, as its last event tells it. Times in seconds; tokens of the whole answer."""

    ending: port.Ending
    completion_tokens: int
    seed: int
    first_token_s: float
    generation_s: float
    tokens_per_second: float


def done_event(sequence: int, result: Result) -> bytes:
    """Returns the message that ends a generation, serialised."""
    ending = result.ending
    done = event_pb2.Done(
        finish_reason=_FINISH[ending.finish],
        usage=generation_pb2.Usage(
            prompt_tokens=ending.prompt_tokens,
            completion_tokens=result.completion_tokens,
            cached_prompt_tokens=ending.cached_prompt_tokens,
        ),
        timings=generation_pb2.Timings(
            prompt_eval=duration(ending.prompt_eval_s),
            time_to_first_token=duration(result.first_token_s),
            generation=duration(result.generation_s),
            tokens_per_second=result.tokens_per_second,
        ),
        seed=result.seed,
        stop_sequence=ending.stop_sequence,
        embeddings=embeddings(ending),
    )
    return _serialised(event_pb2.JobEvent(sequence=sequence, done=done))


def embeddings(ending: port.Ending) -> list[event_pb2.Embedding]:
    """Returns the vectors of an ending."""
    return [event_pb2.Embedding(values=vector) for vector in ending.embeddings]


def _serialised(event: event_pb2.JobEvent) -> bytes:
    return engine_service_pb2.GenerateResponse(events=[event]).SerializeToString()


def duration(seconds: float) -> Duration:
    """Returns a span of time as the contract writes it."""
    span = Duration()
    span.FromNanoseconds(round(seconds * 1e9))
    return span
