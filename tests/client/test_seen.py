"""What a caller has of an answer, when parts of it come again."""

import pytest

import rbee
from client.answer import Seen
from rbee.v1 import event_pb2


def tokens(first, text):
    return event_pb2.Tokens(text=text, count=len(text), first_index=first, token_ids=range(first, first + len(text)))


def taken(*pieces):
    """Returns what is new of each piece: (index of its first token, text)."""
    seen, fresh = Seen(), []
    for first, text in pieces:
        piece = tokens(first, text)
        if seen.take(piece):
            assert list(piece.token_ids) == list(range(piece.first_index, piece.first_index + piece.count))
            fresh.append((piece.first_index, piece.text))
    assert list(seen.token_ids) == list(range(sum(len(text) for _, text in fresh)))
    return fresh


def test_an_answer_may_come_again_from_its_begin_or_from_the_begin_of_a_piece():
    assert taken((0, "ab"), (2, "cd")) == [(0, "ab"), (2, "cd")]
    assert taken((0, "ab"), (2, "cd"), (0, "abc"), (3, "de"), (5, "f")) == [(0, "ab"), (2, "cd"), (4, "e"), (5, "f")]
    assert taken((0, "ab"), (2, "cd"), (4, "ef"), (2, "c"), (3, "defg")) == [(0, "ab"), (2, "cd"), (4, "ef"), (6, "g")]


def test_it_may_come_again_twice_before_it_has_caught_up():
    pieces = (0, "ab"), (2, "cd"), (4, "ef"), (2, "cd"), (2, "c"), (3, "de"), (5, "fg")
    assert taken(*pieces) == [(0, "ab"), (2, "cd"), (4, "ef"), (6, "g")]


@pytest.mark.parametrize("again", [(0, "ax"), (2, "x"), (1, "b")])
def test_one_that_comes_out_differently_or_from_nowhere_is_an_error(again):
    with pytest.raises(rbee.Conflict, match="came out differently"):
        taken((0, "ab"), (2, "cd"), again)
