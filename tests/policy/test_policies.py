"""The policies that ship pass their cases and are valid."""

import random
import re
from pathlib import Path

import pytest

from queen.policy import cases
from queen.policy.validate import validate

POLICIES = Path(__file__).parents[2] / "policies"
PLATFORM = (POLICIES / "platform.lua").read_text()
ALL = [POLICIES / "platform.lua", *sorted((POLICIES / "templates").glob("*.lua"))]


def name_of(path):
    return path.stem


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_cases_pass(path):
    file = path.with_suffix(".cases.yaml")
    results = cases.run(
        cases.read(file.read_text(), file.name),
        file.name,
        source=path.read_text(),
        name=path.name,
        platform_source=PLATFORM,
    )
    assert len(results) >= 3
    assert [f"{each.line}: {each.name}: {each.got}" for each in results if not each.passed] == []


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_they_are_valid(path):
    report = validate(
        path.read_text(), path.name, platform_source=PLATFORM, randomness=random.Random, seed=7, clusters=25
    )
    assert report.problems == ()
    assert report.decisions > 0


def test_the_first_policy_of_the_readme_is_valid():
    (source,) = re.findall(r"```lua\n(.*?)```", (POLICIES.parent / "README.md").read_text(), re.DOTALL)
    report = validate(source, "mine.lua", platform_source=PLATFORM, randomness=random.Random, seed=7, clusters=25)
    assert report.problems == ()
    assert report.decisions > 0
