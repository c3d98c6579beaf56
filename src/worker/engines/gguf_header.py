"""The head of a GGUF file: enough to say what a file is, and what is wrong with it, before an engine loads it.

Layout: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wire import errors

_SCALARS: Final[dict[int, struct.Struct]] = {
    number: struct.Struct(f"<{code}")
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING: Final = 8
_ARRAY: Final = 9
_U32: Final = _SCALARS[4]
_U64: Final = _SCALARS[10]


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a worker needs to know of a model file; a number is None where the file does not tell."""

    architecture: str
    context_length: int | None
    eos_token_id: int | None


def read_header(path: Path) -> GgufHeader:
    """Reads the head of a model file. Raises `NotFound` MODEL_NOT_FOUND or `WrongState` MODEL_UNUSABLE."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except FileNotFoundError as error:
        raise errors.NotFound(f"there is no model file {path}: rbee model list", "MODEL_NOT_FOUND") from error
    except ValueError as error:
        raise _unusable(path, "it is empty") from error
    except OSError as error:
        raise _unusable(path, f"it cannot be read ({error.strerror})") from error


def _unusable(path: Path, fault: str) -> errors.WrongState:
    return errors.WrongState(f"{path} is not a usable GGUF model: {fault}. Fetch the file again", "MODEL_UNUSABLE")


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def header(self) -> GgufHeader:
        if self._data[:4] != b"GGUF":
            raise _unusable(self._path, "it does not begin with the letters GGUF")
        self._at = 4
        try:
            version = self._number(_U32)
            if version not in (2, 3):
                raise _unusable(self._path, f"its format version is {version}, known are 2 and 3")
            tensors, entries = self._number(_U64), self._number(_U64)
            found = dict(self._entry() for _ in range(entries))
            last_offset = max((self._tensor_offset() for _ in range(tensors)), default=0)
        except struct.error as error:
            raise self._cut_short() from error
        if self._at + last_offset >= len(self._data):
            raise self._cut_short()
        architecture = str(found.get("general.architecture", ""))
        return GgufHeader(
            architecture=architecture,
            context_length=_whole(found.get(f"{architecture}.context_length")),
            eos_token_id=_whole(found.get("tokenizer.ggml.eos_token_id")),
        )

    def _cut_short(self) -> errors.WrongState:
        return _unusable(self._path, f"it is damaged, or cut short at {len(self._data):,} bytes")

    def _number(self, kind: struct.Struct) -> int:
        (value,) = kind.unpack_from(self._data, self._at)
        self._at += kind.size
        return value  # type: ignore[no-any-return]  # floats and booleans too; only whole numbers are used as such

    def _text(self) -> str:
        length = self._number(_U64)
        self._skip(length)
        return self._data[self._at - length : self._at].decode(errors="replace")

    def _skip(self, length: int) -> None:
        if length > len(self._data) - self._at:
            raise struct.error
        self._at += length

    def _entry(self) -> tuple[str, object]:
        return self._text(), self._value(self._number(_U32))

    def _value(self, kind: int) -> object:
        """Reads a value; arrays are passed over, as none is needed and vocabularies are long."""
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(self._scalar(kind))
        inner, length = self._number(_U32), self._number(_U64)
        if inner in (_STRING, _ARRAY):
            for _ in range(length):
                self._skip(self._number(_U64)) if inner == _STRING else self._value(_ARRAY)
        else:
            self._skip(length * self._scalar(inner).size)
        return None

    def _scalar(self, kind: int) -> struct.Struct:
        if kind not in _SCALARS:
            raise _unusable(self._path, f"its metadata has a value of unknown type {kind}")
        return _SCALARS[kind]

    def _tensor_offset(self) -> int:
        """Reads one tensor's description and returns where its data begins, counted from the first tensor's."""
        self._text()
        self._skip(self._number(_U32) * 8 + 4)
        return self._number(_U64)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
