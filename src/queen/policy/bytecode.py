"""What names a Lua program uses, read from its compiled form: exact, without a second parser of Lua.

The format is that of Lua 5.4's `string.dump` (lundump.c, lopcodes.h). Only code compiled here from source is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lupa import lua54

_GETTABUP, _GETFIELD, _SETTABUP, _SETFIELD, _SELF = 11, 14, 15, 18, 20
_HEADER_BYTES: Final = 4 + 1 + 1 + 6 + 3 + 8 + 8
_SAME_AS_ABOVE: Final = -0x80  # a line that stands in the table of absolute lines
_COMPILE: Final = """
function(source)
  local chunk = load(source, "=policy", "t")
  return chunk and (string.dump(chunk):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end"""


@dataclass(frozen=True, slots=True)
class Use:
    """A name and the line it is on. `library` is the global whose member it is, "" for a global itself."""

    name: str
    line: int
    library: str = ""


@dataclass(frozen=True, slots=True)
class Uses:
    """Globals read, globals set, methods called with a colon, and the names of fields that are set."""

    read: tuple[Use, ...]
    written: tuple[Use, ...]
    methods: tuple[Use, ...]
    fields: frozenset[str]


def uses(source: str) -> Uses:
    """Returns the names a program uses; none when it does not compile."""
    dump = lua54.LuaRuntime(register_eval=False).eval(_COMPILE)(source)
    reader = _Reader(bytes.fromhex(dump or ""))
    if dump is not None:
        reader.at = _HEADER_BYTES + 1
        reader.function()
    by_line = sorted(reader.read, key=lambda use: use.line), sorted(reader.written, key=lambda use: use.line)
    return Uses(
        tuple(by_line[0]),
        tuple(by_line[1]),
        tuple(sorted(reader.methods, key=lambda use: use.line)),
        frozenset(reader.fields),
    )


class _Reader:
    """Walks through a dump, function by function."""

    def __init__(self, dump: bytes) -> None:
        self._dump = dump
        self.at = 0
        self.read: list[Use] = []
        self.written: list[Use] = []
        self.methods: list[Use] = []
        self.fields: set[str] = set()

    def function(self) -> None:
        self._text()  # its source's name
        first_line = self._number()
        self._number()
        self._bytes(3)  # parameters, varargs, stack
        code = [int.from_bytes(self._bytes(4), "little") for _ in range(self._number())]
        constants = [self._constant() for _ in range(self._number())]
        self._bytes(3 * self._number())  # upvalues: where each comes from
        for _ in range(self._number()):
            self.function()
        lines = self._lines(first_line)
        for _ in range(self._number()):  # local variables
            self._text()
            self._number()
            self._number()
        upvalues = [self._text() for _ in range(self._number())]
        self._scan(code, constants, upvalues, lines)

    def _scan(self, code: list[int], constants: list[str], upvalues: list[str], lines: list[int]) -> None:
        for place, instruction in enumerate(code):
            operation = instruction & 0x7F
            a, b, c = instruction >> 7 & 0xFF, instruction >> 16 & 0xFF, instruction >> 24
            if operation == _GETTABUP and upvalues[b] == "_ENV":
                self.read.append(Use(constants[c], lines[place]))
                member = code[place + 1] if place + 1 < len(code) else 0
                if member & 0x7F == _GETFIELD and member >> 16 & 0xFF == a:
                    self.read.append(Use(constants[member >> 24], lines[place + 1], constants[c]))
            elif operation == _SETTABUP and upvalues[a] == "_ENV":
                self.written.append(Use(constants[b], lines[place]))
            elif operation == _SETFIELD:
                self.fields.add(constants[b])
            elif operation == _SELF and instruction >> 15 & 1:
                self.methods.append(Use(constants[c], lines[place]))

    def _lines(self, line: int) -> list[int]:
        steps = [step - 256 if step > 127 else step for step in self._bytes(self._number())]
        absolute = {self._number(): self._number() for _ in range(self._number())}
        lines = []
        for place, step in enumerate(steps):
            line = absolute[place] if step == _SAME_AS_ABOVE else line + step
            lines.append(line)
        return lines

    def _constant(self) -> str:
        kind = self._bytes(1)[0]
        if kind in (0x03, 0x13):  # integer, float
            self._bytes(8)
            return ""
        return self._text() if kind in (0x04, 0x14) else ""

    def _text(self) -> str:
        size = self._number()
        return self._bytes(size - 1).decode("utf-8", "replace") if size else ""

    def _number(self) -> int:
        value = 0
        while True:
            byte = self._bytes(1)[0]
            value = value << 7 | byte & 0x7F
            if byte & 0x80:
                return value

    def _bytes(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self._dump):
            raise EOFError("this is not a dump of Lua 5.4")
        return self._dump[self.at - count : self.at]
