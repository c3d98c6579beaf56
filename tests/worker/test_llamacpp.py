"""What only llama.cpp does: grammars, schemas, characters of several tokens, log probabilities, tools, bad files."""

import asyncio
import contextlib
import json
import math

import pytest

from rbee.v1 import engine_service_pb2 as pb
from rbee.v1 import generation_pb2, job_pb2
from tool_model import that_embeds, with_tools
from wire import errors
from worker.engines.llama_chunks import ChatReader
from worker.engines.llamacpp import LlamaCpp
from worker.engines.port import Ending, Message, Piece, Request, Tool, ToolCall

PROMPT = "What is a hive?\n"
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["hive", "queen"]}, "bees": {"type": "boolean"}},
    "required": ["kind", "bees"],
    "additionalProperties": False,
}


async def generated(engine, **wanted):
    async with contextlib.aclosing(engine.generate(Request(**{"prompt": PROMPT, **wanted}))) as items:
        *pieces, ending = [item async for item in items]
    return pieces, ending


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def ids_of(pieces):
    return tuple(number for piece in pieces for number in piece.token_ids)


async def test_a_seed_repeats_an_answer_and_others_do_not(tiny):
    free = {"temperature": 2.0, "top_k": 0, "min_p": 0, "top_p": 1.0, "max_tokens": 200, "repeatable": True}
    answers = {seed: text_of((await generated(tiny, seed=seed, **free))[0]) for seed in range(1, 7)}
    assert len(set(answers.values())) > 1
    for seed in (1, 6):
        assert text_of((await generated(tiny, seed=seed, **free))[0]) == answers[seed]


async def test_a_grammar_is_obeyed(tiny):
    pieces, ending = await generated(tiny, grammar='root ::= "a queen" " bee"?', temperature=0.0)
    assert text_of(pieces) in ("a queen", "a queen bee")
    assert ending.finish == "stop"


async def test_a_json_schema_is_obeyed(tiny):
    for seed in range(3):
        pieces, _ = await generated(tiny, json_schema=json.dumps(SCHEMA), seed=seed, temperature=1.0, max_tokens=400)
        answer = json.loads(text_of(pieces))
        assert answer.keys() == {"kind", "bees"}
        assert answer["kind"] in ("hive", "queen")


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        ("failed to parse grammar", {"grammar": "root ::= nowhere"}),
        ("a GBNF grammar", {"grammar": "%llguidance {}\nstart: /a/"}),
        ("a schema llama.cpp can compile", {"json_schema": '{"type": "nonsense"}'}),
        ("a schema llama.cpp can compile", {"json_schema": '{"$ref": "#/nowhere"}'}),
    ],
)
async def test_what_llamacpp_cannot_obey_is_the_callers_fault_not_ours(tiny, fault, wanted):
    with pytest.raises(errors.Invalid, match=fault):
        await generated(tiny, **wanted, max_tokens=5)


async def test_characters_of_several_tokens_come_whole_with_all_their_ids(tiny):
    pieces, _ = await generated(tiny, grammar='root ::= "é—🐝x"', temperature=0.0)
    assert [piece.text for piece in pieces] == ["é", "—", "🐝", "x"]
    assert [piece.count for piece in pieces] == [2, 3, 4, 1]
    # Byte 0xNN is token 3 + 0xNN of this model.
    assert ids_of(pieces) == tuple(3 + byte for byte in "é—🐝x".encode())


async def test_an_answer_cut_inside_a_character_ends_before_it(tiny):
    pieces, ending = await generated(tiny, grammar='root ::= "é—"', temperature=0.0, max_tokens=4)
    assert (text_of(pieces), ids_of(pieces), ending.finish) == ("é", (198, 172), "length")


async def test_log_probabilities_come_for_every_token(tiny):
    pieces, _ = await generated(tiny, temperature=0.0, logprobs=3, max_tokens=5)
    places = [place for piece in pieces for place in piece.logprobs]
    assert len(places) == sum(piece.count for piece in pieces) > 0
    for place, number in zip(places, ids_of(pieces), strict=True):
        assert place.chosen.token_id == number
        assert len(place.likeliest) == 3
        assert place.chosen.logprob == place.likeliest[0].logprob <= 0


async def test_a_log_probability_llamacpp_does_not_tell_is_not_invented(tiny):
    pieces, _ = await generated(tiny, grammar='root ::= "é"', temperature=0.0, logprobs=1)
    lead, last = pieces[0].logprobs
    assert math.isnan(lead.chosen.logprob)
    assert last.chosen.token_id == 172


async def test_an_answer_under_a_schema_can_be_continued(tiny):
    wanted = {"json_schema": json.dumps(SCHEMA), "temperature": 0.0, "max_tokens": 400}
    whole, ending = await generated(tiny, **wanted)
    rest, rest_ending = await generated(tiny, **wanted, generated_token_ids=ids_of(whole[:9]))
    assert text_of(whole[:9]) + text_of(rest) == text_of(whole)
    assert rest_ending.prompt_tokens == ending.prompt_tokens
    with pytest.raises(errors.Internal, match="came out differently"):
        await generated(tiny, **wanted, generated_token_ids=(3, 3, 3))


TOOL = Tool("count", "Counts.", '{"type": "object", "properties": {"of": {"enum": ["bees"]}}, "required": ["of"]}')


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory):
    path = with_tools(tmp_path_factory.mktemp("model") / "tools.gguf")
    engine = LlamaCpp(path, 1, 1024, (), {"threads": "1"})
    engine.load()
    yield engine
    engine.close()


async def test_a_tool_call_comes_in_pieces(tool_model):
    # The model never learned to call tools: its answer is begun for it, and the grammar leads from there.
    begun = Message("assistant", '<tool_call>\n{"name": "count"')
    wanted = {"messages": (Message("user", "Count!"), begun), "tools": (TOOL,), "tool_choice": "required"}
    pieces, ending = await generated(tool_model, **wanted, temperature=0.0, max_tokens=200)
    first = [call for piece in pieces for call in piece.tool_calls if call.index == 0]
    assert len(first) > 5
    assert first[0].id
    assert all(piece.count for piece in pieces)
    assert "".join(call.name for call in first) == "count"
    # The brace that opens the arguments belongs to what was begun.
    assert json.loads("{" + "".join(call.arguments_json for call in first)) == {"of": "bees"}
    assert ending.prompt_tokens > 0


def test_an_answer_that_calls_tools_says_so_at_its_end():
    reader = ChatReader()
    (last,) = (
        item
        for chunk in (
            {"choices": [{"delta": {"content": "one"}, "finish_reason": None}], "timings": {"predicted_n": 2}},
            {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
            {"choices": [], "usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}},
        )
        for item in reader.read(chunk)
        if isinstance(item, Ending)
    )
    assert last == Ending("tool_calls", 9, 4)
    assert reader.ended


def test_what_comes_before_the_first_token_goes_with_it():
    reader = ChatReader()
    call = {"index": 0, "id": "c1", "function": {"name": "count", "arguments": ""}}
    begun = {"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]}
    first = {"choices": [{"delta": {"content": "x"}, "finish_reason": None}], "timings": {"predicted_n": 2}}
    assert reader.read(begun) == []
    assert reader.read(first) == [Piece("x", 2, tool_calls=(ToolCall("c1", "count", "", 0),))]


async def test_tools_are_refused_where_the_model_has_no_place_for_them(tiny):
    with pytest.raises(errors.Invalid, match=r"job\.tools"):
        await generated(tiny, messages=(Message("user", "Count!"),), tools=(TOOL,))


@pytest.fixture(scope="module")
def embedding_model(tmp_path_factory):
    engine = LlamaCpp(that_embeds(tmp_path_factory.mktemp("model") / "vectors.gguf"), 2, 512, (), {"threads": "1"})
    engine.load()
    yield engine
    engine.close()


async def test_an_embedding_model_makes_one_vector_of_each_text(embedding_model):
    texts = (*(f"a hive with {number} bees" for number in range(20)), "a hive with 3 bees")
    pieces, ending = await generated(embedding_model, texts=texts)
    assert pieces == []
    assert ending.prompt_tokens == await embedding_model.count_tokens(Request(texts=texts))
    assert len(ending.embeddings) == len(texts)
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-4) for vector in ending.embeddings)
    assert math.dist(ending.embeddings[3], ending.embeddings[-1]) < 0.01 < math.dist(*ending.embeddings[:2])
    with pytest.raises(errors.Invalid, match=r"the prompt has 9\d\d tokens, the context holds 512"):
        await generated(embedding_model, texts=("x" * 900,))


async def test_vectors_come_by_embed_and_as_a_jobs_ending(embedding_model, serving):
    texts = generation_pb2.EmbeddingInput(texts=["a hive", "a queen"])
    async with serving(embedding_model) as stub:
        told = await stub.Embed(pb.EmbedRequest(job_id="job-1", input=texts))
        job = job_pb2.JobSpec(model="m", embedding=texts)
        answer = [message async for message in stub.Generate(pb.GenerateRequest(job_id="job-2", job=job))]
        status = await stub.GetStatus(pb.GetStatusRequest())
    assert [len(vector.values) for vector in told.embeddings] == [192, 192]
    (event,) = answer[-1].events
    for one, other in zip(event.done.embeddings, told.embeddings, strict=True):
        assert math.dist(one.values, other.values) < 0.01
    assert event.done.usage.prompt_tokens == told.usage.prompt_tokens > 0
    assert (status.slots_available, list(status.generations)) == (2, [])


async def test_texts_whose_vectors_fit_no_message_are_refused(embedding_model):
    with pytest.raises(errors.Invalid, match="at most 16,384 for this model"):
        await generated(embedding_model, texts=("a",) * 20_000)


async def test_models_of_the_other_kind_are_refused(tiny, embedding_model):
    with pytest.raises(errors.WrongState, match="use an embedding model") as caught:
        await generated(tiny, texts=("a",))
    assert caught.value.reason == "NOT_AN_EMBEDDING_MODEL"
    with pytest.raises(errors.WrongState, match="generates none") as caught:
        await generated(embedding_model)
    assert caught.value.reason == "NOT_A_GENERATING_MODEL"


async def test_a_kept_prompt_is_not_read_twice(tiny):
    await generated(tiny, temperature=0.0, max_tokens=2)
    _, ending = await generated(tiny, temperature=0.0, max_tokens=2)
    assert 0 < ending.cached_prompt_tokens <= ending.prompt_tokens


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not a GGUF file"),
        (b"PK\x03\x04 something else", "not a GGUF file"),
        (b"GGUF\x09\x00\x00\x00", "version 9 GGUF is not supported"),
        (b"GGUF\x03\x00\x00\x00\xff", "truncated: .* of 9"),
        (b"GGUF\x03\x00\x00\x00" + b"\x00" * 8 + b"\x01" + b"\x00" * 7 + b"\xff" * 8, "truncated"),
    ],
)
def test_a_file_that_is_no_model_is_named_with_what_is_wrong(tmp_path, content, fault):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(errors.WrongState, match=fault) as caught:
        LlamaCpp(path, 1, 0, (), {}).load()
    assert caught.value.reason == "MODEL_UNUSABLE"
    assert str(path) in caught.value.message


def test_no_cut_of_a_real_file_is_taken_for_a_model(tmp_path, model_path):
    whole = model_path.read_bytes()
    path = tmp_path / "model.gguf"
    for size in (100, 5_000, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(errors.WrongState, match=f"truncated: .*{size}"):
            LlamaCpp(path, 1, 0, (), {}).load()


def test_a_gpu_that_is_not_there_is_an_error_never_the_processor_instead(model_path):
    with pytest.raises(errors.WrongState, match="drives no GPU") as caught:
        LlamaCpp(model_path, 1, 0, ("gpu0",), {}).load()
    assert caught.value.reason == "NO_SUCH_DEVICE"


async def test_a_long_prompt_that_waits_for_another_can_be_ended_at_once(tiny):
    long = {"prompt": "What is a queen without a hive? " * 14, "max_tokens": 2}

    async def read(number):
        await generated(tiny, **{**long, "prompt": f"{number} {long['prompt']}"})
        return number

    first, second = asyncio.create_task(read(1)), asyncio.create_task(read(2))
    await asyncio.sleep(0)
    second.cancel()
    for _ in range(5):  # turns of the loop, too short for any step of llama.cpp
        await asyncio.sleep(0)
    assert second.cancelled()
    assert not first.done()
    assert await first == 1
    assert await read(3) == 3, "nobody has the turn any more"
