"""Reads the metadata of a GGUF file, and only that: fast for large vocabularies, exact about what is broken.

`gguf.GGUFReader` makes several arrays per vocabulary entry, which takes seconds for 128k tokens, and maps the tensors,
which fails without a reason on a truncated file. Here strings of arrays are skipped, and tensor extents are compared
with the file's size. Layout: the GGUF specification of ggml, versions 2 and 3.
"""

from __future__ import annotations

import math
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from wire.gguf_layout import ARRAY, BLOCKS, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING

Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...]

SUPPORTED_VERSIONS: Final = (2, 3)
MAX_KEPT_ARRAY: Final = 4096
"""Longest array that is kept: per-layer numbers are short, vocabularies are not wanted."""
_CHUNK: Final = 2**20
_MAX_STRING: Final = 2**26
_MOST_PARAMETERS: Final = 2**53
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class Defect(Exception):
    """Why a file is not a GGUF file that can be loaded, in words."""


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata by key (arrays of strings and long arrays left out), parameters in all, and where tensor data ends."""

    fields: Mapping[str, Value]
    tensor_count: int
    parameter_count: int
    end_of_data: int


def read_header(path: Path) -> Header:
    """Returns the header of a file whose tensor data is all there; raises `Defect` or `OSError`."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Defect("not a regular file")  # opening a named pipe would wait for ever
    size = status.st_size
    with path.open("rb") as file:
        header = _Reader(file, size).header()
    if header.end_of_data > size:
        raise Defect(f"truncated: tensor data ends at byte {size} of {header.end_of_data}")
    return header


class _Reader:
    """A cursor over a file that holds one chunk of it at a time."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._chunk = b""
        self._chunk_start = 0
        self._at = 0

    def header(self) -> Header:
        """Reads from the start of the file to the end of the tensor infos."""
        if self._size < 4 or self._number(_U32) != MAGIC:
            raise Defect("not a GGUF file: it does not start with 'GGUF'")
        version = int(self._number(_U32))
        if version not in SUPPORTED_VERSIONS:
            wrong = "big-endian" if version & 0xFFFF == 0 else f"version {version}"
            raise Defect(f"{wrong} GGUF is not supported; convert the model again")
        tensor_count, field_count = int(self._number(_U64)), int(self._number(_U64))
        fields: dict[str, Value] = {}
        for _ in range(field_count):
            key = self._string()
            value = self._value(self._kind())
            if value is not None:
                fields[key] = value
        alignment = fields.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise Defect(f"general.alignment is {alignment!r}")
        parameters, extent = 0, 0
        for _ in range(tensor_count):
            elements, end = self._tensor()
            parameters, extent = parameters + elements, max(extent, end)
        if parameters > _MOST_PARAMETERS:
            raise Defect(f"corrupt: its tensors have {parameters} elements")
        data_start = self._offset() + -self._offset() % alignment
        return Header(fields, tensor_count, parameters, data_start + extent if tensor_count else self._offset())

    def _tensor(self) -> tuple[int, int]:
        """Returns a tensor's elements and the byte after its last, from the start of tensor data."""
        self._string()
        dimensions = int(self._number(_U32))
        if dimensions > 8:
            raise Defect(f"corrupt: a tensor has {dimensions} dimensions")
        elements = math.prod(int(self._number(_U64)) for _ in range(dimensions))
        kind, offset = int(self._number(_U32)), int(self._number(_U64))
        # A type newer than our table may be one llama.cpp knows, so its size is not judged.
        block, block_bytes = BLOCKS.get(kind, (1, 0))
        return elements, offset + elements // block * block_bytes

    def _kind(self) -> int:
        kind = int(self._number(_U32))
        if kind not in SCALARS and kind not in (STRING, ARRAY):
            raise Defect(f"corrupt: value of unknown type {kind} at byte {self._offset() - 4}")
        return kind

    def _value(self, kind: int) -> Value | None:
        """Returns a value; None for an array that is not kept."""
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(SCALARS[kind])
        item, count = self._kind(), int(self._number(_U64))
        if item == ARRAY:
            raise Defect("corrupt: arrays in arrays")
        if item == STRING:
            self._skip_strings(count)
            return None
        width = SCALARS[item].size
        if count > MAX_KEPT_ARRAY:
            self._skip(count * width)
            return None
        data = self._take(count * width)
        return tuple(value for (value,) in SCALARS[item].iter_unpack(data))

    def _skip_strings(self, count: int) -> None:
        """Passes over strings; the one loop that runs 100,000 times, so it works on the chunk itself."""
        unpack = _U64.unpack_from
        while count:
            self._fill(8)
            chunk, at, last = self._chunk, self._at, len(self._chunk) - 8
            while count and at <= last:
                at += 8 + unpack(chunk, at)[0]
                count -= 1
            beyond = max(0, at - len(chunk))
            self._at = at - beyond
            self._skip(beyond)

    def _string(self) -> str:
        length = int(self._number(_U64))
        if length > _MAX_STRING:
            raise self._cut(length)
        return self._take(length).decode("utf-8", "replace")

    def _number(self, layout: struct.Struct) -> int | float | bool:
        value: int | float | bool = layout.unpack(self._take(layout.size))[0]
        return value

    def _take(self, count: int) -> bytes:
        self._fill(count)
        taken = self._chunk[self._at : self._at + count]
        self._at += count
        return taken

    def _skip(self, count: int) -> None:
        target = self._offset() + count
        if target > self._size:
            raise self._cut(count)
        if target <= self._chunk_start + len(self._chunk):
            self._at += count
        else:
            self._file.seek(target)
            self._chunk, self._chunk_start, self._at = b"", target, 0

    def _fill(self, count: int) -> None:
        """Makes `count` bytes available at the cursor."""
        if len(self._chunk) - self._at >= count:
            return
        start = self._offset()
        rest = self._chunk[self._at :]
        self._chunk = rest + self._file.read(max(_CHUNK, count - len(rest)))
        self._chunk_start, self._at = start, 0
        if len(self._chunk) < count:
            raise self._cut(count)

    def _offset(self) -> int:
        return self._chunk_start + self._at

    def _cut(self, count: int) -> Defect:
        return Defect(f"truncated: metadata needs byte {self._offset() + count} of {self._size}")
