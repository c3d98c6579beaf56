"""Trains rbee-tiny on corpus.txt and writes it as a GGUF file, on two CPU cores in under half an hour.

    python models/train_tiny.py [--seed 7] [--out models/rbee-tiny.gguf] [--steps 1000]

Needs jax, numpy and gguf (the `train` extra). Everything random comes from the seed: two runs on one machine
with one version of jax write the same bytes. Another machine or version may round differently and so write
another, equally good file.
"""

import argparse
import os
import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

THREADS = 2
# XLA sizes its thread pool by the cores it may use, and only when jax is first imported.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optimizer  # noqa: E402
from batches import training_rows  # noqa: E402
from corpus import Corpus, Sampler, read_corpus  # noqa: E402
from evaluation import wrong_pairs  # noqa: E402
from gguf_file import read_weights, write_gguf  # noqa: E402
from transformer import Shape, Weights, initial_weights, mean_loss  # noqa: E402
from vocabulary import SIZE  # noqa: E402

HERE = Path(__file__).resolve().parent
MUON_RATE, ADAM_RATE = 0.02, 3e-3  # learning rates at factor 1
WARM_UP = 20  # steps
CLIP = 1.0  # largest gradient norm
PROGRESS = 20  # steps between lines of progress
# (rows, tokens a row, most turns). Short rows teach which answer to begin, middle rows to finish it, and long
# rows to write long answers and to keep the turns of a conversation apart.
SHAPES = {"short": (64, 64, 1), "middle": (8, 512, 2), "long": (2, 1024, 5)}
EVALUATED = 1500  # training phrasings


@dataclass(frozen=True)
class Round:
    """A part of training with its own course of the learning rate and its own sequence of kinds of rows."""

    share: float  # of all steps
    peak: float  # learning rate factor
    decay: float  # share of the steps, at the end, during which the rate falls to zero
    kinds: tuple[str, ...]
    has_later: bool  # whether the later phrasings of the corpus are drawn too

    def factor(self, step: int, steps: int) -> float:
        """The learning rate factor at a step of this round: up, level, and down in a straight line."""
        return self.peak * min(1.0, (step + 1) / WARM_UP, (steps - step) / (self.decay * steps))


# The first round learns the answers by heart, the second one tells their questions apart.
ROUNDS = (
    Round(0.57, 1.0, 0.5, ("short", "middle", "long"), has_later=False),
    Round(0.43, 0.6, 1.0, ("short", "short", "middle", "short", "long"), has_later=True),
)


def train(shape: Shape, weights: Weights, sampler: Sampler, plan: Round, steps: int) -> Weights:
    """The weights after a round of that many steps; prints progress."""
    state = optimizer.initial_state(weights)

    @partial(jax.jit, donate_argnums=(0, 1))
    def advance(
        weights: Weights, state: optimizer.State, step: jax.Array, factor: jax.Array, *rows: jax.Array
    ) -> tuple[Weights, optimizer.State, jax.Array]:
        loss, gradients = jax.value_and_grad(lambda weights: mean_loss(shape, weights, rows))(weights)
        norm = jnp.sqrt(sum(jnp.vdot(value, value) for value in gradients.values()))
        gradients = {name: value * jnp.minimum(1.0, CLIP / norm) for name, value in gradients.items()}
        rates = (MUON_RATE * factor, ADAM_RATE * factor)
        return *optimizer.updated(weights, gradients, state, step, rates), loss

    started = time.monotonic()
    for step in range(steps):
        kind = plan.kinds[step % len(plan.kinds)]
        rows = training_rows(sampler, *SHAPES[kind]).arrays()
        factor = jnp.float32(plan.factor(step, steps))
        weights, state, loss = advance(weights, state, jnp.float32(step), factor, *rows)
        if step % PROGRESS < len(plan.kinds) or step == steps - 1:
            spent = time.monotonic() - started
            print(f"step {step:4d}/{steps}  loss {float(loss):.4f} ({kind})  {spent:5.0f} s", flush=True)
    return weights


def report(shape: Shape, weights: Weights, corpus: Corpus, seed: int) -> None:
    """Prints the exact-answer rates on training and on held-out phrasings, as a chat and as a raw prompt."""
    seen = corpus.training_pairs()
    seen = random.Random(seed).sample(seen, min(EVALUATED, len(seen)))
    for name, pairs in (("training", seen), ("held-out", corpus.held_out_pairs())):
        for layout, is_raw in (("chat", False), ("raw", True)):
            wrong = wrong_pairs(shape, weights, pairs, is_raw)
            rate = 1 - len(wrong) / len(pairs)
            print(f"exact answers, {name} phrasings, {layout}: {rate:.1%} of {len(pairs)}")
            for question, _ in wrong[:20]:
                print(f"    not exact: {question!r}")


def main() -> None:
    """Reads the arguments, trains round by round, writes the file after each, and evaluates."""
    parser = argparse.ArgumentParser(description="Train rbee-tiny and write it as a GGUF file.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "rbee-tiny.gguf")
    parser.add_argument("--steps", type=int, default=1000, help="of both rounds together")
    parser.add_argument("--first-round", type=Path, help="file of a finished first round, to begin with the second")
    arguments = parser.parse_args()
    corpus = read_corpus(HERE / "corpus.txt")
    shape = Shape(vocabulary=SIZE)
    weights = initial_weights(shape, arguments.seed)
    for number, plan in enumerate(ROUNDS):
        if number == 0 and arguments.first_round:
            weights = read_weights(arguments.first_round)
            continue
        sampler = Sampler(corpus, random.Random(arguments.seed + number), plan.has_later)
        weights = train(shape, weights, sampler, plan, round(plan.share * arguments.steps))
        write_gguf(arguments.out, shape, weights)
        weights = read_weights(arguments.out)
    parameters = sum(value.size for value in weights.values())
    print(f"{arguments.out.name}: {parameters:,} parameters, {arguments.out.stat().st_size:,} bytes")
    report(shape, weights, corpus, arguments.seed)


if __name__ == "__main__":
    main()
