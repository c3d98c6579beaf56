"""The syntax of expressions such as `workers.filter(gpus > 1).first()`: a tree whose parts know their offset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import lark
from lark.lexer import Token

from queen.policy.yaml_compiler.problems import listed, shortened

MOST_CHARACTERS: Final = 1000
MOST_PARTS: Final = 60
"""Parentheses, points and negations of one expression: what nests in its tree, and in the Lua that comes of it."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A value as written: text, number, true or false, nil (None); or a quantity such as 8GB."""

    at: int
    value: str | float | bool | None
    quantity: bool = False


@dataclass(frozen=True, slots=True)
class Name:
    """A name that stands alone."""

    at: int
    name: str


@dataclass(frozen=True, slots=True)
class Member:
    """A field of something; `at` is where the field's name stands."""

    at: int
    owner: Tree
    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A method called on something; `at` is where the method's name stands."""

    at: int
    owner: Tree
    name: str
    arguments: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two values compared, the operator as written; `in` has a list of values or of texts at its right."""

    at: int
    left: Tree
    operator: str
    right: Tree | tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions joined by "and", "or" or "not"."""

    at: int
    word: str
    parts: tuple[Tree, ...]


Tree = Literal | Name | Member | Call | Comparison | Combination


class SyntaxFault(Exception):
    """The expression cannot be read from `at` on."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


class _Builder(lark.Transformer[Token, Tree]):
    """Makes the tree while the text is parsed, so that nothing recurses over its depth."""

    def start(self, children: list[Any]) -> Tree:
        tree: Tree = children[0]
        return tree

    def either(self, children: list[Any]) -> Tree:
        return Combination(children[0].at, "or", tuple(children))

    def both(self, children: list[Any]) -> Tree:
        return Combination(children[0].at, "and", tuple(children))

    def negated(self, children: list[Any]) -> Tree:
        return Combination(children[0].at, "not", tuple(children))

    def comparison(self, children: list[Any]) -> Tree:
        left, operator, right = children
        return Comparison(operator.start_pos, left, str(operator), right)

    def listing(self, children: list[Any]) -> tuple[Literal, ...]:
        return tuple(children)

    def member(self, children: list[Any]) -> Tree:
        owner, name = children
        return Member(name.start_pos, owner, str(name))

    def call(self, children: list[Any]) -> Tree:
        owner, name, *arguments = children
        return Call(name.start_pos, owner, str(name), tuple(each for each in arguments if each is not None))

    def name(self, children: list[Token]) -> Tree:
        return Name(_at(children), str(children[0]))

    def text(self, children: list[Token]) -> Tree:
        return Literal(_at(children), str(children[0])[1:-1])

    def number(self, children: list[Token]) -> Tree:
        return Literal(_at(children), float(children[0]))

    def quantity(self, children: list[Token]) -> Tree:
        return Literal(_at(children), str(children[0]), quantity=True)

    def truth(self, children: list[Token]) -> Tree:
        return Literal(_at(children), str(children[0]) == "true")

    def nothing(self, children: list[Token]) -> Tree:
        return Literal(_at(children), None)


def _at(children: list[Token]) -> int:
    return children[0].start_pos or 0


@cache
def _parser() -> lark.Lark:
    """Returns the parser; made when it is first needed, because most queens start without a policy in YAML."""
    return lark.Lark.open(
        "expression.lark", rel_to=__file__, parser="lalr", transformer=_Builder(), maybe_placeholders=False
    )


_SHOWN: Final = {
    "NAME": "a name", "TEXT": "a text in quotes", "NUMBER": "a number", "QUANTITY": "a size", "TRUTH": "true",
    "NOTHING": "nil", "LPAR": '"("', "RPAR": '")"', "LSQB": '"["', "RSQB": '"]"', "DOT": '"."', "COMMA": '","',
    "COMPARE": "a comparison", "IN": '"in"', "AND": '"and"', "OR": '"or"', "NOT": '"not"', "$END": "the end",
}  # fmt: skip
_VALUES: Final = frozenset({"NAME", "TEXT", "NUMBER", "QUANTITY", "TRUTH", "NOTHING", "LPAR", "NOT"})
_ADVICE: Final = {
    "=": 'write "==" to compare', "&": 'write "and"', "|": 'write "or"', "!": 'write "not"', "~": 'write "!="',
    ":": 'write "." before a method', '"': "the quote is not closed", "'": "the quote is not closed",
}  # fmt: skip


def parse(text: str) -> Tree:
    """Returns an expression's tree; raises SyntaxFault at the first thing that cannot be read."""
    parts = sum(text.count(part) for part in ("(", ".", "not"))
    if len(text) > MOST_CHARACTERS or parts > MOST_PARTS:
        raise SyntaxFault(0, f"the expression is too long (most: {MOST_CHARACTERS} characters, {MOST_PARTS} parts)")
    try:
        tree: Any = _parser().parse(text)
    except lark.UnexpectedToken as fault:
        if fault.token.type == "$END":
            raise SyntaxFault(
                max(len(text.rstrip()) - 1, 0), f"expected {_expected(fault.expected)} after this"
            ) from None
        got = shortened(str(fault.token))
        raise SyntaxFault(fault.pos_in_stream or 0, f'expected {_expected(fault.expected)}, got "{got}"') from None
    except lark.UnexpectedCharacters as fault:
        at = fault.pos_in_stream or 0
        character = text[at]
        advice = _ADVICE.get(character) or f"expected {_expected(fault.allowed or set())}"
        raise SyntaxFault(at, f'"{character}" cannot stand here; {advice}') from None
    assert isinstance(tree, Tree)
    return tree


def _expected(terminals: set[str]) -> str:
    """Returns what the parser would have taken, in words; anything a value begins with is "a value"."""
    named = {"a value" if each in _VALUES else _SHOWN.get(each, each) for each in terminals}
    if {"NAME"} == terminals & _VALUES:
        named = {_SHOWN.get(each, each) for each in terminals}
    return listed(sorted(named))
