"""The job a caller describes becomes the contract's message; what cannot be written down is refused, all at once."""

import pytest

from client.job import job_spec
from rbee.v1 import generation_pb2, job_pb2
from wire import errors


def test_prompt_is_a_user_message_with_system_before_it() -> None:
    job = job_spec({"model": "m", "prompt": "hi", "system": "be brief"})
    assert [(m.role, m.content) for m in job.chat.messages] == [
        (generation_pb2.ROLE_SYSTEM, "be brief"),
        (generation_pb2.ROLE_USER, "hi"),
    ]


def test_raw_prompt_stays_as_it_is() -> None:
    assert job_spec({"model": "m", "prompt": " hi\n", "raw": True}).prompt == " hi\n"


def test_every_option_reaches_its_field() -> None:
    job = job_spec(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "max_tokens": 5,
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 0,
            "min_p": 0.25,
            "repetition_penalty": 1.5,
            "presence_penalty": -1,
            "frequency_penalty": 1,
            "seed": 0,
            "logprobs": 2,
            "stop": ["x", "y"],
            "json_schema": {"type": "object"},
            "priority": "batch",
            "session": "s",
            "tenant": "t",
            "labels": {"k": "v"},
            "timeout_s": 1.5,
            "queue_timeout_s": 2,
            "start_timeout_s": 5,
            "first_token_timeout_s": 3,
            "stall_timeout_s": 4,
            "no_failover": True,
        }
    )
    wanted = job_pb2.JobSpec(model="m", session_id="s", tenant_id="t", labels={"k": "v"}, no_failover=True)
    wanted.chat.messages.add(role=generation_pb2.ROLE_USER, content="a")
    wanted.chat.messages.add(role=generation_pb2.ROLE_ASSISTANT, content="b")
    wanted.sampling.CopyFrom(
        generation_pb2.Sampling(
            max_tokens=5,
            temperature=0,
            top_p=0.5,
            top_k=0,
            min_p=0.25,
            repetition_penalty=1.5,
            presence_penalty=-1,
            frequency_penalty=1,
            seed=0,
            logprobs=2,
            stop=["x", "y"],
        )
    )
    wanted.output_format.json_schema = '{"type": "object"}'
    wanted.priority = job_pb2.PRIORITY_BATCH
    wanted.timeouts.total.FromMilliseconds(1500)
    wanted.timeouts.queue.FromSeconds(2)
    wanted.timeouts.start.FromSeconds(5)
    wanted.timeouts.first_token.FromSeconds(3)
    wanted.timeouts.stall.FromSeconds(4)
    assert job == wanted


def test_what_is_not_given_stays_absent() -> None:
    job = job_spec({"model": "m", "prompt": "hi", "temperature": None, "stop": None})
    assert not job.sampling.ListFields()
    assert not job.HasField("timeouts")
    assert not job.HasField("output_format")


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(errors.Invalid) as caught:
        job_spec(
            {
                "model": "m",
                "prompt": "hi",
                "raw": True,
                "system": "s",
                "max_tokens": -1,
                "temperature": 9,
                "seed": 2**32,
                "grammar": "root ::= x",
                "json_schema": "{}",
                "priority": "soon",  # type: ignore[typeddict-item]
            }
        )
    assert {fault.field for fault in caught.value.faults} == {
        "job.chat.messages",
        "job.sampling.max_tokens",
        "job.sampling.temperature",
        "job.sampling.seed",
        "job.output_format",
        "job.priority",
    }


@pytest.mark.parametrize("options", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}])
def test_prompt_or_messages_but_not_both(options: dict[str, object]) -> None:
    with pytest.raises(errors.Invalid, match="exactly one of prompt and messages"):
        job_spec({"model": "m", **options})  # type: ignore[typeddict-item]


def test_unknown_role_is_named_with_its_place() -> None:
    with pytest.raises(errors.Invalid, match=r"job\.chat\.messages\[1\]\.role"):
        job_spec({"model": "m", "messages": [{"role": "user", "content": "a"}, {"role": "bee", "content": "b"}]})  # type: ignore[typeddict-item]
