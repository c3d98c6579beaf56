import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbee.v1 import generation_pb2, job_pb2
from wire.validation import job_faults


def good(**sampling):
    return job_pb2.JobSpec(model="m", prompt="p", sampling=generation_pb2.Sampling(**sampling))


def fields(job):
    return [fault.field for fault in job_faults(job)]


def test_a_good_job_has_no_faults():
    assert fields(good()) == []
    assert fields(good(max_tokens=1, temperature=0, top_p=1, top_k=0, min_p=0, repetition_penalty=2, seed=0)) == []


def test_all_bad_fields_are_told_at_once():
    job = good(max_tokens=0, temperature=2.5, top_p=0, min_p=-0.1, logprobs=21, stop=["", "x" * 300])
    job.model = " "
    job.timeouts.total.FromSeconds(8 * 86_400)
    job.output_format.json_schema = "[1]"
    job.user_geo.latitude = 91
    assert fields(job) == [
        "job.model",
        "job.sampling.max_tokens",
        "job.sampling.temperature",
        "job.sampling.top_p",
        "job.sampling.min_p",
        "job.sampling.logprobs",
        "job.sampling.stop[0]",
        "job.sampling.stop[1]",
        "job.output_format.json_schema",
        "job.timeouts.total",
        "job.user_geo.latitude",
    ]


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (job_pb2.JobSpec(model="m"), "job.prompt"),
        (job_pb2.JobSpec(model="m", prompt=""), "job.prompt"),
        (job_pb2.JobSpec(model="m", chat=generation_pb2.ChatInput()), "job.chat.messages"),
        (
            job_pb2.JobSpec(model="m", chat=generation_pb2.ChatInput(messages=[generation_pb2.ChatMessage()])),
            "job.chat.messages[0].role",
        ),
        (job_pb2.JobSpec(model="m", prompt="p", tools=[generation_pb2.Tool(name="t")]), "job.tools"),
        (job_pb2.JobSpec(model="m", prompt="p" * (4 * 2**20 + 1)), "job.prompt"),
        (job_pb2.JobSpec(model="m", prompt="p", session_id="s" * 257), "job.session_id"),
        (good(logit_bias={7: 100.5}), "job.sampling.logit_bias[7]"),
        (good(logit_bias=dict.fromkeys(range(1025), 1.0)), "job.sampling.logit_bias"),
        (job_pb2.JobSpec(model="m", prompt="p", tool_choice="required"), "job.tool_choice"),
        (
            job_pb2.JobSpec(
                model="m",
                chat=generation_pb2.ChatInput(messages=[generation_pb2.ChatMessage(role=2, name="é" * 33)]),
                tools=[generation_pb2.Tool(name="t")],
                tool_choice="t",
            ),
            "job.chat.messages[0].name",
        ),
        (job_pb2.JobSpec(model="m", prompt="p", labels={"k": "v" * 257}), "job.labels[k]"),
    ],
)
def test_each_rule_names_its_field(job, field):
    assert fields(job) == [field]


@given(st.sampled_from(["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"]))
def test_what_is_not_a_number_is_refused(name):
    assert fields(good(**{name: math.nan})) == [f"job.sampling.{name}"]
    assert fields(good(**{name: math.inf})) == [f"job.sampling.{name}"]


def test_what_a_database_cannot_hold_is_refused():
    job = good()
    job.model, job.session_id, job.tenant_id = "m\0", "\0", "a\0b"
    job.labels["k"] = "\0"
    assert fields(job) == ["job.model", "job.session_id", "job.tenant_id", "job.labels"]


def test_the_longest_timeout_is_the_queens_to_say():
    job = good()
    job.timeouts.start.FromSeconds(4000)
    assert fields(job) == []
    (fault,) = job_faults(job, longest_s=1800.0)
    assert fault.field == "job.timeouts.start"
    assert fault.expected == "above 0 s to 1,800 s, not 4000 s"
