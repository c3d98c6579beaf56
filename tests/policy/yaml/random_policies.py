"""Random valid YAML policies as plain data, drawn from the compiler's own tables."""

from hypothesis import strategies as st

from queen.policy.yaml_compiler.actions import ACTIONS, ALONE, MODEL_MATCHES, SELECTIONS
from queen.policy.yaml_compiler.conditions import OPERATORS
from queen.policy.yaml_compiler.fields import LEFT_SIDES, NUMERIC, SHORTCUTS, Kind
from queen.policy.yaml_compiler.literals import DAYS, DURATION_UNITS_MS, SIZE_UNITS_MB

texts = st.sampled_from(
    ["70b", "hf:a/llama-70b", "eu", 'a "b"', "back\\slash", "tab\t", "line\nbreak", "ünï", "on", "1"]
)
patterns = st.sampled_from(["*", "hf:*", "*70b*", "hf:a/llama-70b", "a*b*c", "**"])
UNITS = {
    Kind.SIZE_MB: SIZE_UNITS_MB,
    Kind.SIZE_BYTES: SIZE_UNITS_MB,
    Kind.DURATION_MS: DURATION_UNITS_MS,
    Kind.DURATION_S: DURATION_UNITS_MS,
}


def values(field, kind=None):
    kind = kind or field.kind
    if field.choices:
        return st.sampled_from(field.choices)
    if kind is Kind.FLAG:
        return st.booleans()
    if kind not in NUMERIC:
        return texts
    plain = st.integers(-100, 10**9) | st.floats(0, 1000).map(lambda value: round(value, 3))
    if kind not in UNITS:
        return plain
    return plain | st.builds("{}{}".format, st.integers(0, 99), st.sampled_from(sorted(UNITS[kind])))


@st.composite
def asked(draw, path, field):
    """What stands under a field."""
    if field.kind is Kind.TEXTS:
        return draw(texts | st.fixed_dictionaries({"contains": texts}))
    if draw(st.booleans()):
        return draw(values(field))
    operators = [name for name, operator in OPERATORS.items() if field.kind in operator.fits]
    chosen = draw(st.lists(st.sampled_from(operators), min_size=1, max_size=2, unique=True))
    found = {}
    for name in chosen:
        single = values(field) if name in {"eq", "ne", "in"} else texts
        if name == "exists":
            single = st.booleans()
        elif name == "matches":
            single = patterns
        elif field.kind in NUMERIC:
            single = values(field)
        found[name] = draw(st.lists(single, min_size=1, max_size=4) if name == "in" else single)
    return found


@st.composite
def leaves(draw):
    kind = draw(st.sampled_from(["field", "field", "field", "shortcut", "hours", "days"]))
    if kind == "hours":
        return {"hours": draw(st.sampled_from(["09:00-17:30", "22:00-6:00", "00:00-24:00"]))}
    if kind == "days":
        return {"days": draw(st.sampled_from(DAYS) | st.just("sat-mon") | st.lists(st.sampled_from(DAYS), min_size=1))}
    if kind == "shortcut":
        name = draw(st.sampled_from(sorted(SHORTCUTS)))
        short = SHORTCUTS[name]
        single = patterns if short.operator == "matches" else values(LEFT_SIDES[short.path])
        return {name: draw(single)}
    path = draw(st.sampled_from(sorted(LEFT_SIDES)))
    found = draw(asked(path, LEFT_SIDES[path]))
    return {path.replace("*", draw(st.sampled_from(["team", "team-x", "end", "a.b"]))): found}


NUMBERS = sorted(
    path for path, field in LEFT_SIDES.items() if field.kind in NUMERIC and path.partition(".")[0] in {"worker", "job"}
)
comparisons = st.builds(
    "{} {} {}".format, st.sampled_from(NUMBERS), st.sampled_from(["==", "!=", "<", ">="]), st.integers(0, 9)
)
expressions = st.recursive(
    comparisons
    | st.sampled_from(
        [
            "workers.with_model(job.model).is_empty()",
            "pools.filter(gpus.any(vram_free > 8GB)).count() < 2",
            'job.model.contains("70b")',
            "worker.model == job.model",
            'job.priority in ["batch"]',
            "job.model in pool.cached_models",
        ]
    ),
    lambda inner: (
        st.builds("({} and {})".format, inner, inner)
        | st.builds("({} or {})".format, inner, inner)
        | st.builds("not ({})".format, inner)
    ),
    max_leaves=4,
)
conditions = st.recursive(
    leaves() | st.just("always") | expressions,
    lambda inner: (
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
        | st.builds(lambda a, b: a | b, leaves(), leaves())
    ),
    max_leaves=6,
)
options = {
    "worker_selection": st.sampled_from(sorted(SELECTIONS)),
    "model_match": st.sampled_from(sorted(MODEL_MATCHES)),
    "duration_ms": st.integers(0, 86_400_000) | st.just("5min"),
    "policy": st.sampled_from(["lru", "lfu"]),
}
selects = st.sampled_from(
    [
        "workers.filter(gpus > 1).first()",
        "workers.with_capacity(8GB).sort_by(cost_per_token).last() or workers.random()",
        "workers.nearest(job.user.geo)",
        'workers.filter(device.contains("H100") and labels.team == job.labels.team).min_by(idle_ms)',
    ]
)


@st.composite
def actions(draw):
    name = draw(st.sampled_from([*ACTIONS, *ALONE]))
    if name == "select":
        return {"select": draw(selects)}
    if name == "use":
        return {"use": "platform-scheduler"}
    if name in ALONE and draw(st.booleans()):
        return name
    wanted = {option: options.get(option, texts) for option in ACTIONS[name].options}
    required = {option: wanted.pop(option) for option in list(wanted) if ACTIONS[name].options[option].required}
    return {name: draw(st.fixed_dictionaries(required, optional=wanted))}


rules = st.fixed_dictionaries(
    {"name": texts, "condition": conditions, "action": actions()}, optional={"priority": st.integers(-5, 5)}
)
policies = st.fixed_dictionaries(
    {"rules": st.lists(rules, min_size=1, max_size=5)},
    optional={
        "name": st.just("mine"),
        "version": st.sampled_from(["1.0", "1.0.2", "2.0.0-rc.1"]),
        "description": texts,
        "utc_offset": st.sampled_from(["+02:00", "-05:30"]),
    },
)
documents = policies | st.fixed_dictionaries({"scheduler": policies})
