"""A job's events on the wire: written as serialised InferResponse messages, read back only when needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from queen.core.faults import ParseError
from queen.core.model import Usage
from rbee.v1 import event_pb2, generation_pb2, inference_service_pb2

InferResponse = inference_service_pb2.InferResponse

_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """What the last event of a generation says; 0 tokens per second where there were too few to tell."""

    finish_reason: str
    usage: Usage
    seed: int
    tokens_per_sec: float


def _frame(event: event_pb2.JobEvent) -> bytes:
    return InferResponse(events=[event]).SerializeToString()


def queued(sequence: int, position: int) -> bytes:
    """Returns the frame that tells a job's place in the queue."""
    return _frame(event_pb2.JobEvent(sequence=sequence, queued=event_pb2.Queued(position=position)))


def provisioning(sequence: int, stage: str, hive_id: str, worker_id: str) -> bytes:
    """Returns the frame that tells what is done to make a worker ready; `stage` as in ProvisioningStage."""
    told = event_pb2.Provisioning(
        stage=event_pb2.ProvisioningStage.Value(f"PROVISIONING_STAGE_{stage}"), hive_id=hive_id, worker_id=worker_id
    )
    return _frame(event_pb2.JobEvent(sequence=sequence, provisioning=told))


def started(sequence: int, *, worker_id: str, hive_id: str, model_ref: str, attempt: int, queue_wait_s: float) -> bytes:
    """Returns the frame that tells which worker got the job."""
    told = event_pb2.Started(worker_id=worker_id, hive_id=hive_id, model_ref=model_ref, attempt=attempt)
    told.queue_wait.FromNanoseconds(max(0, int(queue_wait_s * 1e9)))
    return _frame(event_pb2.JobEvent(sequence=sequence, started=told))


def job_id_frame(job_id: str) -> bytes:
    """Returns the message that tells a caller its job's id; it has no event."""
    return InferResponse(job_id=job_id).SerializeToString()


def read_ending(frame: bytes) -> Ending:
    """Returns what the last frame of a worker's stream says; raises `ParseError` when it is not an ending."""
    event = _only_event(frame)
    if not event.HasField("done"):
        raise ParseError("the worker ended its stream without saying why; is it of another version?")
    done = event.done
    usage = Usage(done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.cached_prompt_tokens)
    finish_reason = _FINISH_REASONS.get(done.finish_reason, "")
    return Ending(finish_reason, usage, done.seed, done.timings.tokens_per_second)


def generated_token_ids(frames: Iterable[bytes]) -> list[int] | None:
    """Returns the ids of all tokens the frames carry; None when an engine told fewer ids than tokens."""
    ids: list[int] = []
    count = 0
    for frame in frames:
        tokens = _only_event(frame).tokens
        ids.extend(tokens.token_ids)
        count += tokens.count
    return ids if len(ids) == count else None


def sequence_of(frame: bytes) -> int:
    """Returns the sequence of a frame's event."""
    return _only_event(frame).sequence


def token_count(frames: Iterable[bytes]) -> int:
    """Returns how many tokens frames carry."""
    return sum(_only_event(frame).tokens.count for frame in frames)


def first_token_index(frame: bytes) -> int | None:
    """Returns the place in the answer of the first token of a frame; None for a frame without tokens."""
    event = _only_event(frame)
    return event.tokens.first_index if event.HasField("tokens") else None


def _only_event(frame: bytes) -> event_pb2.JobEvent:
    try:
        (event,) = InferResponse.FromString(frame).events
    except (DecodeError, ValueError) as error:
        raise ParseError("the worker sent a message that is not one event of a job") from error
    return event
