"""How often the model answers a question exactly, by greedy decoding."""

from collections.abc import Iterable

import jax
import numpy as np
from batches import Document, padded_rows
from transformer import Shape, Weights, logits
from vocabulary import END, encode, encode_question

ROWS = 16
LENGTHS = (128, 192, 256, 384, 512, 1024)  # tokens


def wrong_pairs(
    shape: Shape, weights: Weights, pairs: Iterable[tuple[str, str]], is_raw: bool
) -> list[tuple[str, str]]:
    """The (question, answer) pairs that greedy decoding does not reproduce, up to and with the end token.

    One pass over question and answer together settles it: greedy decoding writes the answer exactly when the
    likeliest token is the right one at each of its places.
    """
    forward = jax.jit(logits, static_argnums=0)
    wrong: list[tuple[str, str]] = []
    groups: dict[int, list[tuple[str, str]]] = {length: [] for length in LENGTHS}
    for pair in pairs:
        size = len(_document(*pair, is_raw).tokens)
        groups[next(length for length in LENGTHS if size <= length)].append(pair)
    for length, group in groups.items():
        for start in range(0, len(group), ROWS):
            chunk = group[start : start + ROWS]
            documents = [_document(*pair, is_raw) for pair in chunk] + [Document()] * (ROWS - len(chunk))
            rows = padded_rows(documents, length)
            scores = forward(shape, weights, rows.tokens, rows.positions, rows.segments)
            likeliest = np.asarray(scores).argmax(axis=-1)
            is_right = (likeliest[:, :-1] == rows.tokens[:, 1:]) | (rows.weight[:, 1:] == 0)
            wrong += [pair for pair, right in zip(chunk, is_right.all(axis=1), strict=False) if not right]
    return wrong


def _document(question: str, answer: str, is_raw: bool) -> Document:
    """The question with weight 0 and the answer with weight 1."""
    document = Document()
    document.add(encode_question(question, is_raw), 0.0)
    document.add([*encode(answer), END], 1.0)
    return document
