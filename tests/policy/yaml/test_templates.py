"""The YAML templates do what their cases say."""

import random
from pathlib import Path

import pytest

from queen.policy import cases, yaml_compiler
from queen.policy.validate import validate

POLICIES = Path(__file__).parents[3] / "policies"
TEMPLATES = sorted(file for file in (POLICIES / "templates").glob("*.yaml") if not file.name.endswith(".cases.yaml"))
PLATFORM = (POLICIES / "platform.lua").read_text()
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yaml"))


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
        platform_source=PLATFORM,
    )
    assert [(result.name, result.got) for result in results if not result.passed] == []


@pytest.mark.parametrize("file", [*TEMPLATES, *GOLDEN], ids=lambda file: file.stem)
def test_what_comes_out_is_a_valid_policy(file):
    compiled = yaml_compiler.compile(file.read_text(), file.name)
    report = validate(compiled.lua, file.name, platform_source=PLATFORM, randomness=random.Random, seed=7, clusters=25)
    if file in TEMPLATES:
        assert report.problems == ()
    assert not [problem for problem in report.problems if problem.line is not None]  # names, errors
    assert report.decisions > 0


def test_there_are_templates():
    assert len(TEMPLATES) >= 3
