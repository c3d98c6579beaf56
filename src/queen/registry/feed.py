"""A job's events as serialised messages, for any number of readers that come and go."""

from __future__ import annotations

import asyncio
from typing import Final, Self

from wire.errors import RbeeError

MOST_JOINED: Final = 1024
"""Events in one message at most: a few hundred bytes each, well below the 4 MiB callers accept by default."""


class JobFeed:
    """Event number n (its `sequence`, from 1) is frame n - 1. Frames are never parsed here, only joined.

    Each frame is a serialised InferResponse with exactly one event. Protobuf concatenation merges messages, and the
    events are a repeated field, so joined frames are one valid message with all their events.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.readers: set[asyncio.Event] = set()
        self.closed = False
        self.error: RbeeError | None = None

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest event, 0 before the first."""
        return len(self.frames)

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


class FeedReader:
    """One reader's place in a feed. Use as a context manager, so that the feed forgets it."""

    def __init__(self, feed: JobFeed, after_sequence: int) -> None:
        self._feed = feed
        self._next = after_sequence
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
            frames = feed.frames
            if self._next < len(frames):
                news = frames[self._next : self._next + MOST_JOINED]
                self._next += len(news)
                return news[0] if len(news) == 1 else b"".join(news)
            if feed.closed:
                if feed.error is not None:
                    raise feed.error
                return b""
            self._news.clear()
            await self._news.wait()
