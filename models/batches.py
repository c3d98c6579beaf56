"""Packs questions and conversations into rows of tokens for training, and pads them for evaluation."""

from dataclasses import dataclass, field

import numpy as np
from corpus import Sampler
from numpy.typing import NDArray
from vocabulary import BEGIN, END, encode, encode_turn

CONTEXT_LENGTH = 2048  # tokens
QUESTION_WEIGHT = 0.05  # how much predicting a token of a question counts, against 1 for a token of an answer
RAW_SHARE = 0.2  # of documents that have no chat marks: question, line break, answer
GAP_SHARE = 0.3  # of conversations with gaps in their positions, so that far turns are seen as far
LONGEST_GAP = 400  # positions


@dataclass(frozen=True)
class Rows:
    """Equally long rows: tokens, positions, segment numbers (int32), and token weights (float32)."""

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    segments: NDArray[np.int32]
    weight: NDArray[np.float32]

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """The four arrays in the order in which the loss takes them."""
        return self.tokens, self.positions, self.segments, self.weight


@dataclass
class Document:
    """Tokens that belong together, with a position and a weight for each."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)

    def add(self, tokens: list[int], weight: float, gap: int = 0) -> None:
        """Appends tokens of one weight, `gap` positions after the last one."""
        start = self.positions[-1] + 1 + gap if self.positions else 0
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.weight += [weight] * len(tokens)


def random_document(sampler: Sampler, turns: int) -> Document:
    """A raw question with its answer, or a conversation of that many turns; the begin token comes first."""
    document = Document()
    document.add([BEGIN], 0.0)
    if sampler.source.random() < RAW_SHARE:
        question, answer = sampler.pair()
        document.add(encode(question), QUESTION_WEIGHT)
        # The line break counts in full, so that a raw question without one is answered too.
        document.add([*encode("\n" + answer), END], 1.0)
        return document
    has_gaps = sampler.source.random() < GAP_SHARE
    for turn in sampler.conversation(turns):
        tokens = encode_turn(turn)
        if turn.role != "assistant":
            document.add(tokens, QUESTION_WEIGHT, sampler.source.randrange(LONGEST_GAP) if has_gaps else 0)
            continue
        document.add(tokens[:2], 0.0)
        document.add(tokens[2:-1], 1.0)
        document.add(tokens[-1:], 0.0)
    return document


def training_rows(sampler: Sampler, rows: int, length: int, most_turns: int) -> Rows:
    """Rows filled with random documents of 1 to `most_turns` turns; the last document of a row is cut off."""
    packed: list[tuple[list[int], list[int], list[int], list[float]]] = []
    for _ in range(rows):
        tokens: list[int] = []
        positions: list[int] = []
        segments: list[int] = []
        weight: list[float] = []
        while len(tokens) < length:
            document = random_document(sampler, sampler.source.randint(1, most_turns))
            segments += [segments[-1] + 1 if segments else 0] * len(document.tokens)
            tokens += document.tokens
            positions += document.positions
            weight += document.weight
        positions = [min(at, CONTEXT_LENGTH - 1) for at in positions]
        packed.append((tokens[:length], positions[:length], segments[:length], weight[:length]))
    columns = list(zip(*packed, strict=True))
    tokens_, positions_, segments_ = (np.array(column, np.int32) for column in columns[:3])
    return Rows(tokens_, positions_, segments_, np.array(columns[3], np.float32))


def padded_rows(documents: list[Document], length: int) -> Rows:
    """One document a row, padded with weight 0 to `length` tokens."""
    shape = (len(documents), length)
    tokens, weight = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for row, document in enumerate(documents):
        tokens[row, : len(document.tokens)] = document.tokens
        weight[row, : len(document.weight)] = document.weight
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), shape)
    return Rows(tokens, positions, np.zeros(shape, np.int32), weight)
