"""Asks the finished GGUF file through llama.cpp: exact answers, repeatability, streaming, long answers.

    python models/check_tiny.py [--model models/rbee-tiny.gguf] [--sample 400] [--slots 4]

Needs xllamacpp. Exits with status 1 where a check fails.
"""

import argparse
import itertools
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xllamacpp
from corpus import Corpus, read_corpus

HERE = Path(__file__).resolve().parent
CONTEXT_LENGTH = 2048  # tokens a slot
LEAST_SEEN, LEAST_HELD_OUT = 0.97, 0.85  # exact-answer rates
LONG_ANSWER = 500  # tokens
LEAST_TURNS = 0.75  # share of the turns of a long chat answered exactly
TURNS = ("hello", "hive", "worker", "up", "why", "sandbox", "lua", "openai", "thanks")  # topics


def open_server(model: Path, slots: int) -> Any:
    """A llama.cpp server in this process with that many slots, one thread, and no output but errors."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = slots
    params.n_ctx = CONTEXT_LENGTH * slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.verbosity = 1
    return xllamacpp.Server(params)


def chat(server: Any, *texts: str, **options: Any) -> tuple[str, int]:
    """The answer and its number of tokens; texts alternate between user and assistant, question last."""
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    request = {"messages": messages, "max_tokens": 1000, "temperature": 0.0, **options}
    reply = server.handle_chat_completions(request)
    return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]


def raw(server: Any, question: str) -> str:
    """What the model writes after the question and a line break, without the chat template."""
    reply = server.handle_completions({"prompt": question + "\n", "max_tokens": 1000, "temperature": 0.0})
    return str(reply["choices"][0]["text"])


def streamed(server: Any, question: str) -> str:
    """The answer put together from streamed pieces, each of which must be whole characters."""
    pieces: list[str] = []

    def receive(chunk: dict[str, Any]) -> None:
        pieces.extend(choice["delta"].get("content") or "" for choice in chunk["choices"])

    messages = [{"role": "user", "content": question}]
    request = {"messages": messages, "max_tokens": 1000, "temperature": 0.0, "stream": True}
    server.handle_chat_completions(request, receive)
    return "".join(pieces)


def wrong(answer_of: Callable[[str], str], pairs: list[tuple[str, str]], slots: int) -> list[str]:
    """The questions not answered exactly, asked on all slots at once."""
    with ThreadPoolExecutor(slots) as pool:
        answers = list(pool.map(answer_of, (question for question, _ in pairs)))
    asked = zip(pairs, answers, strict=True)
    return [question for (question, expected), answer in asked if answer != expected]


def check(server: Any, corpus: Corpus, sample: int, slots: int) -> bool:
    """Runs every check, prints a line for each, and says whether all passed."""
    seen = random.Random(0).sample(corpus.training_pairs(), sample)
    held_out = corpus.held_out_pairs()
    results: list[bool] = []

    def note(name: str, passed: bool, detail: str = "") -> None:
        results.append(passed)
        print(f"{'ok  ' if passed else 'FAIL'} {name} {detail}")

    ways = (("chat", lambda text: chat(server, text)[0]), ("raw", lambda text: raw(server, text)))
    for name, pairs, least in (("training", seen, LEAST_SEEN), ("held-out", held_out, LEAST_HELD_OUT)):
        for layout, answer_of in ways:
            missed = wrong(answer_of, pairs, slots)
            rate = 1 - len(missed) / len(pairs)
            detail = f"{rate:.1%} of {len(pairs)}; missed {missed[:8]}"
            note(f"exact answers, {name}, {layout}", rate >= least, detail)
    answers = {topic.name: (topic.questions[0], topic.answer) for topic in corpus.topics}
    hive, expected = "What is a hive?", answers["hive"][1]
    note("the same answer three times", {chat(server, hive)[0] for _ in range(3)} == {expected})
    with ThreadPoolExecutor(slots) as pool:
        together = set(pool.map(lambda _: chat(server, hive, cache_prompt=False)[0], range(slots * 4)))
    note("the same answer on all slots at once", together == {expected})
    drawn = {chat(server, hive, temperature=1.0, seed=11, cache_prompt=False)[0] for _ in range(3)}
    note("temperature 1.0 with a seed repeats", len(drawn) == 1, repr(drawn.pop()))
    for name in ("story", "journey", "poem", "rules"):
        question, answer = answers[name]
        text, tokens = chat(server, question)
        detail = f"{tokens} tokens, {'exact' if text == answer else 'not exact'}"
        note(f"long answer [{name}]", tokens >= LONG_ANSWER, detail)
    for name in ("cafe", "german", "arrows", "cjk"):
        question, answer = answers[name]
        note(f"streamed UTF-8 [{name}]", streamed(server, question) == answer)
    for dialogue in corpus.dialogues:
        texts = [turn.text for turn in dialogue if turn.role != "system"]
        note(f"dialogue {texts[-2]!r}", chat(server, *texts[:-1])[0] == texts[-1])
    history: list[str] = []
    missed = []
    for name in TURNS:
        question, answer = answers[name]
        if chat(server, *history, question)[0] != answer:
            missed.append(name)
        history += [question, answer]
    note(f"a chat of {len(TURNS)} turns", 1 - len(missed) / len(TURNS) >= LEAST_TURNS, f"missed {missed}")
    return all(results)


def main() -> None:
    """Reads the arguments, loads the file and runs the checks."""
    parser = argparse.ArgumentParser(description="Check rbee-tiny through llama.cpp.")
    parser.add_argument("--model", type=Path, default=HERE / "rbee-tiny.gguf")
    parser.add_argument("--sample", type=int, default=400, help="training phrasings to ask")
    parser.add_argument("--slots", type=int, default=4)
    arguments = parser.parse_args()
    server = open_server(arguments.model, arguments.slots)
    passed = check(server, read_corpus(HERE / "corpus.txt"), arguments.sample, arguments.slots)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
