"""The JSON Schema of YAML policies, made from the compiler's own tables, for editors: policies/schema.json.

Draft 7 (https://json-schema.org/draft-07), the one that editors' YAML support reads best.
`python -m queen.policy.yaml_compiler` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from queen.policy.yaml_compiler import literals
from queen.policy.yaml_compiler.actions import ACTIONS, ALONE, MOST_WAIT_MS, Option
from queen.policy.yaml_compiler.compiler import (
    MOST_PRIORITY,
    MOST_RULES,
    NAME,
    POLICY_FIELDS,
    RULE_FIELDS,
    VERSION,
)
from queen.policy.yaml_compiler.conditions import CLOCK, COMBINATIONS, OPERATORS
from queen.policy.yaml_compiler.fields import LEFT_SIDES, SHORTCUTS, Field, Kind

Schema = dict[str, Any]

_UNITS: Final = {
    Kind.SIZE_MB: literals.SIZE_UNITS_MB,
    Kind.SIZE_BYTES: literals.SIZE_UNITS_MB,
    Kind.DURATION_MS: literals.DURATION_UNITS_MS,
    Kind.DURATION_S: literals.DURATION_UNITS_MS,
}
_DAY: Final = "(" + "|".join(literals.DAYS) + ")"


def schema() -> Schema:
    """Returns the schema of both shapes."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://rbee.dev/policies/schema.json",
        "title": "rbee policy",
        "description": "Rules that say which worker a job goes to (policies/YAML.md).",
        "type": "object",
        "if": {"required": ["scheduler"]},
        "then": {"properties": {"scheduler": _ref("policy")}, "additionalProperties": False},
        "else": _ref("policy"),
        "definitions": {
            "policy": _policy(),
            "rule": _rule(),
            "condition": _condition(),
            "action": _action(),
            **{name: _test(field) for name, field in _tests().items()},
        },
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _object(properties: Mapping[str, Schema], **more: Any) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def _policy() -> Schema:
    rules = {"type": "array", "minItems": 1, "maxItems": MOST_RULES, "items": _ref("rule")}
    forms: dict[str, Schema] = {
        "name": {"type": "string", "pattern": f"^{NAME}$"},
        "version": {"anyOf": [{"type": "string", "pattern": f"^{VERSION}$"}, {"type": "number", "minimum": 0}]},
        "description": {"type": "string", "maxLength": 2000},
        "utc_offset": {"type": "string", "pattern": f"^{literals.OFFSET}$"},
        "rules": rules,
    }
    return _object({name: {"description": POLICY_FIELDS[name], **forms[name]} for name in forms}, required=["rules"])


def _rule() -> Schema:
    forms: dict[str, Schema] = {
        "name": {"type": ["string", "number"], "minLength": 1, "maxLength": 200},
        "condition": {"allOf": [_ref("condition")]},
        "action": {"allOf": [_ref("action")]},
        "priority": {"type": "integer", "minimum": -MOST_PRIORITY, "maximum": MOST_PRIORITY, "default": 0},
    }
    properties = {name: {"description": RULE_FIELDS[name], **forms[name]} for name in forms}
    return _object(properties, required=["name", "condition", "action"])


def _condition() -> Schema:
    several = {"type": "array", "minItems": 1, "items": _ref("condition")}
    combined: dict[str, Schema] = {"all": several, "any": several, "not": {"allOf": [_ref("condition")]}}
    day = {"type": "string", "pattern": f"^{_DAY}( ?- ?{_DAY})?$"}
    clock: dict[str, Schema] = {
        "hours": {"type": "string", "pattern": f"^{literals.HOURS}$"},
        "days": {"anyOf": [day, {"type": "array", "minItems": 1, "items": day}]},
    }
    properties: dict[str, Schema] = {
        **{name: {"description": COMBINATIONS[name], **form} for name, form in combined.items()},
        **{name: {"description": CLOCK[name], **form} for name, form in clock.items()},
    }
    for name, short in SHORTCUTS.items():
        value = _value(LEFT_SIDES[short.path])
        form = {"anyOf": [value, _several(value)]} if short.operator == "eq" else value
        properties[name] = {"description": f"{short.about} ({short.path} {short.operator})", **form}
    labels = {path: field for path, field in LEFT_SIDES.items() if path.endswith(".*")}
    for path, field in LEFT_SIDES.items():
        if path not in labels:
            properties[path] = _described(field)
    patterns = {
        f"^{path.removesuffix('*').replace('.', '[.]')}.+$": _described(field) for path, field in labels.items()
    }
    asked = _object(properties, patternProperties=patterns, minProperties=1)
    expression = {"type": "string", "description": '"always", or an expression such as "workers.idle().count() > 2"'}
    return {"anyOf": [{"const": "always"}, expression, asked]}


def _described(field: Field) -> Schema:
    return {"description": field.about, "allOf": [_ref(_name(field))]}


def _name(field: Field) -> str:
    return f"{field.kind}: {', '.join(field.choices)}" if field.choices else str(field.kind)


def _tests() -> dict[str, Field]:
    """Returns one field of each kind and choice, by the name of its definition."""
    return {_name(field): field for field in LEFT_SIDES.values()}


def _test(field: Field) -> Schema:
    """Returns what can stand under a field: a value, a list of values, or operators."""
    value = _value(field)
    operators: dict[str, Schema] = {}
    for name, operator in OPERATORS.items():
        if field.kind in operator.fits:
            given = value if name in {"eq", "ne", "in"} else _value(Field(operator.operand or field.kind, ""))
            operators[name] = {"description": operator.about, **(_several(given) if operator.many else given)}
    forms = [value if field.kind is not Kind.TEXTS else _value(Field(Kind.TEXT, ""))]
    forms += [_several(value)] if "in" in operators else []
    return {"anyOf": [*forms, _object(operators, minProperties=1)]}


def _several(value: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": value}


def _value(field: Field | Option) -> Schema:
    if field.choices:
        return {"enum": list(field.choices)}
    if field.kind in _UNITS:
        units = "|".join(_UNITS[field.kind])
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^[0-9]+([.][0-9]+)? ?({units})$"}]}
    return {"type": {Kind.NUMBER: "number", Kind.FLAG: "boolean"}.get(field.kind, ["string", "number"])}


def _action() -> Schema:
    forms: dict[str, Schema] = {}
    for name, action in ACTIONS.items():
        if action.value is not None:
            form = {"type": "string"} if name == "select" else _value(action.value)
            forms[name] = {"description": f"{action.about}: {action.value.about}", **form}
            continue
        options = {each: {"description": option.about, **_option(option)} for each, option in action.options.items()}
        required = [each for each, option in action.options.items() if option.required]
        form = _object(options, required=required) if required else _object(options)
        forms[name] = {"description": action.about, **form}
        if name in ALONE:
            forms[name]["type"] = ["object", "null"]
    return {"anyOf": [{"enum": list(ALONE)}, _object(forms, minProperties=1, maxProperties=1)]}


def _option(option: Option) -> Schema:
    value = _value(option)
    if option.kind is Kind.DURATION_MS:
        value["anyOf"][0] |= {"minimum": 0, "maximum": MOST_WAIT_MS}
    return value
