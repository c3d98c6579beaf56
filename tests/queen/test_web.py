"""The queen over HTTP, as far as it needs no queen: the document's rules, requests as jobs, errors as answers."""

import json
import math

import jsonschema
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queen.web import extras, requests, schema, styles, trouble
from queen.web.styles import ChatStyle, Part, TextStyle
from rbee.v1 import event_pb2, generation_pb2, job_pb2
from wire import errors, status, validation

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SCOPE = {"headers": []}
NAMES = sorted(schema.document()["components"]["schemas"])
WORDS = ["model", "m", "role", "user", "content", "text", "type", "function", "name", "json_schema", "auto", "", "x"]
VALIDATORS = {
    name: jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **schema.document()})
    for name in NAMES
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 25) | st.floats(-3, 3) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


def properties(name):
    return sorted(schema.document()["components"]["schemas"][name]["properties"])


@st.composite
def bodies(draw):
    """Bodies that are right but for a few parameters, which have any value."""
    name, right = draw(
        st.sampled_from(
            [
                ("ChatCompletionRequest", CHAT),
                ("CompletionRequest", {"model": "m", "prompt": ["a"]}),
                ("EmbeddingRequest", {"model": "m", "input": "a"}),
                ("Message", CHAT["messages"][0]),
                ("Tool", {"type": "function", "function": {"name": "f", "parameters": {}}}),
                ("ResponseFormat", {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}),
            ]
        )
    )
    known = properties(name) if name != "ResponseFormat" else ["type", "json_schema"]
    return name, {**right, **draw(st.dictionaries(st.sampled_from([*known, "other"]), VALUES, max_size=3))}


@given(bodies())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_the_checks_agree_with_json_schema(body):
    name, value = body
    assert (schema.faults_of(name, value) == []) == VALIDATORS[name].is_valid(value)


def test_every_schema_of_the_document_is_one():
    for name in NAMES:
        jsonschema.Draft202012Validator.check_schema(schema.document()["components"]["schemas"][name])
        schema.checker(name)


@given(st.fixed_dictionaries({}, optional={
    "temperature": st.floats(0, 2), "top_p": st.floats(0.1, 1), "top_k": st.integers(0, 10), "n": st.integers(1, 4),
    "max_tokens": st.integers(1, 2**20), "seed": st.integers(-(2**63), 2**63 - 1), "min_p": st.floats(0, 1),
    "stop": st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
            | st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), max_size=16),
    "logit_bias": st.dictionaries(st.integers(0, 999).map(str), st.floats(-100, 100), max_size=3),
    "presence_penalty": st.floats(-2, 2), "repetition_penalty": st.floats(0.1, 2), "logprobs": st.just(True),
}))  # fmt: skip
def test_what_the_document_allows_are_jobs_the_queen_takes(wanted):
    body = orjson.loads(orjson.dumps({**CHAT, **wanted}))
    asked = requests.chat(body, SCOPE)
    assert len(asked.specs) == wanted.get("n", 1)
    for index, spec in enumerate(asked.specs):
        assert validation.job_faults(spec) == []
        assert spec.chat.messages[0].content == "hi"
        assert spec.sampling.HasField("temperature") == ("temperature" in wanted)
        assert not {"max_tokens", "top_k"} & wanted.keys() or spec.sampling.max_tokens == wanted.get("max_tokens", 0)
        if "seed" in wanted:
            assert spec.sampling.seed == (wanted["seed"] + index) % 2**32


def test_what_headers_and_the_body_say_is_merged_and_the_body_wins():
    headers = [(b"x-rbee-session", b"h"), (b"x-rbee-priority", b"batch"), (b"x-rbee-label-team", "é".encode()),
               (b"x-rbee-deadline", b"2m"), (b"x-other", b"\xff")]  # fmt: skip
    body = {"rbee": {"session": "b", "labels": {"room": "7", "user": "eve"}}, "user": "ada", "prompt_cache_key": "k"}
    found = extras.read({"headers": headers}, body)
    assert (found.session, found.priority, found.deadline_s) == ("b", job_pb2.PRIORITY_BATCH, 120)
    assert found.labels == {"team": "é", "room": "7", "user": "eve"}
    assert extras.read(SCOPE, {"prompt_cache_key": "k"}).session == "k"
    with pytest.raises(errors.Invalid) as caught:
        extras.read({"headers": [(b"x-rbee-session", b"\xff"), (b"x-rbee-deadline", b"0")]}, {})
    assert [fault.field for fault in caught.value.faults] == ["x-rbee-session", "x-rbee-deadline"]


def test_every_class_of_errors_has_a_status_and_openais_shape():
    assert trouble.STATUSES.keys() >= status.CODES.keys()
    for cls in trouble.STATUSES:
        told = trouble.body_of(cls("what happened", "WHY"))["error"]
        assert told == {"message": "what happened", "type": told["type"], "param": None, "code": "why"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NoCapacity("", retry_after_s=1.2), {"retry-after": "2"}),
        (errors.NoCapacity("", "INSUFFICIENT_VRAM"), {"x-should-retry": "false"}),
        (errors.TimedOut(""), {"x-should-retry": "false"}),
        (errors.Unreachable(""), {}),
        (errors.Invalid(""), {}),
    ],
)
def test_clients_are_told_whether_and_when_to_ask_again(error, expected):
    assert trouble.headers_of(error) == expected


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("job.sampling.top_p", "top_p"),
        ("job.chat.messages[2].name", "messages[2].name"),
        ("job.output_format.json_schema", "response_format.json_schema.schema"),
        ("job.tools[0].name", "tools[0].function.name"),
        ("job.tools[0].parameters_json_schema", "tools[0].function.parameters"),
        ("job.labels[a]", "rbee.labels[a]"),
        ("job.session_id", "rbee.session"),
        ("tools[0].type", "tools[0].type"),
    ],
)
def test_fields_of_the_contract_are_told_as_the_parameters_they_came_from(field, param):
    assert trouble.param_of(field) == param


def test_probabilities_nobody_told_are_null_in_json():
    odd = generation_pb2.TokenProbability(text="\ufffd", logprob=math.nan)
    part = Part("x", [generation_pb2.TokenLogprobs(chosen=odd, likeliest=[odd])], done=event_pb2.Done())
    chat = ChatStyle().choice(0, part, 1)["logprobs"]["content"][0]
    assert (chat["logprob"], chat["bytes"]) == (None, None)
    assert TextStyle().choice(0, part, 1)["logprobs"]["token_logprobs"] == [None]
    json.dumps(chat, allow_nan=False)


def test_pieces_of_tool_calls_are_joined_and_parts_gathered():
    def piece(index, **fields):
        return generation_pb2.ToolCall(index=index, **fields)

    tokens = event_pb2.Tokens(tool_calls=[piece(0, id="a", name="f", arguments_json="{"), piece(1, id="b", name="g")])
    later = event_pb2.Tokens(tool_calls=[piece(0, arguments_json="}")])
    done = event_pb2.Done(finish_reason=generation_pb2.FINISH_REASON_TOOL_CALLS)
    part = styles.part_of(
        [event_pb2.JobEvent(queued=event_pb2.Queued(position=1)), event_pb2.JobEvent(tokens=tokens),
         event_pb2.JobEvent(tokens=later), event_pb2.JobEvent(done=done)]
    )  # fmt: skip
    choice = ChatStyle().choice(0, part, None)
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "f", "arguments": "{}"},
        {"name": "g", "arguments": ""},
    ]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
