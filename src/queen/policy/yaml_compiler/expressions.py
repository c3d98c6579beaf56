"""Expressions checked against the fields and methods of the language, and written as Lua."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from queen.policy.yaml_compiler import literals, lua, syntax
from queen.policy.yaml_compiler.document import Scalar, spot
from queen.policy.yaml_compiler.fields import ELEMENT, NUMERIC, OBJECTS, ROOTS, Kind
from queen.policy.yaml_compiler.methods import METHODS, Asks, Gives, Method
from queen.policy.yaml_compiler.problems import Problems, unknown

LISTS: Final = {"workers": Kind.WORKERS, "pools": Kind.POOLS, "hives": Kind.POOLS}
"""Lists an expression can begin with."""

_PARAMETER: Final = {Kind.WORKER: "worker", Kind.POOL: "pool", Kind.GPU: "gpu"}
_LUA: Final = {"==": "==", "!=": "~=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(frozen=True, slots=True)
class _Value:
    """A checked part: its Lua, its kind, the values it may have, and whether it can be nil."""

    lua: lua.Expression
    kind: Kind
    choices: tuple[str, ...] = ()
    optional: bool = False
    literal: syntax.Literal | None = None


class _Wrong(Exception):
    """A part does not fit; already noted."""


class Expressions:
    """Compiles the expressions of one document; functions they need are noted in `functions`."""

    def __init__(self, text: str, problems: Problems, functions: set[str]) -> None:
        self._text = text
        self._problems = problems
        self._functions = functions

    def condition(self, node: Scalar) -> lua.Expression:
        """Returns a condition; `worker` and `pool` in it are those the rule asks about. True where it is faulty."""
        names = {root: _Value(_root(root), kind) for root, (kind, _) in ROOTS.items()}
        value = self._compile(node, names, "workers")
        if value is None:
            return lua.TRUE
        if value.kind is not Kind.FLAG:
            self._problems.error(node, f"expected a condition, which is true or false; this gives a {value.kind}")
        return value.lua

    def worker(self, node: Scalar, workers: str) -> lua.Expression:
        """Returns an expression for one worker out of the Lua list `workers`; nil where it is faulty."""
        names = {root: _Value(_root(root), kind) for root, (kind, _) in ROOTS.items() if root not in {"worker", "pool"}}
        value = self._compile(node, names, workers)
        if value is None:
            return lua.NIL
        if value.kind is not Kind.WORKER:
            more = "; add .first() or .least_loaded()" if value.kind is Kind.WORKERS else ""
            self._problems.error(node, f"expected one worker; this gives a {value.kind}{more}")
        return value.lua

    def _compile(self, node: Scalar, names: Mapping[str, _Value], workers: str) -> _Value | None:
        lists = {
            name: _Value(lua.Expression(name if name != "hives" else "pools"), kind) for name, kind in LISTS.items()
        }
        lists["workers"] = _Value(lua.Expression(workers), Kind.WORKERS)
        try:
            tree = syntax.parse(node.text)
        except syntax.SyntaxFault as fault:
            self._problems.error(spot(self._text, node, fault.at), fault.message)
            return None
        try:
            return _Checker(self, node, {**names, **lists}).value(tree)
        except _Wrong:
            return None

    def wrong(self, node: Scalar, at: int, message: str) -> _Wrong:
        """Notes a fault at an offset of a node; returns what to raise."""
        self._problems.error(spot(self._text, node, at), message)
        return _Wrong()

    def needs(self, function: str) -> None:
        """Notes that the Lua needs a function beside those of the language."""
        self._functions.add(function)


class _Checker:
    """Checks one expression; `names` are what it can begin with, `item` what the innermost list holds."""

    def __init__(self, host: Expressions, node: Scalar, names: Mapping[str, _Value], item: Kind | None = None) -> None:
        self._host = host
        self._node = node
        self._names = names
        self._item = item

    def value(self, tree: syntax.Tree) -> _Value:
        match tree:
            case syntax.Literal():
                return self._literal(tree)
            case syntax.Name():
                return self._name(tree)
            case syntax.Member():
                return self._member(tree)
            case syntax.Call():
                return self._call(tree)
            case syntax.Comparison():
                return self._comparison(tree)
            case syntax.Combination():
                return self._combination(tree)

    def _wrong(self, at: int, message: str) -> _Wrong:
        return self._host.wrong(self._node, at, message)

    def _each(self, trees: Iterable[syntax.Tree]) -> list[_Value]:
        """Returns the values of several parts, each part's faults noted."""
        found: list[_Value] = []
        failed = False
        for tree in trees:
            try:
                found.append(self.value(tree))
            except _Wrong:
                failed = True
        if failed:
            raise _Wrong
        return found

    def _literal(self, tree: syntax.Literal) -> _Value:
        match tree.value:
            case None:
                return _Value(lua.NIL, Kind.NOTHING, literal=tree)
            case bool():
                return _Value(lua.Expression(str(tree.value).lower()), Kind.FLAG, literal=tree)
            case str() if tree.quantity:
                return _Value(lua.text(tree.value), Kind.NUMBER, literal=tree)
            case str():
                return _Value(lua.text(tree.value), Kind.TEXT, literal=tree)
            case float():
                return _Value(lua.number(tree.value), Kind.NUMBER, literal=tree)
            case _:
                raise AssertionError(tree)

    def _name(self, tree: syntax.Name) -> _Value:
        if self._item is not None and tree.name in OBJECTS[self._item]:
            return self._field(self._names[_PARAMETER[self._item]], tree.at, tree.name)
        if tree.name in self._names:
            return self._names[tree.name]
        fields = OBJECTS[self._item] if self._item else {}
        raise self._wrong(tree.at, unknown("name", tree.name, [*fields, *self._names]))

    def _member(self, tree: syntax.Member) -> _Value:
        owner = self.value(tree.owner)
        if owner.kind is Kind.LABELS:
            text = lua.member(owner.lua.text, tree.name)
            return _Value(replace(owner.lua, text=text), Kind.TEXT, optional=True)
        if owner.optional:
            raise self._wrong(tree.at, f'there may be no such {owner.kind}; ask for "{tree.name}" inside filter(...)')
        if owner.kind not in OBJECTS:
            near = tree.name in METHODS and f"; methods are called: .{tree.name}(...)"
            raise self._wrong(tree.at, f"a {owner.kind} has no fields{near or ''}")
        return self._field(owner, tree.at, tree.name)

    def _field(self, owner: _Value, at: int, name: str) -> _Value:
        fields = OBJECTS[owner.kind]
        if name not in fields:
            raise self._wrong(at, unknown(f"field of a {owner.kind}", name, fields))
        field = fields[name]
        read = replace(owner.lua, text=lua.member(owner.lua.text, name))
        return _Value(read, field.kind, field.choices, not field.always)

    def _call(self, tree: syntax.Call) -> _Value:
        owner = self.value(tree.owner)
        method = METHODS.get(tree.name)
        fitting = [name for name, known in METHODS.items() if owner.kind in known.on]
        if method is None or owner.kind not in method.on:
            if not fitting:
                raise self._wrong(tree.at, f"a {owner.kind} has no methods")
            raise self._wrong(tree.at, unknown(f"method of a {owner.kind}", tree.name, fitting))
        if len(tree.arguments) != len(method.takes):
            takes = ", ".join(method.takes) if method.takes else "nothing"
            raise self._wrong(tree.at, f"{tree.name}(...) takes {takes}; got {len(tree.arguments)} arguments")
        arguments = [
            self._argument(owner, tree, wanted, given)
            for wanted, given in zip(method.takes, tree.arguments, strict=True)
        ]
        return self._called(owner, tree.name, method, arguments)

    def _argument(self, owner: _Value, tree: syntax.Call, wanted: Kind | Asks, given: syntax.Tree) -> lua.Expression:
        if isinstance(wanted, Asks):
            return self._asked(owner, tree, wanted, given)
        value = self.value(given)
        fits = value.kind is wanted or (wanted in NUMERIC and value.kind in NUMERIC)
        if not fits:
            raise self._wrong(given.at, f"{tree.name}(...) takes {literals.expected(wanted)}, got a {value.kind}")
        return self._as(value, wanted, given.at).lua

    def _asked(self, owner: _Value, tree: syntax.Call, wanted: Asks, given: syntax.Tree) -> lua.Expression:
        """Returns the function, or the field's name, that a method asks of each item."""
        item = ELEMENT[owner.kind]
        parameter = _PARAMETER[item]
        names = {**self._names, parameter: _Value(lua.Expression(parameter), item)}
        value = _Checker(self._host, self._node, names, item).value(given)
        kinds = {
            Asks.CONDITION: {Kind.FLAG},
            Asks.KEY: {Kind.TEXT} if tree.name == "map" else NUMERIC | {Kind.TEXT},
            Asks.NUMBER_KEY: NUMERIC,
        }[wanted]
        if value.kind not in kinds:
            raise self._wrong(given.at, f"{tree.name}(...) takes {wanted}, got a {value.kind}")
        if wanted is not Asks.CONDITION and tree.name != "map" and isinstance(given, syntax.Name):
            return lua.text(given.name)
        return lua.function(parameter, value.lua)

    def _called(self, owner: _Value, name: str, method: Method, arguments: list[lua.Expression]) -> _Value:
        if name in {"contains", "starts_with"}:
            if owner.kind is Kind.TEXTS:
                self._host.needs("has_item")
                return _Value(lua.called("has_item", owner.lua, *arguments), Kind.FLAG)
            function = {"contains": "string_contains", "starts_with": "string_starts_with"}[name]
            present = [owner.lua] if owner.optional else []
            return _Value(lua.both([*present, lua.called(function, owner.lua, *arguments)]), Kind.FLAG)
        result = lua.method(owner.lua, name, *arguments)
        if method.gives is Gives.SAME:
            return _Value(result, owner.kind)
        if method.gives is Gives.ITEM:
            return _Value(result, ELEMENT[owner.kind], optional=True)
        assert isinstance(method.gives, Kind)
        return _Value(result, method.gives)

    def _comparison(self, tree: syntax.Comparison) -> _Value:
        if isinstance(tree.right, tuple):
            left, *items = self._each([tree.left, *tree.right])
            self._host.needs("one_of")
            wanted = [self._matched(left, item, tree).lua for item in items]
            return _Value(lua.called("one_of", left.lua, lua.table(wanted)), Kind.FLAG)
        left, right = self._each([tree.left, tree.right])
        if tree.operator == "in":
            if right.kind is not Kind.TEXTS or left.kind is not Kind.TEXT:
                raise self._wrong(
                    tree.at, f'"in" needs a text and a list of texts, got a {left.kind} and a {right.kind}'
                )
            self._host.needs("has_item")
            return _Value(lua.called("has_item", right.lua, left.lua), Kind.FLAG)
        left, right = self._matched(right, left, tree), self._matched(left, right, tree)
        compared = lua.compared(left.lua, _LUA[tree.operator], right.lua)
        if tree.operator in {"==", "!="}:
            return _Value(compared, Kind.FLAG)
        present = [side.lua for side in (left, right) if side.optional]
        return _Value(lua.both([*present, compared]), Kind.FLAG)

    def _matched(self, other: _Value, value: _Value, tree: syntax.Comparison) -> _Value:
        """Returns one side of a comparison in the unit of the other; notes where the two cannot be compared."""
        ordered = tree.operator in {"<", "<=", ">", ">="}
        both = {value.kind, other.kind}
        if both <= NUMERIC:
            return self._as(value, other.kind, tree.at)
        if both != {Kind.TEXT} and (ordered or (value.kind is not other.kind and Kind.NOTHING not in both)):
            raise self._wrong(tree.at, f'"{tree.operator}" cannot compare a {other.kind} with a {value.kind}')
        word = value.literal.value if value.literal else None
        if other.choices and isinstance(word, str) and word not in other.choices and value.literal:
            raise self._wrong(value.literal.at, unknown("value", word, other.choices))
        return value

    def _as(self, value: _Value, kind: Kind, at: int) -> _Value:
        """Returns a quantity such as 8GB in the unit of `kind`; other values as they are."""
        if value.literal is None or not value.literal.quantity:
            return value
        try:
            return replace(
                value, lua=lua.number(literals.quantity(str(value.literal.value), kind)), kind=kind, literal=None
            )
        except ValueError as fault:
            told = f"{fault}, got {value.literal.value}"
            raise self._wrong(value.literal.at, told) from None

    def _combination(self, tree: syntax.Combination) -> _Value:
        values = self._each(tree.parts)
        kinds = {value.kind for value in values}
        if tree.word == "or" and len(kinds) == 1 and kinds <= {Kind.WORKER, Kind.FLAG}:
            return _Value(lua.either([value.lua for value in values]), kinds.pop(), optional=True)
        for part, value in zip(tree.parts, values, strict=True):
            if value.kind is not Kind.FLAG:
                more = "; is it there? write != nil" if value.optional else ""
                raise self._wrong(part.at, f'"{tree.word}" joins conditions, got a {value.kind}{more}')
        made = lua.negated(values[0].lua) if tree.word == "not" else lua.both([value.lua for value in values])
        return _Value(made, Kind.FLAG)


def _root(root: str) -> lua.Expression:
    return lua.Expression("context.metrics" if root == "metrics" else root, lua.ATOM, (), frozenset({root}))
