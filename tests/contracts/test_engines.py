"""What every engine must do behind `worker.engines.port.Engine`, run over each."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from wire import errors
from wire.clock import SystemClock
from worker.engines.llamacpp import LlamaCpp
from worker.engines.port import Ending, Message, Request
from worker.engines.synthetic import Synthetic

MODEL = Path(__file__).parents[2] / "models" / "rbee-tiny.gguf"
GREEDY = {"prompt": "What is a hive?\n", "temperature": 0.0}


@pytest.fixture(scope="module", params=["llamacpp", "synthetic"])
def engine(request):
    if request.param == "llamacpp":
        engine = LlamaCpp(MODEL, 2, 512, (), {"threads": "1"})
    else:
        options = {"tokens_per_second": "0", "completion_tokens": "400"}
        engine = Synthetic(2, 512, options, SystemClock())
    engine.load()
    yield engine
    engine.close()


async def generated(engine, **wanted):
    """The pieces, and the ending."""
    async with contextlib.aclosing(engine.generate(Request(**wanted))) as items:
        *pieces, ending = [item async for item in items]
    assert isinstance(ending, Ending)
    return pieces, ending


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


def ids_of(pieces):
    return tuple(number for piece in pieces for number in piece.token_ids)


def test_it_tells_what_it_is(engine):
    assert engine.name
    assert engine.version
    assert engine.backend == "cpu"
    assert (engine.slots, engine.context_length) == (2, 512)


async def test_pieces_come_with_their_ids_and_then_one_ending(engine):
    pieces, ending = await generated(engine, **GREEDY, max_tokens=12)
    assert all(piece.count == len(piece.token_ids) for piece in pieces)
    assert 0 < sum(piece.count for piece in pieces) <= 12
    assert all(piece.text for piece in pieces)
    assert ending.prompt_tokens > 0


async def test_a_chat_is_answered(engine):
    messages = (Message("system", "Be brief."), Message("user", "What is a hive?"))
    pieces, ending = await generated(engine, messages=messages, max_tokens=5)
    assert sum(piece.count for piece in pieces) <= 5
    assert ending.prompt_tokens >= 6


async def test_max_tokens_end_it_with_length(engine):
    pieces, ending = await generated(engine, **GREEDY, max_tokens=3)
    assert sum(piece.count for piece in pieces) <= 3
    assert ending.finish == "length"


async def test_the_same_request_gets_the_same_answer(engine):
    first, _ = await generated(engine, **GREEDY, max_tokens=40)
    second, _ = await generated(engine, **GREEDY, max_tokens=40)
    assert text_of(first) == text_of(second)


@pytest.mark.parametrize("given", [1, 7, 20])
async def test_a_continuation_gives_the_very_rest_of_the_undisturbed_answer(engine, given):
    whole, ending = await generated(engine, **GREEDY, max_tokens=40)
    before = whole[:given]
    rest, rest_ending = await generated(engine, **GREEDY, max_tokens=40, generated_token_ids=ids_of(before))
    assert text_of(before) + text_of(rest) == text_of(whole)
    assert ids_of(before) + ids_of(rest) == ids_of(whole)
    assert (rest_ending.finish, rest_ending.prompt_tokens) == (ending.finish, ending.prompt_tokens)


async def test_a_stop_sequence_ends_it_and_is_no_part_of_the_answer(engine):
    whole = text_of((await generated(engine, **GREEDY, max_tokens=40))[0])
    stop = whole[8:12]
    pieces, ending = await generated(engine, **GREEDY, max_tokens=40, stop=("never this", stop))
    assert text_of(pieces) == whole[: whole.index(stop)]
    assert (ending.finish, ending.stop_sequence) == ("stop", stop)


async def test_a_stop_sequence_that_only_begins_takes_nothing_away(engine):
    whole = text_of((await generated(engine, **GREEDY, max_tokens=12))[0])
    pieces, ending = await generated(engine, **GREEDY, max_tokens=12, stop=(whole[-2:] + "\x01\x02",))
    assert text_of(pieces) == whole
    assert ending.stop_sequence == ""


async def test_it_counts_the_tokens_a_generation_would_take_for_the_prompt(engine):
    turns = (Message("system", "Be brief."), Message("user", "What is a hive?"), Message("assistant", "Wax. "))
    for asked in (GREEDY, {"messages": turns}, {"prompt": "<s> é\n" * 9}, {"messages": turns[1:2]}):
        _, ending = await generated(engine, **asked, max_tokens=1)
        assert await engine.count_tokens(Request(**asked)) == ending.prompt_tokens


async def test_it_counts_a_prompt_over_the_context_and_without_a_free_slot(engine):
    words = "word " * 700
    async with contextlib.AsyncExitStack() as running:
        for _ in range(engine.slots):
            items = await running.enter_async_context(contextlib.aclosing(engine.generate(Request(**GREEDY))))
            await anext(items)
        counted = await engine.count_tokens(Request(prompt=words))
    with pytest.raises(errors.Invalid, match=f"the prompt has {counted:,} tokens"):
        await generated(engine, prompt=words)


async def test_a_prompt_over_the_context_is_refused_with_both_counts(engine):
    with pytest.raises(errors.Invalid, match=r"the prompt has [\d,]+ tokens, the context holds 512") as caught:
        await generated(engine, prompt="word " * 700)
    assert caught.value.reason == "PROMPT_TOO_LONG"


async def test_an_answer_ends_where_the_context_does(engine):
    pieces, ending = await generated(engine, prompt="one two " * 56, max_tokens=5000, temperature=0.0)
    assert sum(piece.count for piece in pieces) + ending.prompt_tokens <= 512


async def test_closing_it_frees_the_slot(engine):
    for _ in range(2 * engine.slots):
        items = engine.generate(Request(**GREEDY))
        await anext(items)
        await items.aclose()
    assert (await generated(engine, **GREEDY, max_tokens=2))[0]


async def test_slots_run_at_once_without_mixing(engine):
    alone = [text_of((await generated(engine, **GREEDY, max_tokens=n))[0]) for n in (20, 30)]
    together = await asyncio.gather(*(generated(engine, **GREEDY, max_tokens=n) for n in (20, 30)))
    assert [text_of(pieces) for pieces, _ in together] == alone


def test_an_option_it_does_not_know_is_refused_with_those_it_does(engine):
    with pytest.raises(errors.Invalid, match="not an option of engine") as caught:
        LlamaCpp(MODEL, 1, 0, (), {"colour": "red", "threads": "x", "gpu_layers": "-1"})
    assert [fault.field for fault in caught.value.faults] == ["colour", "threads", "gpu_layers"]
