"""Pieces of Lua text: literals, comments, and expressions that know how tightly they bind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

OR: Final = 1
AND: Final = 2
COMPARE: Final = 3
NOT: Final = 4
ATOM: Final = 5
"""How tightly Lua's operators bind (Lua 5.4 manual, 3.4.8), those this compiler writes."""

WIDTH: Final = 110
"""Characters of a line after which an expression is broken up."""

_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SPECIAL: Final = re.compile(r'[\\"\x00-\x1f\x7f]')
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORDS: Final = frozenset(
    {"and", "break", "do", "else", "elseif", "end", "false", "for", "function", "goto", "if", "in", "local", "nil"}
    | {"not", "or", "repeat", "return", "then", "true", "until", "while"}
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A Lua expression: its text and how tightly its outermost operator binds.

    What "and" or "or" joins is kept as its `terms`, so that it can be broken into lines and taken apart. `about` names
    the objects it reads: job, worker, pool, ...
    """

    text: str
    binds: int = ATOM
    terms: tuple[Expression, ...] = ()
    about: frozenset[str] = frozenset()

    @property
    def conjuncts(self) -> tuple[Expression, ...]:
        """What must hold for it to hold: its terms, else itself."""
        return self.terms if self.binds == AND else (self,)

    def inside(self, binds: int) -> str:
        """Returns its text for use under an operator, in parentheses where that binds more tightly."""
        return self.text if self.binds >= binds else f"({self.text})"


TRUE: Final = Expression("true")
NIL: Final = Expression("nil")


def about(expressions: Iterable[Expression]) -> frozenset[str]:
    """Returns the objects that any of them reads."""
    return frozenset[str]().union(*(each.about for each in expressions))


def both(expressions: Iterable[Expression]) -> Expression:
    """Returns the conjunction; of none: true."""
    terms = [term for each in expressions for term in each.conjuncts if term != TRUE]
    terms = list(dict.fromkeys(terms))
    if len(terms) < 2:
        return terms[0] if terms else TRUE
    return Expression(" and ".join(term.inside(AND) for term in terms), AND, tuple(terms), about(terms))


def either(expressions: Sequence[Expression]) -> Expression:
    """Returns the disjunction of at least one."""
    if len(expressions) == 1:
        return expressions[0]
    return Expression(" or ".join(each.inside(AND) for each in expressions), OR, tuple(expressions), about(expressions))


def negated(expression: Expression) -> Expression:
    """Returns its negation."""
    return Expression(f"not {expression.inside(NOT)}", NOT, (), expression.about)


def compared(left: Expression, operator: str, right: Expression) -> Expression:
    """Returns a comparison."""
    text = f"{left.inside(NOT)} {operator} {right.inside(NOT)}"
    return Expression(text, COMPARE, (), about([left, right]))


def called(function: str, *arguments: Expression) -> Expression:
    """Returns a call of a function."""
    return Expression(f"{function}({', '.join(each.text for each in arguments)})", ATOM, (), about(arguments))


def method(owner: Expression, name: str, *arguments: Expression) -> Expression:
    """Returns a call of a method: owner:name(...)."""
    before = owner.inside(ATOM)
    space = "\n  " if len(before.rpartition("\n")[2]) > WIDTH // 2 else ""
    text = f"{before}{space}:{name}({', '.join(each.text for each in arguments)})"
    return Expression(text, ATOM, (), about([owner, *arguments]))


def text(value: str) -> Expression:
    """Returns a text as a Lua string literal."""
    return Expression(_quoted(value))


def _quoted(value: str) -> str:
    return '"' + _SPECIAL.sub(lambda m: _ESCAPES.get(m[0]) or f"\\x{ord(m[0]):02x}", value) + '"'


def number(value: float) -> Expression:
    """Returns a number as a Lua literal; whole ones without a point."""
    return Expression(str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value)))


def member(owner: str, name: str) -> str:
    """Returns a field of a table: owner.name, or owner["a name"]."""
    return f"{owner}.{name}" if _NAME.fullmatch(name) and name not in _KEYWORDS else f"{owner}[{_quoted(name)}]"


def table(items: Iterable[Expression]) -> Expression:
    """Returns an array."""
    return Expression("{ " + ", ".join(item.text for item in items) + " }")


def function(parameter: str, result: Expression) -> Expression:
    """Returns a function of one parameter; too long for a line, over several."""
    text = f"function({parameter}) return {result.text} end"
    if len(text) > WIDTH - 40:
        body = indented(line for each in broken("return ", result, "") for line in each.split("\n"))
        text = "\n".join([f"function({parameter})", *body, "end"])
    return Expression(text, ATOM, (), result.about)


def broken(before: str, condition: Expression, after: str) -> list[str]:
    """Returns a condition as one line, as one line a term where it is too long."""
    line = f"{before}{condition.text}{after}"
    if len(line) <= WIDTH - 20 or len(condition.terms) < 2:
        return [line]
    first, *rest = (term.inside(AND) for term in condition.terms)
    word = "and" if condition.binds == AND else "or"
    lines = [f"{before}{first}", *indented([f"{word} {term}" for term in rest])]
    return [*lines, after.strip()] if after else lines


def chain(owner: str, *calls: str) -> str:
    """Returns calls of methods one after another; too long for a line, each on one of its own."""
    whole = ":".join([owner, *calls])
    return whole if len(whole) <= WIDTH - 20 else "\n  :".join([owner, *calls])


def comment(text: str) -> str:
    """Returns a text that is safe within a one-line comment."""
    return "".join(character if character.isprintable() else " " for character in text).rstrip()


def indented(lines: Iterable[str]) -> list[str]:
    """Returns lines moved to the right by two spaces."""
    return ["\n".join(f"  {part}" if part else part for part in line.split("\n")) for line in lines]
