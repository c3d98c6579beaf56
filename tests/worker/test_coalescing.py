"""When tokens leave, on a timer that the test fires."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from worker.coalescing import SPAN_S, Coalescer
from worker.engines.port import Piece


@dataclass(eq=False)
class Timer:
    """Something that is to happen after `seconds`; the test makes it happen."""

    timers: list
    seconds: float
    action: Callable[[], None]

    def cancel(self):
        self.timers.remove(self)

    def fire(self):
        self.timers.remove(self)
        self.action()


@pytest.fixture
def timers():
    return []


@pytest.fixture
def sent():
    return []


@pytest.fixture
def coalescer(timers, sent):
    def schedule(seconds, action):
        timers.append(Timer(timers, seconds, action))
        return timers[-1]

    return Coalescer(sent.append, schedule)


def test_the_first_leaves_at_once_the_next_wait_together_for_15_ms(coalescer, timers, sent):
    coalescer.add(Piece("a", 1, (1,)))
    assert sent == [Piece("a", 1, (1,))]
    coalescer.add(Piece("b", 1, (2,)))
    coalescer.add(Piece("c", 2, (3, 4)))
    assert len(sent) == 1
    assert [timer.seconds for timer in timers] == [SPAN_S]
    timers[0].fire()
    assert sent[1:] == [Piece("bc", 3, (2, 3, 4))]
    coalescer.add(Piece("d"))
    assert len(timers) == 1


def test_nothing_leaves_while_a_write_is_outstanding_then_all_of_it(coalescer, timers, sent):
    coalescer.add(Piece("a"))
    coalescer.hold()
    coalescer.add(Piece("b"))
    timers[0].fire()
    coalescer.add(Piece("c"))
    assert len(sent) == 1
    coalescer.release()
    assert [piece.text for piece in sent] == ["a", "bc"]


def test_the_end_of_a_write_does_not_cut_the_wait_short(coalescer, timers, sent):
    coalescer.add(Piece("a"))
    coalescer.hold()
    coalescer.add(Piece("b"))
    coalescer.release()
    assert len(sent) == 1
    timers[0].fire()
    assert len(sent) == 2


def test_flush_sends_what_there_is_and_leaves_no_timer(coalescer, timers, sent):
    coalescer.add(Piece("a"))
    coalescer.add(Piece("b"))
    coalescer.flush()
    coalescer.flush()
    assert [piece.text for piece in sent] == ["a", "b"]
    assert timers == []


def test_tokens_with_and_without_ids_never_share_an_event(coalescer, timers, sent):
    for piece in (Piece("a", 1, (1,)), Piece("b", 1, (2,)), Piece("c"), Piece("d")):
        coalescer.add(piece)
    timers[0].fire()
    assert sent == [Piece("a", 1, (1,)), Piece("b", 1, (2,)), Piece("cd", 2)]
