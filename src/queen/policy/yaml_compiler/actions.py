"""Actions in YAML compiled to Lua statements: each returns a decision, or falls through when it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from queen.policy.yaml_compiler import literals, lua
from queen.policy.yaml_compiler.document import Fields, Node, Scalar
from queen.policy.yaml_compiler.expressions import Expressions
from queen.policy.yaml_compiler.fields import Kind
from queen.policy.yaml_compiler.problems import Problems, listed, unknown

MOST_WAIT_MS: Final = 86_400_000
"""Longest wait a decision may ask for (the language's own check: a day)."""

SELECTIONS: Final = {
    "least-loaded": ("the one with the fewest jobs per slot", "least_loaded()"),
    "most-vram-free": ("the one with most memory free", "most_vram_free()"),
    "round-robin": ("the next in turn", "round_robin()"),
    "random": ("any one, by the cycle's seed", "random()"),
    "cheapest": ("the one that costs least a token", "cheapest()"),
    "nearest": ("the one nearest to the caller", "nearest(job.user.geo)"),
    "first": ("the first by id", "first()"),
}
MODEL_MATCHES: Final = {
    "required": "only workers with the job's model (what is meant when nothing is said)",
    "any": "workers with any model; the queen lets only fitting ones through",
}
EVICTIONS: Final = {
    "lru": ("the one idle longest", "find_worker_to_evict_lru()", 'max_by("idle_ms")'),
    "lfu": ("the one with the fewest jobs completed", "find_worker_to_evict_lfu()", 'min_by("jobs_completed")'),
}


@dataclass(frozen=True, slots=True)
class Option:
    """A field of an action: what it says, its kind, its only values."""

    about: str
    kind: Kind = Kind.TEXT
    choices: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Action:
    """An action: what it does, its fields; one with a `value` is written as that value alone. `always` yields."""

    about: str
    options: Mapping[str, Option] = field(default_factory=dict)
    value: Option | None = None
    always: bool = False


ACTIONS: Final = {
    "dispatch": Action(
        "gives the job to a worker that has a slot free",
        {
            "worker_selection": Option("which of those that fit; least-loaded when not said", choices=(*SELECTIONS,)),
            "model_match": Option("which models fit; required when not said", choices=(*MODEL_MATCHES,)),
        },
    ),
    "select": Action(
        "gives the job to the worker an expression finds among those that could take it",
        value=Option('an expression such as "workers.filter(gpus > 1).first()"'),
    ),
    "wait": Action(
        "leaves the job in the queue",
        {
            "duration_ms": Option("ask again after this time", Kind.DURATION_MS),
            "reason": Option("shown by rbee why; the rule's name when not said"),
        },
        always=True,
    ),
    "evict": Action(
        "stops an idle worker that is not pinned, to make room",
        {
            "worker_id": Option("this worker"),
            "policy": Option("idle longest (lru) or used least often (lfu); lru when not said", choices=(*EVICTIONS,)),
        },
    ),
    "start_worker": Action(
        "starts a worker on a pool that has the model and room for it, unless one with the model is loading already",
        {
            "model_ref": Option("its model; the job's when not said"),
            "pool_id": Option("on this pool; the first that fits when not said"),
            "gpu_id": Option("on this GPU of the pool"),
        },
    ),
    "reject": Action("refuses the job", {"reason": Option("told to the caller", required=True)}, always=True),
    "use": Action(
        "leaves the job to the platform's own policy",
        value=Option("whose", choices=("platform-scheduler",)),
        always=True,
    ),
}
"""What a rule can do."""

ALONE: Final = tuple(
    name
    for name, action in ACTIONS.items()
    if not action.value and not any(o.required for o in action.options.values())
)
"""Actions that can be written as their name alone."""

ABOUT_POOLS: Final = frozenset({"start_worker"})
"""Actions that choose a pool; the others choose a worker, or nothing."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """An action's name and Lua. `chooses` when it takes its pick of those that fit, else it only returns."""

    name: str
    lines: tuple[str, ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether it can come out without a decision."""
        return not ACTIONS[self.name].always


class Actions:
    """Compiles actions; the functions they need beside the language's own are noted in `functions`."""

    def __init__(self, problems: Problems, expressions: Expressions, functions: set[str]) -> None:
        self._problems = problems
        self._expressions = expressions
        self._functions = functions

    def compile(self, node: Node, rule: str, *, fits: bool) -> Compiled | None:
        """Returns an action, None where it is faulty. `fits`: a local function of this name says which are meant."""
        if isinstance(node, Scalar) and node.text in ALONE:
            return self._made(node.text, {}, rule, fits=fits)
        if not isinstance(node, Fields) or len(node.entries) != 1:
            got = f"{len(node.entries)} actions" if isinstance(node, Fields) else node.kind
            self._problems.error(node, f"expected one action, of {listed(ACTIONS)}, got {got}")
            return None
        ((key, value),) = node.entries
        action = ACTIONS.get(key.text)
        if action is None:
            self._problems.error(key, unknown("action", key.text, ACTIONS))
            return None
        if key.text == "select":
            return self._select(value, rule, fits=fits)
        found = self._options(key, value, action)
        return None if found is None else self._made(key.text, found, rule, fits=fits)

    def _options(self, key: Scalar, value: Node, action: Action) -> dict[str, lua.Expression] | None:
        """Returns the fields of an action as Lua literals, None where one is faulty."""
        if action.value is not None:
            literal = self._literal(value, action.value)
            return None if literal is None else {key.text: literal}
        if isinstance(value, Scalar) and value.value is None:
            value = Fields(value.line, value.column, value.start, value.end, ())
        if not isinstance(value, Fields):
            wanted = "{ " + ", ".join(f"{name}: ..." for name in action.options) + " }"
            self._problems.error(value, f"expected {wanted} under {key.text}, got {value.kind}")
            return None
        found: dict[str, lua.Expression] = {}
        faults = 0
        for field_key, node in value.entries:
            option = action.options.get(field_key.text)
            if option is None:
                self._problems.error(field_key, unknown(f"field of {key.text}", field_key.text, action.options))
            literal = self._literal(node, option) if option else None
            faults += literal is None
            if literal is not None:
                found[field_key.text] = literal
        written = {name.text for name, _ in value.entries}
        missing = [name for name, option in action.options.items() if option.required and name not in written]
        for name in missing:
            self._problems.error(key, f'{key.text} needs "{name}"')
        return None if faults or missing else found

    def _literal(self, node: Node, option: Option) -> lua.Expression | None:
        wanted = listed(option.choices) if option.choices else literals.expected(option.kind)
        if isinstance(node, Scalar) and node.value is not None:
            if option.choices and node.text in option.choices:
                return lua.text(node.text)
            if option.choices:
                self._problems.error(node, unknown("value", node.text, option.choices))
                return None
            if option.kind is Kind.TEXT and not isinstance(node.value, bool):
                return lua.text(node.text)
            number = literals.number(node.value, option.kind)
            if number is not None and 0 <= number <= MOST_WAIT_MS:
                return lua.number(number)
            if number is not None:
                wanted += ", of at most a day"
        self._problems.error(node, f"expected {wanted}, got {node.kind}")
        return None

    def _select(self, value: Node, rule: str, *, fits: bool) -> Compiled | None:
        if not isinstance(value, Scalar) or not isinstance(value.value, str):
            self._problems.error(value, f'expected an expression such as "workers.least_loaded()", got {value.kind}')
            return None
        worker = self._expressions.worker(value, "candidates")
        candidates = lua.chain("workers", "with_model(job.model)", "available()", *_filter(fits))
        lines = [f"local candidates = {candidates}", f"local worker = {worker.text}", _dispatch(rule)]
        return Compiled("select", tuple(lines))

    def _made(self, name: str, found: Mapping[str, lua.Expression], rule: str, *, fits: bool) -> Compiled:
        return Compiled(name, tuple(getattr(self, f"_{name}")(found, rule, _filter(fits))))

    def _dispatch(self, found: Mapping[str, lua.Expression], rule: str, fits: list[str]) -> list[str]:
        _, selection = SELECTIONS[_word(found, "worker_selection", "least-loaded")]
        model = ["with_model(job.model)"] if _word(found, "model_match", "required") == "required" else []
        return [f"local worker = {lua.chain('workers', *model, 'available()', *fits, selection)}", _dispatch(rule)]

    def _wait(self, found: Mapping[str, lua.Expression], rule: str, fits: list[str]) -> list[str]:
        reason = found.get("reason", lua.text(rule))
        return [
            f"return {lua.called('wait', reason, *([found['duration_ms']] if 'duration_ms' in found else [])).text}"
        ]

    def _reject(self, found: Mapping[str, lua.Expression], rule: str, fits: list[str]) -> list[str]:
        return [f"return {lua.called('reject', found['reason']).text}"]

    def _use(self, found: Mapping[str, lua.Expression], rule: str, fits: list[str]) -> list[str]:
        return ["return platform.schedule(context)"]

    def _evict(self, found: Mapping[str, lua.Expression], rule: str, fits: list[str]) -> list[str]:
        _, whole, pick = EVICTIONS[_word(found, "policy", "lru")]
        if "worker_id" in found:
            pick = f"get({found['worker_id'].text})"
        chosen = whole
        if fits or "worker_id" in found:
            self._functions.add("may_go")
            chosen = lua.chain("workers", "idle()", "filter(may_go)", *fits, pick)
        return [f"local worker = {chosen}", f"if worker then return evict(worker, {lua.text(rule).text}) end"]

    def _start_worker(self, found: Mapping[str, lua.Expression], rule: str, fits: list[str]) -> list[str]:
        self._functions.add("is_loading")
        model = found["model_ref"].text if "model_ref" in found else "job.model"
        need = f"model_vram_required({model})" if "model_ref" in found else "job.estimated_vram_mb"
        pick = f"get({found['pool_id'].text})" if "pool_id" in found else "first()"
        room = lua.chain("pools", "available()", f"with_model({model})", f"with_capacity({need} or 0)", *fits, pick)
        gpu = f"gpu_id = {found['gpu_id'].text}, " if "gpu_id" in found else ""
        fields = f"model_ref = {model}, pool_id = pool.id, {gpu}reason = {lua.text(rule).text}"
        return [
            f"local pool = {room}",
            f"if pool and not workers:with_model({model}):any(is_loading) then",
            f"  return start_worker{{ {fields} }}",
            "end",
        ]


def _dispatch(rule: str) -> str:
    return f"if worker then return dispatch(job, worker, {lua.text(rule).text}) end"


def _filter(fits: bool) -> list[str]:
    return ["filter(fits)"] if fits else []


def _word(found: Mapping[str, lua.Expression], name: str, default: str) -> str:
    """Returns a choice as written; choices have no character that Lua escapes."""
    return found[name].text.strip('"') if name in found else default
