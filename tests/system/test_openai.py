"""The OpenAI API, by OpenAI's own Python client, over real processes and the real model."""

import asyncio
import json
import math

import openai
import pytest

import rbee
from programs import rbee as keeper
from programs import slots_taken, wait_for
from rbee.v1 import job_pb2

QUESTION = {"model": "rbee-tiny", "messages": [{"role": "user", "content": "What is a hive?"}], "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "description": "Counts.",
        "parameters": {"type": "object", "properties": {"of": {"enum": ["bees"]}}, "required": ["of"]},
    },
}
BEGUN = [{"role": "user", "content": "Count!"}, {"role": "assistant", "content": '<tool_call>\n{"name": "count"'}]
"""The model never learned to call tools: its answer is begun for it, and the grammar leads from there."""
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["hive", "queen"]}, "bees": {"type": "boolean"}},
    "required": ["kind", "bees"],
    "additionalProperties": False,
}


@pytest.fixture
def client(web):
    with openai.OpenAI(base_url=f"http://{web.http}/v1", api_key="any", max_retries=0) as found:
        yield found


def chat(client, **more):
    return client.chat.completions.create(**{**QUESTION, **more})


async def job_of(web, response):
    async with rbee.connect(web.address) as client:
        return await client.get_job(response.headers["x-rbee-job"])


def test_models_are_listed_and_found_by_name(client):
    listed = {model.id: model for model in client.models.list()}
    assert {"rbee-tiny", "tools"} <= listed.keys()
    found = client.models.retrieve("rbee-tiny")
    assert (found.object, found.owned_by) == ("model", "rbee")
    assert found.rbee["context_length"] == 2048
    assert client.models.retrieve(found.rbee["model_ref"]).id == "rbee-tiny"
    with pytest.raises(openai.NotFoundError, match="did you mean rbee-tiny") as caught:
        client.models.retrieve("rbee-tinny")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_an_answer_is_the_same_whole_and_streamed_and_the_keepers(web, client):
    whole = chat(client)
    (choice,) = whole.choices
    assert choice.message.content.startswith("A hive is ")
    assert choice.finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == choice.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1
    said = keeper(web, "infer", "What is a hive?", "--model", "rbee-tiny", "--temperature", "0", "--quiet")
    assert said.stdout.strip() == choice.message.content


async def test_headers_name_the_job_who_answered_and_who_decided(web, client):
    for stream in (False, True):
        extras = {"X-Rbee-Priority": "batch", "X-Rbee-Session": "talk", "X-Rbee-Label-Team": "honey"}
        raw = client.chat.completions.with_raw_response.create(
            **QUESTION,
            stream=stream,
            user="ada",
            metadata={"from": "test"},
            extra_headers={**extras, "X-Request-Id": "mine-1"},
            extra_body={"rbee": {"labels": {"room": "7"}, "deadline": 60}},
        )
        if stream:
            assert list(raw.parse())
        job = await job_of(web, raw)
        assert raw.headers["x-request-id"] == "mine-1"
        assert raw.headers["x-rbee-worker"] == job.attempts[0].worker_id
        assert raw.headers["x-rbee-hive"] == "mill"
        assert raw.headers["x-rbee-policy"].startswith(job.decision.policy)
        assert float(raw.headers["x-rbee-queue-ms"]) >= 0
        assert (job.priority, job.session_id) == (job_pb2.PRIORITY_BATCH, "talk")
        assert dict(job.labels) == {"team": "honey", "room": "7", "user": "ada", "from": "test"}


def test_a_tool_is_called_whole_and_in_pieces(client):
    asked = {"model": "tools", "messages": BEGUN, "tools": [TOOL], "max_completion_tokens": 200}
    for choice in ("required", {"type": "function", "function": {"name": "count"}}):
        answer = chat(client, **asked, tool_choice=choice).choices[0].message
        (call, *_) = answer.tool_calls
        assert (call.type, call.function.name) == ("function", "count")
        # The brace that opens the arguments belongs to what was begun.
        assert json.loads("{" + call.function.arguments) == {"of": "bees"}
    pieces = [
        piece
        for chunk in chat(client, **asked, tool_choice="required", stream=True)
        for piece in chunk.choices[0].delta.tool_calls or ()
        if piece.index == 0
    ]
    assert [bool(piece.id) for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert pieces[0].function.name == "count"
    assert json.loads("{" + "".join(piece.function.arguments for piece in pieces)) == {"of": "bees"}


def test_a_tools_answer_goes_back_to_the_model(client):
    called = {"id": "c1", "type": "function", "function": {"name": "count", "arguments": '{"of": "bees"}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Count!", "name": "ada"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    answer = chat(client, model="tools", messages=messages, tools=[TOOL], tool_choice="none", max_tokens=5)
    assert answer.usage.completion_tokens == 5


def test_answers_keep_to_a_schema(client):
    schema = {"type": "json_schema", "json_schema": {"name": "kind", "schema": SCHEMA, "strict": True}}
    for stream in (False, True):
        answer = chat(client, response_format=schema, seed=1, temperature=1, max_tokens=400, stream=stream)
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            if stream
            else answer.choices[0].message.content
        )
        assert json.loads(text).keys() == {"kind", "bees"}
    text = chat(client, response_format={"type": "json_object"}, max_tokens=5).choices[0].message.content
    assert text.startswith("{")


def test_choices_are_jobs_of_their_own(client):
    free = {"temperature": 2, "seed": 7, "max_tokens": 60, "extra_body": {"top_k": 0, "min_p": 0, "top_p": 1.0}}
    raw = client.chat.completions.with_raw_response.create(**{**QUESTION, **free}, n=3)
    answer = raw.parse()
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(raw.headers["x-rbee-job"].split(", ")) == 3
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    alone = chat(client, max_tokens=20).choices[0].message.content
    streamed = {0: "", 1: "", 2: ""}
    ends = []
    for chunk in chat(client, max_tokens=20, n=3, stream=True):
        (choice,) = chunk.choices
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert list(streamed.values()) == [alone] * 3
    assert sorted(ends) == [0, 1, 2]


def test_log_probabilities_are_told_whole_and_streamed(client):
    whole = chat(client, logprobs=True, top_logprobs=2, max_tokens=6).choices[0]
    assert "".join(place.token for place in whole.logprobs.content) == whole.message.content
    for place in whole.logprobs.content:
        assert bytes(place.bytes).decode() == place.token
        assert len(place.top_logprobs) == 2
        assert place.top_logprobs[0].logprob == place.logprob <= 0
    chunks = list(chat(client, logprobs=True, max_tokens=6, stream=True))
    told = [place for chunk in chunks if chunk.choices[0].logprobs for place in chunk.choices[0].logprobs.content]
    assert [place.token for place in told] == [place.token for place in whole.logprobs.content]
    assert all(place.top_logprobs == [] for place in told)


def test_texts_are_continued(client):
    asked = {"model": "rbee-tiny", "prompt": "What is a hive?\n", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**asked, logprobs=2)
    (choice,) = whole.choices
    assert (choice.finish_reason, whole.usage.completion_tokens) == ("length", 8)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == list(range(8))
    assert all(len(place) == 2 for place in choice.logprobs.top_logprobs)
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    both = client.completions.create(**{**asked, "prompt": ["What is a hive?\n", "What is a queen?\n"]}, echo=True)
    assert both.choices[0].text == "What is a hive?\n" + choice.text
    assert both.choices[1].text.startswith("What is a queen?\n")


def test_stops_penalties_and_biases_reach_the_engine(client):
    text = chat(client).choices[0].message.content
    stopped = chat(client, stop=[text[8:12]]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(text[8:12])], "stop")
    biased = chat(client, logit_bias={str(3 + ord("z")): 100}, max_tokens=5).choices[0]
    assert biased.message.content == "zzzzz"
    repeated = chat(client, frequency_penalty=2, presence_penalty=2, max_tokens=40).choices[0].message.content
    assert repeated != text[: len(repeated)]


def test_all_bad_parameters_are_told_at_once_by_name(client):
    bad = {
        "temperature": 9,
        "extra_body": {"top_k": -1, "colour": "red", "stop": ["x"] * 17, "rbee": {"priority": "high"}},
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 1}},
    }
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **bad)
    assert {fault["param"] for fault in caught.value.body["faults"]} >= {
        "temperature",
        "top_k",
        "colour",
        "stop",
        "rbee.priority",
        "messages[0].content[0].type",
        "response_format.json_schema.schema",
    }
    assert caught.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="colour: is not served here"):
        chat(client, extra_body={"colour": "red"})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("param", "wanted"),
    [
        ("tools", {"tools": [TOOL]}),
        ("response_format.json_schema.schema", {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
        }),
        ("sampling.logprobs", {"model": "tools", "tools": [TOOL], "logprobs": True}),
        ("tool_choice", {"model": "tools", "tools": [TOOL],
                         "tool_choice": {"type": "function", "function": {"name": "none-such"}}}),
        ("messages[0].tool_call_id", {"messages": [{"role": "tool", "content": "7"}]}),
        ("top_logprobs", {"top_logprobs": 2}),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name_also_in_a_stream(client, param, wanted, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **wanted, stream=stream)
    assert caught.value.param == param.removeprefix("sampling.")


def test_a_prompt_over_the_context_has_openais_code(client):
    chat(client, max_tokens=1)
    with pytest.raises(openai.BadRequestError, match=r"the prompt has 5,\d\d\d tokens") as caught:
        chat(client, messages=[{"role": "user", "content": "x" * 5000}])
    assert caught.value.code == "context_length_exceeded"


def test_texts_become_vectors_with_a_model_that_embeds(client):
    texts = ["a hive", "a queen", "a hive"]
    raw = client.embeddings.with_raw_response.create(model="vectors", input=texts)  # in base64, as it likes
    answer = raw.parse()
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert math.dist(answer.data[0].embedding, answer.data[2].embedding) < 0.01
    assert math.dist(answer.data[0].embedding, answer.data[1].embedding) > 0.01
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    assert raw.headers["x-rbee-worker"]
    plain = client.embeddings.create(model="vectors", input="a hive", encoding_format="float")
    assert math.dist(plain.data[0].embedding, answer.data[0].embedding) < 0.01


def test_a_model_of_the_other_kind_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="use an embedding model") as caught:
        client.embeddings.create(model="rbee-tiny", input="x")
    assert caught.value.code == "not_an_embedding_model"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="generates none"):
            chat(client, model="vectors", stream=stream)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none-such", input="x")
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="vectors", input="x", dimensions=3)


def test_tenants_have_their_quotas_and_a_full_queue_says_when_to_ask_again(web, client):
    assert keeper(web, "tenant", "create", "small", "--max-tokens-daily", "100").returncode == 0
    with pytest.raises(openai.RateLimitError) as caught:
        chat(client, max_tokens=2000, extra_headers={"X-Rbee-Tenant": "small"})
    assert caught.value.code == "quota_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false", "it is larger than a day's quota"
    chat(client, max_tokens=20, extra_headers={"X-Rbee-Tenant": "small"})
    with pytest.raises(openai.RateLimitError) as caught:
        chat(client, max_tokens=70, extra_headers={"X-Rbee-Tenant": "small"})
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 86_400
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, extra_headers={"X-Rbee-Tenant": "nobody"})
    assert caught.value.code == "tenant_not_found"


@pytest.fixture(scope="module")
def slow(web):
    """A model of made-up tokens: 50 a second, for ever."""
    options = ("--engine-option", "completion_tokens=100000", "--slots", "2")
    assert keeper(web, "worker", "spawn", "synthetic:slow", "--engine", "synthetic", *options).returncode == 0
    return "synthetic:slow"


def test_a_deadline_ends_it_with_504(client, slow):
    for stream in (False, True):
        asked = {**QUESTION, "model": slow, "extra_headers": {"X-Rbee-Deadline": "300ms"}, "stream": stream}
        if stream:
            with pytest.raises(openai.APIError, match="was not done after") as caught:
                list(client.chat.completions.create(**asked))
            assert caught.value.code == "job_timed_out"
        else:
            with pytest.raises(openai.InternalServerError) as caught:
                client.chat.completions.create(**asked)
            assert caught.value.status_code == 504


async def test_a_caller_who_goes_away_ends_his_jobs(web, slow):
    async with (
        openai.AsyncOpenAI(base_url=f"http://{web.http}/v1", api_key="any", max_retries=0) as client,
        rbee.connect(web.address) as queen,
    ):
        stream = await client.chat.completions.create(**{**QUESTION, "model": slow}, stream=True, n=2)
        jobs = stream.response.headers["x-rbee-job"].split(", ")
        await anext(aiter(stream))
        await stream.close()
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(**{**QUESTION, "model": slow}, timeout=0.5)
        await asyncio.to_thread(wait_for, lambda: slots_taken(web) == 0, "all slots are free")
        for job_id in jobs:
            assert (await queen.get_job(job_id)).state == job_pb2.JOB_STATE_CANCELLED
        left = [job async for job in queen.list_jobs() if job.state == job_pb2.JOB_STATE_RUNNING]
        assert left == []


def test_a_stream_goes_on_when_its_worker_is_killed(web, client):
    model, count = "synthetic:over", 150
    options = ("--engine", "synthetic", "--slots", "1", "--engine-option", f"completion_tokens={count}")
    for _ in range(2):
        assert keeper(web, "worker", "spawn", model, *options).returncode == 0
    stream = chat(client, model=model, stream=True)
    (victim,) = (one for one in web.machines() if stream.response.headers["x-rbee-worker"] in one.cmdline())
    text = next(stream).choices[0].delta.content
    victim.kill()
    text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.split() == ["synthetic", *(f"tok{number}" for number in range(1, count))]


async def test_a_job_cancelled_by_somebody_else_ends_the_stream_with_why(web, client, slow):
    async with rbee.connect(web.address) as queen:
        stream = chat(client, model=slow, stream=True)
        job_id = stream.response.headers["x-rbee-job"]
        await queen.cancel(job_id)
        with pytest.raises(openai.APIError, match="was cancelled") as caught:
            list(stream)
        assert caught.value.code == "job_cancelled"


async def test_when_one_choice_of_a_stream_fails_the_others_end_too(web, client, slow):
    async with rbee.connect(web.address) as queen:
        stream = chat(client, model=slow, stream=True, n=2)
        first, second = stream.response.headers["x-rbee-job"].split(", ")
        await queen.cancel(second)
        with pytest.raises(openai.APIError, match="was cancelled"):
            list(stream)
        await asyncio.to_thread(wait_for, lambda: slots_taken(web) == 0, "all slots are free")
        assert (await queen.get_job(first)).state == job_pb2.JOB_STATE_CANCELLED


async def test_forty_at_once_all_get_the_right_answer(web):
    async with openai.AsyncOpenAI(base_url=f"http://{web.http}/v1", api_key="any", max_retries=0) as client:
        answers = await asyncio.gather(*(chat(client, max_tokens=20) for _ in range(40)))
        assert len({answer.choices[0].message.content for answer in answers}) == 1
