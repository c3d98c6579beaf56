"""Messages on a socket pair: each behind its length, four bytes, most significant first."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio  # the sandbox itself has no event loop, and is ready sooner without

MAX_REPLY_BYTES: Final = 4 * 2**20
"""Longest reply the queen reads. A cycle of 1,000 jobs needs about 200 KB; what is longer is a flood."""

_LENGTH: Final = struct.Struct(">I")


class FrameTooLong(Exception):
    """The other end announced a message nobody should need."""


def framed(message: bytes) -> bytes:
    """Returns a message behind its length."""
    return _LENGTH.pack(len(message)) + message


async def read(stream: asyncio.StreamReader, limit_bytes: int) -> bytes:
    """Returns the next message; raises `FrameTooLong`, or `IncompleteReadError` when the stream ends first."""
    (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
    if length > limit_bytes:
        raise FrameTooLong(f"a message of {length:,} bytes, more than {limit_bytes:,}")
    return await stream.readexactly(length)


def receive(end: socket.socket) -> bytes | None:
    """Returns the next message of a blocking socket; None when the other end has closed."""
    header = _receive_exactly(end, _LENGTH.size)
    return None if header is None else _receive_exactly(end, _LENGTH.unpack(header)[0])


def _receive_exactly(end: socket.socket, count: int) -> bytes | None:
    whole = bytearray(count)
    rest = memoryview(whole)
    while rest:
        got = end.recv_into(rest)
        if not got:
            return None
        rest = rest[got:]
    return bytes(whole)


def split(recorded: bytes) -> list[bytes]:
    """Returns the messages of a recorded stream; one that was cut off at the end is left out."""
    messages, at = [], 0
    while at + _LENGTH.size <= len(recorded):
        (length,) = _LENGTH.unpack_from(recorded, at)
        start = at + _LENGTH.size
        at = start + length
        if at <= len(recorded):
            messages.append(recorded[start:at])
    return messages
