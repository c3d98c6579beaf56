"""EngineService over real gRPC: streams, slots, cancelling, keeping, draining, errors; with made-up tokens."""

import asyncio
from collections.abc import AsyncGenerator

import grpc
import pytest

from rbee.v1 import engine_service_pb2 as pb
from rbee.v1 import event_pb2, generation_pb2, job_pb2, worker_pb2
from wire import errors, status
from wire.clock import SystemClock
from worker.engines.port import Ending, Piece, Request
from worker.generation import Ticket
from worker.generations import Generations

UNENDING = {"completion_tokens": 1_000_000, "tokens_per_second": 20}


def ask(job_id="job-1", attempt=1, keep=False, generated=(), prompt="one two three", **sampling) -> pb.GenerateRequest:
    job = job_pb2.JobSpec(model="m", prompt=prompt, sampling=generation_pb2.Sampling(**sampling))
    return pb.GenerateRequest(
        job_id=job_id, attempt=attempt, job=job, keep=keep, generated_token_ids=generated, first_sequence=3
    )


async def events_of(call: grpc.aio.UnaryStreamCall) -> list[event_pb2.JobEvent]:
    events = []
    while (message := await call.read()) is not grpc.aio.EOF:
        assert len(message.events) == 1
        events.append(message.events[0])
    return events


def text_of(events) -> str:
    return "".join(event.tokens.text for event in events)


async def failure_of(call) -> errors.RbeeError:
    answer = events_of(call) if isinstance(call, grpc.aio.UnaryStreamCall) else call
    with pytest.raises(grpc.RpcError) as caught:
        await answer
    return status.from_rpc_error(caught.value)


async def test_a_stream_is_tokens_without_gaps_and_then_done(serving, synthetic):
    async with serving(synthetic(tokens_per_second=0, completion_tokens=40)) as stub:
        *tokens, done = await events_of(stub.Generate(ask(max_tokens=25)))
    assert [event.sequence for event in [*tokens, done]] == list(range(3, 3 + len(tokens) + 1))
    assert [event.tokens.first_index for event in tokens] == [
        sum(event.tokens.count for event in tokens[:place]) for place in range(len(tokens))
    ]
    assert [number for event in tokens for number in event.tokens.token_ids] == list(range(25))
    assert text_of(tokens).startswith("synthetic tok1 tok2")
    assert done.done.usage == generation_pb2.Usage(prompt_tokens=3, completion_tokens=25)
    assert done.done.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert done.done.seed == 1000


async def test_the_first_token_leaves_alone_and_later_ones_together(serving, synthetic):
    async with serving(synthetic(tokens_per_second=0, completion_tokens=2000)) as stub:
        *tokens, _ = await events_of(stub.Generate(ask()))
    assert tokens[0].tokens.count == 1
    assert len(tokens) < 200


async def test_work_above_the_slots_is_refused_and_says_when_to_come_back(serving, synthetic):
    async with serving(synthetic(slots=1, **UNENDING)) as stub:
        running = stub.Generate(ask())
        await running.read()
        refused = await failure_of(stub.Generate(ask("job-2")))
        assert (refused.reason, refused.retry_after_s) == ("NO_FREE_SLOT", 1.0)
        assert isinstance(refused, errors.NoCapacity)
        assert (await stub.GetStatus(pb.GetStatusRequest())).state == worker_pb2.WORKER_STATE_BUSY
        running.cancel()


async def test_whoever_has_the_last_event_finds_the_slot_free(serving, synthetic):
    async with serving(synthetic(slots=1, completion_tokens=2, tokens_per_second=0)) as stub:
        for number in range(100):
            assert (await events_of(stub.Generate(ask(f"job-{number}"))))[-1].HasField("done")


async def test_a_caller_that_goes_away_frees_its_slot(serving, synthetic):
    async with serving(synthetic(slots=1, **UNENDING)) as stub:
        running = stub.Generate(ask())
        await running.read()
        running.cancel()
        await stub.Drain(pb.DrainRequest(), timeout=5)
        now = await stub.GetStatus(pb.GetStatusRequest())
        assert (now.slots_available, len(now.generations)) == (1, 0)


async def test_cancel_ends_the_stream_and_answers_when_the_slot_is_free(serving, synthetic):
    async with serving(synthetic(slots=1, **UNENDING)) as stub:
        running = stub.Generate(ask())
        await running.read()
        await stub.Cancel(pb.CancelRequest(job_id="job-1"))
        assert (await stub.GetStatus(pb.GetStatusRequest())).slots_available == 1
        ended = await failure_of(running)
        assert isinstance(ended, errors.Cancelled)
        assert ended.reason == "JOB_CANCELLED"
        gone = await failure_of(stub.Cancel(pb.CancelRequest(job_id="job-1")))
        assert gone.reason == "GENERATION_NOT_FOUND"


async def test_a_generation_ended_before_it_began_frees_its_slot(synthetic):
    async with asyncio.TaskGroup() as tasks:
        generations = Generations(synthetic(slots=1), tasks, SystemClock())
        ended = []
        generation = generations.start(Ticket("job-1", 1, 1, keep=False), Request(prompt="one"), ended.append)
        await generations.end([generation])
        assert (generations.free_slots, ended) == (1, [generation])
        assert generation.failure.reason == "JOB_CANCELLED"


async def test_the_same_attempt_twice_is_refused_another_attempt_is_not(serving, synthetic):
    async with serving(synthetic(**UNENDING)) as stub:
        first = stub.Generate(ask())
        await first.read()
        assert (await failure_of(stub.Generate(ask()))).reason == "GENERATION_EXISTS"
        second = stub.Generate(ask(attempt=2))
        assert (await second.read()).events[0].tokens.count == 1


async def test_a_draining_worker_takes_no_work_and_answers_when_it_is_idle(serving, synthetic):
    async with serving(synthetic(**UNENDING)) as stub:
        running = stub.Generate(ask())
        await running.read()
        late = pb.DrainRequest()
        late.timeout.FromMilliseconds(20)
        assert isinstance(await failure_of(stub.Drain(late)), errors.TimedOut)
        assert (await failure_of(stub.Generate(ask("job-2")))).reason == "WORKER_DRAINING"
        assert (await stub.GetStatus(pb.GetStatusRequest())).state == worker_pb2.WORKER_STATE_DRAINING
        running.cancel()
        await stub.Drain(pb.DrainRequest(), timeout=5)


async def test_a_kept_generation_goes_on_without_its_caller_and_is_sent_again(serving, synthetic):
    async with serving(synthetic(completion_tokens=30, tokens_per_second=200)) as stub:
        broken = stub.Generate(ask(keep=True))
        first = (await broken.read()).events[0]
        broken.cancel()
        rest = await events_of(stub.Resume(pb.ResumeRequest(job_id="job-1", after_index=first.tokens.count)))
        assert [event.sequence for event in [first, *rest]] == list(range(3, 4 + len(rest)))
        assert text_of([first, *rest]).endswith(" tok28 tok29")
        assert rest[-1].done.usage.completion_tokens == 30
        again = await events_of(stub.Resume(pb.ResumeRequest(job_id="job-1")))
        assert [event.SerializeToString() for event in again] == [e.SerializeToString() for e in [first, *rest]]
        kept = (await stub.GetStatus(pb.GetStatusRequest())).generations[0]
        assert (kept.ended, kept.completion_tokens) == (True, 30)
        await stub.Cancel(pb.CancelRequest(job_id="job-1"))
        assert len(await events_of(stub.Resume(pb.ResumeRequest(job_id="job-1")))) == len(again)
        assert (await failure_of(stub.Generate(ask(keep=True)))).reason == "GENERATION_EXISTS"


async def test_what_is_not_kept_cannot_be_resumed(serving, synthetic):
    async with serving(synthetic(completion_tokens=3, tokens_per_second=0)) as stub:
        await events_of(stub.Generate(ask()))
        assert (await failure_of(stub.Resume(pb.ResumeRequest(job_id="job-1")))).reason == "GENERATION_NOT_FOUND"


async def test_a_continuation_goes_on_after_the_tokens_it_is_given(serving, synthetic):
    async with serving(synthetic(completion_tokens=10, tokens_per_second=0)) as stub:
        whole = await events_of(stub.Generate(ask(max_tokens=8)))
        *rest, done = await events_of(stub.Generate(ask("job-2", generated=range(5), max_tokens=8)))
        assert rest[0].tokens.first_index == 5
        assert text_of(whole) == "synthetic tok1 tok2 tok3 tok4" + text_of(rest)
        assert done.done.usage == whole[-1].done.usage
        (nothing,) = await events_of(stub.Generate(ask("job-3", generated=range(8), max_tokens=8)))
        assert nothing.done.finish_reason == generation_pb2.FINISH_REASON_LENGTH


async def test_every_bad_field_is_named_at_once(serving, synthetic):
    async with serving(synthetic()) as stub:
        bad = await failure_of(stub.Generate(ask("", prompt="", temperature=9, top_p=0, max_tokens=0)))
    assert isinstance(bad, errors.Invalid)
    assert {fault.field for fault in bad.faults} == {
        "job_id",
        "job.prompt",
        "job.sampling.temperature",
        "job.sampling.top_p",
        "job.sampling.max_tokens",
    }


async def test_a_prompt_that_does_not_fit_is_refused_with_both_counts(serving, synthetic):
    async with serving(synthetic(context_length=2048)) as stub:
        refused = await failure_of(stub.Generate(ask(prompt="word " * 2310)))
    assert refused.reason == "PROMPT_TOO_LONG"
    assert refused.message == "the prompt has 2,310 tokens, the context holds 2,048"


async def test_what_the_engine_does_not_serve_is_refused_not_ignored(serving, synthetic):
    request = ask(logprobs=2)
    request.job.output_format.json_schema = "{}"
    async with serving(synthetic()) as stub:
        refused = await failure_of(stub.Generate(request))
        embedding = pb.GenerateRequest(job_id="e", job=job_pb2.JobSpec(model="m", embedding={"texts": ["a"]}))
        assert isinstance(await failure_of(stub.Generate(embedding)), errors.Unserved)
    assert isinstance(refused, errors.Unserved)
    assert "output_format" in refused.message
    assert "logprobs" in refused.message


async def test_status_tells_what_the_worker_is(serving, synthetic):
    async with serving(synthetic(slots=3, context_length=1024)) as stub:
        now = await stub.GetStatus(pb.GetStatusRequest())
    assert (now.state, now.slots_total, now.slots_available) == (worker_pb2.WORKER_STATE_READY, 3, 3)
    assert (now.engine, now.context_length, now.model_ref) == ("synthetic", 1024, "file:/models/m.gguf")
    assert "synthetic" in now.engine_version


async def test_a_hundred_streams_at_once_are_each_whole(serving, synthetic):
    async with serving(synthetic(slots=100, completion_tokens=20, tokens_per_second=200)) as stub:
        streams = await asyncio.gather(*(events_of(stub.Generate(ask(f"job-{n}"))) for n in range(100)))
    assert {text_of(events) for events in streams} == {text_of(streams[0])}
    assert all(events[-1].done.usage.completion_tokens == 20 for events in streams)


class BreakingEngine:
    """An engine whose library breaks after two tokens."""

    name, version, backend, slots, context_length = "breaking", "1", "cpu", 1, 100

    def load(self) -> None: ...

    def close(self) -> None: ...

    async def generate(self, request: Request) -> AsyncGenerator[Piece | Ending, None]:
        yield Piece("a", 1, (1,))
        yield Piece("b", 1, (2,))
        raise errors.Internal("the library broke", "ENGINE_FAILED")


async def test_an_engine_that_breaks_fails_the_job_after_what_it_made_and_frees_the_slot(serving):
    async with serving(BreakingEngine()) as stub:
        call = stub.Generate(ask())
        assert [(await call.read()).events[0].tokens.text for _ in range(2)] == ["a", "b"]
        assert (await failure_of(call)).reason == "ENGINE_FAILED"
        assert (await stub.GetStatus(pb.GetStatusRequest())).slots_available == 1


async def test_what_an_engine_does_not_serve_is_refused_by_field(serving, synthetic):
    async with serving(synthetic()) as stub:
        request = ask(logit_bias={1: 2.0}, logprobs=1)
        request.job.embedding.texts.append("a")
        refused = await failure_of(stub.Generate(request))
        assert isinstance(refused, errors.Unserved)
        assert [fault.field for fault in refused.faults] == [
            "job.embedding",
            "job.sampling.logprobs",
            "job.sampling.logit_bias",
        ]


async def test_a_prompt_is_counted_without_a_slot(serving, synthetic):
    async with serving(synthetic(slots=1, context_length=1000, **UNENDING)) as stub:
        running = stub.Generate(ask())
        await running.read()
        counted = await stub.CountTokens(pb.CountTokensRequest(job=ask(prompt="word " * 2000).job))
        assert (counted.prompt_tokens, counted.context_length) == (2000, 1000)
        refused = await failure_of(stub.CountTokens(pb.CountTokensRequest(job=ask(prompt="").job)))
        assert [fault.field for fault in refused.faults] == ["job.prompt"]
        vectors = job_pb2.JobSpec(model="m", embedding=generation_pb2.EmbeddingInput(texts=["a b", "c"]))
        assert (await stub.CountTokens(pb.CountTokensRequest(job=vectors))).prompt_tokens == 3
        running.cancel()
