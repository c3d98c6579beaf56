"""The published schema says what the compiler does."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from queen.policy import yaml_compiler
from queen.policy.yaml_compiler.schema import schema

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "policies" / "schema.json"
VALIDATOR = jsonschema.Draft7Validator(schema())
EXAMPLES = sorted((Path(__file__).parent / "golden").glob("*.yaml")) + sorted(
    file for file in (ROOT / "policies" / "templates").glob("*.yaml") if not file.name.endswith(".cases.yaml")
)


def test_the_published_schema_is_made_from_the_tables():
    assert json.loads(SCHEMA.read_text()) == schema(), "python -m queen.policy.yaml_compiler > policies/schema.json"


def test_it_is_a_schema():
    jsonschema.Draft7Validator.check_schema(schema())


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_examples_are_valid(file):
    assert list(VALIDATOR.iter_errors(yaml.safe_load(file.read_text()))) == []


def rule(condition="always", action="wait", **more):
    return {"rules": [{"name": "a", "condition": condition, "action": action, **more}]}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"rules": []},
        {"rules": [{}]},
        {"scheduler": rule(), "name": "x"},
        rule() | {"nam": "x"},
        rule() | {"name": "Not This"},
        rule() | {"version": "one"},
        rule() | {"utc_offset": "CET"},
        rule(priority="high"),
        rule(priority=1.5),
        rule({}),
        rule({"job.priorty": "batch"}),
        rule({"job.priority": "btach"}),
        rule({"job.model": {"contians": "x"}}),
        rule({"job.model": {"gt": 3}}),
        rule({"worker.vram_free": "8Gb"}),
        rule({"worker.pinned": "yes"}),
        rule({"all": []}),
        rule({"hours": "9-5"}),
        rule({"days": "monday"}),
        rule(action="reject"),
        rule(action={"reject": {}}),
        rule(action={"dispach": {}}),
        rule(action={"dispatch": {}, "wait": {}}),
        rule(action={"dispatch": {"worker_selection": "best"}}),
        rule(action={"use": "platform"}),
        rule(action={"wait": {"duration_ms": -1}}),
    ],
    ids=str,
)
def test_what_the_schema_refuses_the_compiler_refuses(document):
    assert list(VALIDATOR.iter_errors(document))
    assert yaml_compiler.compile(yaml.safe_dump(document), "x.yaml").lua == ""


def test_everything_in_it_is_described():
    definitions = schema()["definitions"]
    for name in ("policy", "rule"):
        assert all(form.get("description") for form in definitions[name]["properties"].values())
    condition = definitions["condition"]["anyOf"][2]
    action = definitions["action"]["anyOf"][1]
    for form in [
        *condition["properties"].values(),
        *condition["patternProperties"].values(),
        *action["properties"].values(),
    ]:
        assert form.get("description")
