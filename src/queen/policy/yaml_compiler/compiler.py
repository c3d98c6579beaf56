"""A YAML policy compiled to Lua: rules in order of their priority, each an `if` that returns its decision."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from queen.policy.yaml_compiler import document, functions, literals, lua
from queen.policy.yaml_compiler.actions import ABOUT_POOLS, Actions
from queen.policy.yaml_compiler.actions import Compiled as CompiledAction
from queen.policy.yaml_compiler.conditions import Conditions
from queen.policy.yaml_compiler.document import Fields, Items, Node, Scalar
from queen.policy.yaml_compiler.expressions import Expressions
from queen.policy.yaml_compiler.problems import Problem, Problems, shortened, unknown

MOST_RULES: Final = 500
MOST_PRIORITY: Final = 1_000_000

POLICY_FIELDS: Final = {
    "name": "the policy's name: lower-case letters, digits and -; the file's name when not said",
    "version": 'its version, such as "1.0" or "1.0.2"',
    "description": "what it is for",
    "utc_offset": 'what `hours` and `days` are read in: "+02:00" is two hours ahead of UTC; UTC when not said',
    "rules": "what to do with a job: the first rule that holds and has a decision wins",
}
RULE_FIELDS: Final = {
    "name": "its name, shown as the decision's reason",
    "condition": 'when it holds: a mapping, an expression, or "always"',
    "action": "what it does then",
    "priority": "rules with a higher one are asked first; 0 when not said, equal ones in the order of the file",
}
NAME: Final = "[a-z0-9][a-z0-9-]{0,62}"
VERSION: Final = r"[0-9]{1,6}\.[0-9]{1,6}(\.[0-9]{1,6})?(-[0-9A-Za-z.-]{1,40})?"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a text came to: its Lua (empty when a problem is fatal), its problems, its name and version.

    `version` is empty when the text does not say.
    """

    lua: str
    problems: tuple[Problem, ...]
    name: str
    version: str


def compile(text: str, file_name: str) -> Compiled:  # noqa: A001 - the word for what it does
    """Returns a YAML policy as Lua, with everything that is wrong with it."""
    return _Compiler(text, file_name).compile()


def is_yaml(text: str, file_name: str = "") -> bool:
    """Returns whether a policy is YAML, not Lua: by its file's suffix, else by a line that begins with its rules."""
    suffix = PurePath(file_name).suffix.lower()
    if suffix in {".yaml", ".yml", ".lua"}:
        return suffix != ".lua"
    return re.search(r"^[\"']?(scheduler|rules)[\"']? *:", text, re.MULTILINE) is not None


class Cache:
    """Compiled texts by the SHA-256 of file name and text; the `size` used last are kept."""

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._kept: OrderedDict[str, Compiled] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def compile(self, text: str, file_name: str) -> Compiled:
        """Returns what `compile` returns, from memory where it was asked before."""
        key = hashlib.sha256(f"{file_name}\0{text}".encode(errors="surrogatepass")).hexdigest()
        found = self._kept.pop(key, None) or compile(text, file_name)
        self._kept[key] = found
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return found


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    line: int
    priority: int
    node: Fields
    condition: lua.Expression
    action: CompiledAction

    @property
    def decides(self) -> bool:
        """Whether no rule after it is ever asked."""
        return self.condition == lua.TRUE and not self.action.chooses


class _Compiler:
    """Compiles one text."""

    def __init__(self, text: str, file_name: str) -> None:
        self._text = text
        self._file_name = file_name
        self._problems = Problems(text)
        self._functions: set[str] = set()
        expressions = Expressions(text, self._problems, self._functions)
        self._conditions = Conditions(self._problems, expressions, self._functions)
        self._actions = Actions(self._problems, expressions, self._functions)

    def compile(self) -> Compiled:
        stem = re.sub("[^a-z0-9]+", "-", PurePath(self._file_name).stem.lower()).strip("-")[:63]
        root = document.parse(self._text, self._problems)
        policy = None if root is None and self._problems.fatal else self._policy(root)
        if policy is None:
            return Compiled("", self._problems.found(), stem, "")
        name = self._matching(policy, "name", NAME, "lower-case letters, digits and -", stem)
        version = self._matching(policy, "version", VERSION, 'a version such as "1.0" or "1.0.2"', "")
        description = self._matching(policy, "description", r"[\s\S]{0,2000}", "a text of at most 2,000 characters", "")
        offset = self._offset(policy.get("utc_offset"))
        rules = sorted(self._rules(policy), key=lambda rule: -rule.priority)
        self._warn_of_the_unreachable(rules)
        text = "" if self._problems.fatal else self._lua(name, version, description, offset, rules)
        return Compiled(text, self._problems.found(), name, version)

    def _policy(self, root: Node | None) -> dict[str, Node] | None:
        """Returns the fields of the policy, of either shape."""
        if not isinstance(root, Fields):
            where = root or document.Spot(1, 1)
            got = "nothing" if root is None else root.kind
            self._problems.error(where, f'expected a policy: a mapping with "rules" or "scheduler", got {got}')
            return None
        written = {key.text: value for key, value in root.entries}
        if "scheduler" in written and "rules" not in written:
            for key, _ in root.entries:
                if key.text != "scheduler":
                    self._problems.error(
                        key, f'"{shortened(key.text)}" cannot stand beside "scheduler"; move it into it'
                    )
            inner = written["scheduler"]
            if isinstance(inner, Fields):
                return self._known(inner, "field of scheduler", POLICY_FIELDS, ("rules",))
            self._problems.error(inner, f'expected a mapping with "rules" under "scheduler", got {inner.kind}')
            return None
        return self._known(root, "field", POLICY_FIELDS, ("rules",))

    def _known(self, node: Fields, what: str, names: Mapping[str, str], required: Iterable[str]) -> dict[str, Node]:
        """Returns the fields of a mapping that are known; the others, and required ones not there, are noted."""
        found: dict[str, Node] = {}
        for key, value in node.entries:
            if key.text in names:
                found[key.text] = value
            else:
                self._problems.error(key, unknown(what, key.text, names))
        for name in required:
            if name not in found:
                self._problems.error(node, f'expected "{name}": {names[name]}')
        return found

    def _matching(self, fields: Mapping[str, Node], name: str, pattern: str, wanted: str, default: str) -> str:
        node = fields.get(name)
        if node is None:
            return default
        if isinstance(node, Scalar) and node.value is not None and re.fullmatch(pattern, node.text):
            return node.text
        self._problems.error(node, f"expected {wanted}, got {node.kind}")
        return default

    def _offset(self, node: Node | None) -> int:
        if node is None:
            return 0
        try:
            return literals.utc_offset(node.text if isinstance(node, Scalar) else "")
        except ValueError as fault:
            self._problems.error(node, f"{fault}, got {node.kind}")
            return 0

    def _rules(self, policy: Mapping[str, Node]) -> list[_Rule]:
        node = policy.get("rules")
        if node is None:
            return []
        if not isinstance(node, Items) or not node.items:
            self._problems.error(node, f"expected a list of rules, got {node.kind}")
            return []
        if len(node.items) > MOST_RULES:
            self._problems.error(node.items[MOST_RULES], f"more than {MOST_RULES} rules")
            return []
        found = [rule for item in node.items if (rule := self._rule(item)) is not None]
        first: dict[str, int] = {}
        for rule in found:
            if rule.name in first:
                self._problems.warn(rule.node, f'line {first[rule.name]} has a rule "{shortened(rule.name)}" too')
            first.setdefault(rule.name, rule.line)
        return found

    def _rule(self, node: Node) -> _Rule | None:
        if not isinstance(node, Fields):
            self._problems.error(node, f"expected a rule: a mapping with name, condition and action, got {node.kind}")
            return None
        fields = self._known(node, "field of a rule", RULE_FIELDS, ("name", "condition", "action"))
        name = self._matching(fields, "name", r"[\s\S]{1,200}", "a name of at most 200 characters", "")
        priority = self._priority(fields.get("priority"))
        condition = self._conditions.compile(fields["condition"]) if "condition" in fields else lua.TRUE
        each = bool(condition.about & _EACH)
        action = self._actions.compile(fields["action"], name, fits=each) if "action" in fields else None
        if action is None:
            return None
        if action.name in ABOUT_POOLS and "worker" in condition.about:
            self._problems.error(
                fields["condition"],
                f"{action.name} chooses a pool, so its condition can ask about pool.*, not worker.*; "
                'ask about all workers by an expression: "workers.any(...)"',
            )
        return _Rule(name, node.line, priority, node, condition, action)

    def _priority(self, node: Node | None) -> int:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_PRIORITY:
            return value
        if node is not None:
            self._problems.error(node, f"expected a whole number as priority, up to {MOST_PRIORITY:,}, got {node.kind}")
        return 0

    def _warn_of_the_unreachable(self, rules: list[_Rule]) -> None:
        last = next((place for place, rule in enumerate(rules) if rule.decides), len(rules))
        for rule in rules[last + 1 :]:
            before = rules[last]
            message = (
                f'this rule is never asked: "{shortened(before.name)}" (line {before.line}) decides about every job'
            )
            self._problems.warn(rule.node, message)

    # Lua.

    def _lua(self, name: str, version: str, description: str, offset: int, rules: list[_Rule]) -> str:
        title = f"-- {lua.comment(' '.join(filter(None, (name, version))))}, compiled from "
        lines = [f"{title}{lua.comment(PurePath(self._file_name).name)}. Change that file, not this text."]
        lines += [f"-- {lua.comment(line)}" for line in description.splitlines() if line.strip()]
        lines += functions.written(self._functions, offset)
        lines += ["", "function schedule_job(job, pools, workers)"]
        read = frozenset[str]().union(*(rule.condition.about for rule in rules), *(self._reads(rule) for rule in rules))
        locals_ = [lua_line for root, lua_line in _LOCALS.items() if root in read]
        lines += lua.indented(locals_)
        for place, rule in enumerate(rules):
            lines += [""] if place or locals_ else []
            lines += lua.indented(_block(rule))
        return "\n".join([*lines, "end", ""])

    def _reads(self, rule: _Rule) -> frozenset[str]:
        return frozenset(root for root in _LOCALS if any(re.search(rf"\b{root}\.", line) for line in rule.action.lines))


_EACH: Final = frozenset({"worker", "pool"})
_LOCALS: Final = {
    "tenant": "local tenant = context.tenants:get(job.tenant_id) or {}",
    "model": "local model = get_model(job.model) or {}",
}
"""What is looked up before the first rule, where a rule reads it."""


def _block(rule: _Rule) -> list[str]:
    """Returns a rule's statements, its name and line above them."""
    terms = rule.condition.conjuncts
    each = lua.both([term for term in terms if term.about & _EACH])
    whole = lua.both([term for term in terms if not term.about & _EACH])
    body = list(rule.action.lines)
    if each != lua.TRUE:
        of_pools = rule.action.name in ABOUT_POOLS or ("worker" not in each.about and not rule.action.chooses)
        if not rule.action.chooses:
            body = [f"if {'pools' if of_pools else 'workers'}:any(fits) then", *lua.indented(body), "end"]
        body = [*_fits(each, of_pools=of_pools), *body]
    priority = f", priority {rule.priority}" if rule.priority else ""
    opening = ["do"] if whole == lua.TRUE else lua.broken("if ", whole, " then")
    return [f"-- {lua.comment(rule.name)} (line {rule.line}{priority})", *opening, *lua.indented(body), "end"]


def _fits(each: lua.Expression, *, of_pools: bool) -> list[str]:
    """Returns the function that says which workers, or pools, a rule is about."""
    if of_pools:
        return ["local function fits(pool)", *lua.indented(lua.broken("return ", each, "")), "end"]
    if "pool" not in each.about:
        return ["local function fits(worker)", *lua.indented(lua.broken("return ", each, "")), "end"]
    there = lua.both([lua.Expression("pool"), each])
    body = ["local pool = get_pool(worker.pool_id)", *lua.broken("return ", there, "")]
    return ["local function fits(worker)", *lua.indented(body), "end"]
