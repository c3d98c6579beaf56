"""Conditions in YAML compiled to Lua expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from queen.policy.yaml_compiler import literals, lua
from queen.policy.yaml_compiler.document import Fields, Items, Node, Scalar
from queen.policy.yaml_compiler.expressions import Expressions
from queen.policy.yaml_compiler.fields import LEFT_SIDES, NUMERIC, SHORTCUTS, Field, Kind, left_side
from queen.policy.yaml_compiler.problems import Problems, nearest_path, shortened, unknown

T = TypeVar("T")

TEXT_KINDS: Final = frozenset({Kind.TEXT})


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator: what it means, the kinds of fields it fits, and the kind of its operand (None: the field's)."""

    about: str
    fits: frozenset[Kind]
    operand: Kind | None = None
    many: bool = False


_VALUES: Final = NUMERIC | {Kind.TEXT, Kind.FLAG}

OPERATORS: Final = {
    "exists": Operator("whether the field is there", _VALUES | {Kind.TEXTS}, Kind.FLAG),
    "eq": Operator("is this value", _VALUES),
    "ne": Operator("is not this value, or absent", _VALUES),
    "gt": Operator("is greater", NUMERIC),
    "ge": Operator("is greater or equal", NUMERIC),
    "lt": Operator("is less", NUMERIC),
    "le": Operator("is less or equal", NUMERIC),
    "in": Operator("is one of these", NUMERIC | {Kind.TEXT}, many=True),
    "contains": Operator("has this in it: a part of a text, an item of a list", TEXT_KINDS | {Kind.TEXTS}, Kind.TEXT),
    "starts_with": Operator("begins with this", TEXT_KINDS),
    "matches": Operator("matches this pattern as a whole, in which * stands for anything", TEXT_KINDS),
}
"""What stands under a field."""

_LUA: Final = {"eq": "==", "ne": "~=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}

COMBINATIONS: Final = {
    "all": "every one of these holds",
    "any": "at least one of these holds",
    "not": "this does not hold",
}
CLOCK: Final = {
    "hours": 'the time is within these hours, such as "22:00-06:00"',
    "days": "today is one of these days, such as mon-fri",
}

KEYS: Final = (*COMBINATIONS, *SHORTCUTS, *CLOCK, *LEFT_SIDES)
"""Everything that can stand in a condition."""


class Conditions:
    """Compiles conditions; the functions they need beside the language's own are noted in `functions`."""

    def __init__(self, problems: Problems, expressions: Expressions, functions: set[str]) -> None:
        self._problems = problems
        self._expressions = expressions
        self._functions = functions

    def compile(self, node: Node) -> lua.Expression:
        """Returns the condition; true where it is faulty, the fault being noted."""
        if isinstance(node, Fields):
            if not node.entries:
                self._problems.error(node, 'expected a condition; write "always" for a rule without one')
            return lua.both([self._entry(key, value) for key, value in node.entries])
        if isinstance(node, Scalar) and node.text == "always":
            return lua.TRUE
        if isinstance(node, Scalar) and isinstance(node.value, str):
            return self._expressions.condition(node)
        self._problems.error(node, f'expected a condition (a mapping, an expression, or "always"), got {node.kind}')
        return lua.TRUE

    def _entry(self, key: Scalar, value: Node) -> lua.Expression:
        name = key.text
        if name in {"all", "any"}:
            return self._several(name, value)
        if name == "not":
            return lua.negated(self.compile(value))
        if name == "hours":
            return self._hours(value)
        if name == "days":
            return self._days(value)
        if name in SHORTCUTS:
            short = SHORTCUTS[name]
            operator = "in" if short.operator == "eq" and isinstance(value, Items) else short.operator
            return self._compare(short.path, LEFT_SIDES[short.path], operator, value)
        field = left_side(name)
        if field is None:
            self._unknown(key)
            return lua.TRUE
        return self._field(name, field, value)

    def _unknown(self, key: Scalar) -> None:
        name = key.text
        if name in OPERATORS:
            message = f'the operator "{name}" stands under a field: {{ job.model: {{ {name}: ... }} }}'
        elif name.endswith(".labels"):
            message = f"expected the name of a label: {name}.NAME"
        elif near := nearest_path(name, KEYS):
            message = f'there is no field "{shortened(name)}"; did you mean {near}?'
        else:
            owner = name.partition(".")[0]
            known = sorted(path for path in LEFT_SIDES if path.startswith(f"{owner}."))
            message = unknown("field", name, known or [*COMBINATIONS, *SHORTCUTS, *CLOCK, "job.FIELD", "worker.FIELD"])
        self._problems.error(key, message)

    def _several(self, name: str, value: Node) -> lua.Expression:
        if not isinstance(value, Items) or not value.items:
            self._problems.error(value, f'expected a list of conditions under "{name}", got {value.kind}')
            return lua.TRUE
        parts = [self.compile(item) for item in value.items]
        return lua.both(parts) if name == "all" else lua.either(parts)

    def _field(self, path: str, field: Field, value: Node) -> lua.Expression:
        if isinstance(value, Scalar):
            return self._compare(path, field, "eq" if field.kind is not Kind.TEXTS else "contains", value)
        if isinstance(value, Items):
            return self._compare(path, field, "in", value)
        assert isinstance(value, Fields)
        if not value.entries:
            self._problems.error(value, f"expected an operator under {path}, such as {{ exists: true }}")
        parts = []
        for key, operand in value.entries:
            if key.text in OPERATORS:
                parts.append(self._compare(path, field, key.text, operand, key))
            else:
                self._problems.error(key, unknown("operator", key.text, OPERATORS))
        return lua.both(parts)

    def _compare(self, path: str, field: Field, name: str, operand: Node, key: Scalar | None = None) -> lua.Expression:
        operator = OPERATORS[name]
        if field.kind not in operator.fits:
            fitting = [each for each, known in OPERATORS.items() if field.kind in known.fits]
            message = f'"{name}" does not fit {path}, a {field.kind}; expected {", ".join(fitting)}'
            self._problems.error(key or operand, message)
            return lua.TRUE
        subject = accessor(path)
        if operator.many:
            return self._one_of(subject, field, operand)
        literal = self._literal(operand, field, operator.operand or field.kind, name)
        if literal is None:
            return lua.TRUE
        return self._applied(subject, field, name, literal, operand)

    def _applied(
        self, subject: lua.Expression, field: Field, name: str, literal: lua.Expression, operand: Node
    ) -> lua.Expression:
        present = [] if field.always else [subject]
        if name == "exists":
            return lua.compared(subject, "~=" if literal.text == "true" else "==", lua.NIL)
        if name in {"eq", "ne"}:
            return lua.compared(subject, _LUA[name], literal)
        if name in _LUA:
            return lua.both([*present, lua.compared(subject, _LUA[name], literal)])
        if name == "contains" and field.kind is Kind.TEXTS:
            self._functions.add("has_item")
            return lua.called("has_item", subject, literal)
        if name == "matches":
            return self._matches(subject, present, operand)
        function = {"contains": "string_contains", "starts_with": "string_starts_with"}[name]
        return lua.both([*present, lua.called(function, subject, literal)])

    def _matches(self, subject: lua.Expression, present: Sequence[lua.Expression], operand: Node) -> lua.Expression:
        assert isinstance(operand, Scalar)
        try:
            pieces = literals.pattern(operand.text)
        except ValueError as fault:
            self._problems.error(operand, str(fault))
            return lua.TRUE
        if len(pieces) == 1:
            return lua.compared(subject, "==", lua.text(pieces[0]))
        self._functions.add("matches")
        return lua.both([*present, lua.called("matches", subject, lua.table(map(lua.text, pieces)))])

    def _one_of(self, subject: lua.Expression, field: Field, operand: Node) -> lua.Expression:
        if not isinstance(operand, Items) or not operand.items:
            self._problems.error(operand, f"expected a list of values, got {operand.kind}")
            return lua.TRUE
        found = [self._literal(item, field, field.kind, "in") for item in operand.items]
        values = [literal for literal in found if literal is not None]
        if len(values) == 1:
            return lua.compared(subject, "==", values[0])
        self._functions.add("one_of")
        return lua.called("one_of", subject, lua.table(values))

    def _literal(self, node: Node, field: Field, kind: Kind, operator: str) -> lua.Expression | None:
        """Returns an operand as a Lua literal, or None when it is not of its kind, which is noted."""
        if isinstance(node, Scalar) and node.value is not None:
            fitting = _fitting(node, kind)
            if fitting is not None:
                if field.choices and operator in {"eq", "ne", "in"} and node.text not in field.choices:
                    self._problems.error(node, unknown("value", node.text, field.choices))
                return fitting
        wanted = literals.expected(kind)
        hint = ""
        if isinstance(node, Scalar) and node.value is None and operator in {"eq", "ne"}:
            hint = f"; a field that is absent is asked for by {{ exists: {str(operator == 'ne').lower()} }}"
        elif isinstance(node, Scalar) and kind is Kind.FLAG and node.text.lower() in {"on", "off", "yes", "no"}:
            hint = f"; write {'true' if node.text.lower() in {'on', 'yes'} else 'false'}"
        self._problems.error(node, f"expected {wanted}, got {node.kind}{hint}")
        return None

    def _hours(self, value: Node) -> lua.Expression:
        span = self._read(value, literals.hours)
        if span is None:
            return lua.TRUE
        self._functions.add("minute_of_day")
        begin, end = (f"{minute // 60} * 60" + (f" + {minute % 60}" if minute % 60 else "") for minute in span)
        now = lua.called("minute_of_day")
        after = lua.compared(now, ">=", lua.Expression(begin))
        before = lua.compared(now, "<", lua.Expression(end))
        return lua.both([after, before]) if span[0] < span[1] else lua.either([after, before])

    def _days(self, value: Node) -> lua.Expression:
        items = value.items if isinstance(value, Items) else (value,)
        named = [day for item in items for day in self._read(item, literals.days) or ()]
        self._functions.add("one_of")
        self._functions.add("day_of_week")
        wanted = [lua.text(day) for day in literals.DAYS if day in named]
        return lua.called("one_of", lua.called("day_of_week"), lua.table(wanted))

    def _read(self, node: Node, reader: Callable[[str], T]) -> T | None:
        try:
            return reader(node.text if isinstance(node, Scalar) else "")
        except ValueError as fault:
            self._problems.error(node, f"{fault}, got {node.kind}")
            return None


def accessor(path: str) -> lua.Expression:
    """Returns how Lua reads a field."""
    owner, found, label = path.partition(".labels.")
    root = path.partition(".")[0]
    text = lua.member(f"{owner}.labels", label) if found else path
    return lua.Expression(f"context.{text}" if root == "metrics" else text, lua.ATOM, (), frozenset({root}))


def _fitting(node: Scalar, kind: Kind) -> lua.Expression | None:
    """Returns a scalar as a literal of a kind, None when it is not of that kind."""
    if kind is Kind.FLAG:
        return lua.Expression(str(node.value).lower()) if isinstance(node.value, bool) else None
    if kind is Kind.TEXT:
        return lua.text(node.text) if not isinstance(node.value, bool) else None
    found = literals.number(node.value, kind)
    return None if found is None else lua.number(found)
