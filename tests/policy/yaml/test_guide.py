"""policies/YAML.md says what the tables say, and its example runs."""

import re
from pathlib import Path

import pytest
import yaml

from queen.policy import yaml_compiler
from queen.policy.yaml_compiler import actions, compiler, conditions, document, fields, literals, methods

GUIDE = (Path(__file__).parents[3] / "policies" / "YAML.md").read_text()


def table(section, heading):
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE)[1]
    rows = re.search(rf"^\| {re.escape(heading)} \| \|\n\|---\|---\|\n((?:\|.*\n)+)", body, re.MULTILINE)[1]
    return dict(re.match(r"\| `(.*?)` \| (.*) \|", row).groups() for row in rows.splitlines())


def about(entries):
    return {name: entry.about for name, entry in entries.items()}


@pytest.mark.parametrize(
    ("section", "heading", "expected"),
    [
        ("A policy and its rules", "field", compiler.POLICY_FIELDS),
        ("A policy and its rules", "of a rule", compiler.RULE_FIELDS),
        ("Conditions", "operator", about(conditions.OPERATORS)),
        ("Conditions", "short", about(fields.SHORTCUTS) | conditions.CLOCK | conditions.COMBINATIONS),
        ("Actions", "action", about(actions.ACTIONS)),
        (
            "Actions",
            "field",
            {
                f"{name}.{option}": told.about
                for name, action in actions.ACTIONS.items()
                for option, told in action.options.items()
            },
        ),
        ("Actions", "`worker_selection`", {name: told for name, (told, _) in actions.SELECTIONS.items()}),
        ("Actions", "`model_match`", actions.MODEL_MATCHES),
        ("Expressions", "method", about(methods.METHODS)),
    ],
)
def test_the_tables_are_the_compilers(section, heading, expected):
    assert table(section, heading) == expected


def test_the_examples_compile():
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert blocks
    for block in blocks:
        assert yaml_compiler.compile(block, "x.yaml").problems == ()
        assert yaml.safe_load(block)


def test_the_limits_and_units_are_as_said():
    assert f"{document.MOST_NODES:,} values and {compiler.MOST_RULES} rules" in GUIDE
    assert document.MOST_BYTES == 2**20
    assert all(f"`{text}`" in GUIDE for text in ("8GB", "512MB", "500ms", "30s", "5min", "2h", "1d"))
    assert literals.SIZE_UNITS_MB["GB"] == 1024
    assert all(f"`{root}.`" in GUIDE for root in fields.ROOTS)
