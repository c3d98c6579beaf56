"""policies/README.md says what the code does."""

import re
from pathlib import Path

import pytest

from queen.policy import cases
from queen.policy.language import Program

ROOT = Path(__file__).parents[2]
README = (ROOT / "policies" / "README.md").read_text()


@pytest.fixture(scope="module")
def vocabulary():
    program = Program()
    assert program.load_platform((ROOT / "policies" / "platform.lua").read_text()) is None
    return program.vocabulary()


def section(title, level="##"):
    body = re.search(rf"^{level} {title}\n(.*?)(?=^##|\Z)", README, re.DOTALL | re.MULTILINE)
    assert body, f"there is no section {title}"
    return body[1]


def first_cells(text):
    return [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("kind", ["context", "job", "worker", "pool", "gpu", "tenant", "model", "metrics"])
def test_every_field_is_documented_and_nothing_else(vocabulary, kind):
    documented = set()
    for cell in first_cells(section(kind, "###")):
        documented |= set(re.findall(r"`(\w+)`", cell))
    known = vocabulary.kinds[kind]
    assert documented == {*known.fields, *known.raw, *known.aliases}


def test_every_helper_is_documented_with_what_it_takes(vocabulary):
    documented = {}
    for cell in first_cells(section("Decisions")) + first_cells(section("Helpers")):
        documented |= dict(re.findall(r"`(\w+)[({]([^`]*)[)}]`", cell))
    helpers = {name: helper.signature for name, helper in vocabulary.helpers.items()}
    assert documented.keys() == helpers.keys()
    for name, signature in helpers.items():
        takes, said = signature.split(", "), documented[name].split(", ")
        if signature not in ("table", "number|table, ..."):
            assert [each.endswith("?") for each in takes] == [each.endswith("?") for each in said], name


def test_every_method_of_lists_is_documented(vocabulary):
    documented = set()
    for cell in first_cells(section("Lists")):
        documented |= set(re.findall(r"`:(\w+)\(", cell))
    assert documented == vocabulary.methods


def test_the_names_of_lua_are_documented(vocabulary):
    text = section("What of Lua there is").split("and from the libraries")[0]
    libraries = set(vocabulary.libraries)
    assert set(re.findall(r"`(\w+)`", text)) == vocabulary.lua - libraries


def test_the_groups_are_those_of_the_helpers(vocabulary):
    groups = set(re.findall(r"^\| \*\*([\w, ]+)\*\*", section("Helpers"), re.MULTILINE))
    assert groups == {helper.group for helper in vocabulary.helpers.values()} - {"decisions"} | {"platform"}


def test_the_policies_and_cases_in_it_work():
    policy = re.search(r"```lua\n(.*?)```", README, re.DOTALL)[1]
    written = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1]
    platform = (ROOT / "policies" / "platform.lua").read_text()
    results = cases.run(
        cases.read(written, "README.md"), "README.md", source=policy, name="readme", platform_source=platform
    )
    assert [result for result in results if not result.passed] == []


def test_each_template_says_what_it_is_and_has_cases():
    for template in (ROOT / "policies" / "templates").glob("*.lua"):
        assert template.read_text().startswith("-- "), template
        assert template.with_suffix("").with_suffix(".cases.yaml").exists(), template
