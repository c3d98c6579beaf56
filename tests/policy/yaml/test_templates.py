"""The YAML templates do what their cases say."""

from pathlib import Path

import pytest

from queen.policy import cases, yaml_compiler

POLICIES = Path(__file__).parents[3] / "policies"
TEMPLATES = sorted(file for file in (POLICIES / "templates").glob("*.yaml") if not file.name.endswith(".cases.yaml"))


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_a_template_does_what_its_cases_say(file):
    compiled = yaml_compiler.compile(file.read_text(), file.name)
    assert compiled.problems == ()
    assert compiled.name == file.stem
    beside = file.with_suffix(".cases.yaml")
    results = cases.run(
        cases.read(beside.read_text(), beside.name),
        beside.name,
        source=compiled.lua,
        name=file.name,
        platform_source=(POLICIES / "platform.lua").read_text(),
    )
    assert [(result.name, result.got) for result in results if not result.passed] == []


def test_there_are_templates():
    assert len(TEMPLATES) >= 3
