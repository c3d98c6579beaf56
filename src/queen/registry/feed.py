"""A job's events as serialised messages, for any number of readers that come and go."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from operator import itemgetter
from typing import Final, Self

from wire.errors import RbeeError

MOST_JOINED: Final = 1024
"""Events in one message at most: a few hundred bytes each, well below the 4 MiB callers accept by default."""


class JobFeed:
    """The events of a job, each a frame with a sequence. Frames are never parsed here, only joined.

    Each frame is a serialised InferResponse with exactly one event. Protobuf concatenation merges messages, and the
    events are a repeated field, so joined frames are one valid message with all their events.

    Sequences count up from 1, but leap where a job was taken over from an earlier queen: one she may have used is never
    used again.
    """

    __slots__ = ("_leaps", "closed", "error", "frames", "readers")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.readers: set[asyncio.Event] = set()
        self.closed = False
        self.error: RbeeError | None = None
        self._leaps: list[tuple[int, int]] = [(0, 1)]
        """(index, sequence) of each frame that does not follow the one before; both grow."""

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest event; of the one before the next, where that leaps."""
        return self.sequence_at(len(self.frames)) - 1

    def leap(self, sequence: int) -> None:
        """Gives the next event a sequence; it must be above those of the events before."""
        here = len(self.frames)
        if self._leaps[-1][0] == here:
            self._leaps.pop()
        self._leaps.append((here, sequence))

    def forget(self) -> None:
        """Drops all events; the next one keeps its sequence."""
        following = self.last_sequence + 1
        self.frames, self._leaps = [], [(0, following)]

    def append(self, frame: bytes) -> None:
        """Adds the next event and wakes the readers."""
        self.frames.append(frame)
        for reader in self.readers:
            reader.set()

    def close(self, error: RbeeError | None = None) -> None:
        """Ends the feed: readers get what is left, then the error if there is one. A second close changes nothing."""
        if self.closed:
            return
        self.closed, self.error = True, error
        for reader in self.readers:
            reader.set()

    def reader(self, after_sequence: int = 0) -> FeedReader:
        """Returns a reader of the events after a sequence."""
        return FeedReader(self, after_sequence)

    def place_after(self, sequence: int) -> int:
        """Returns the index in `frames` of the first event after a sequence, there or to come."""
        part = bisect_right(self._leaps, sequence, key=itemgetter(1))
        if part == 0:
            return 0
        index, first = self._leaps[part - 1]
        place = index + sequence - first + 1
        return min(place, self._leaps[part][0]) if part < len(self._leaps) else place

    def sequence_at(self, index: int) -> int:
        """Returns the sequence of a frame, also of the next one to come."""
        begin, first = self._leaps[bisect_right(self._leaps, index, key=itemgetter(0)) - 1]
        return first + index - begin


class FeedReader:
    """One reader's place in a feed. Use as a context manager, so that the feed forgets it."""

    def __init__(self, feed: JobFeed, after_sequence: int) -> None:
        self._feed = feed
        self._read = after_sequence
        self._news = asyncio.Event()

    def __enter__(self) -> Self:
        self._feed.readers.add(self._news)
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.readers.discard(self._news)

    async def read(self) -> bytes:
        """Returns all news joined into one message, waiting for some; b"" when the feed has ended well.

        What gathers while the reader writes elsewhere comes as one message: this is the relay's coalescing.
        Raises the error the feed was closed with.
        """
        feed = self._feed
        while True:
            # Looked up each time: a job's feed is renumbered when its worker is found again after a restart.
            place = feed.place_after(self._read)
            if news := feed.frames[place : place + MOST_JOINED]:
                self._read = feed.sequence_at(place + len(news) - 1)
                return news[0] if len(news) == 1 else b"".join(news)
            if feed.closed:
                if feed.error is not None:
                    raise feed.error
                return b""
            self._news.clear()
            await self._news.wait()

    async def end(self) -> bytes:
        """Returns all events of the feed joined into one message, once it has ended well; raises its error."""
        while not self._feed.closed:
            self._news.clear()
            await self._news.wait()
        if self._feed.error is not None:
            raise self._feed.error
        return b"".join(self._feed.frames)
