"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from hive import config as hive_config
from queen import config as queen_config
from queen.core import lifecycle
from worker import config as worker_config

ROOT = Path(__file__).parents[2]


def rows(section):
    text = (ROOT / "docs" / "states.md").read_text()
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    table = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table], body


def test_the_job_states_are_the_tables():
    written, body = rows("Jobs")
    assert set(written) == {
        (before.value, event.value, after.value) for (before, event), after in lifecycle.JOB_TRANSITIONS.items()
    }
    assert all(f"**{state.value}**" in body for state in lifecycle.JobState)


@pytest.mark.parametrize(
    ("section", "table"), [("Workers", lifecycle.WORKER_TRANSITIONS), ("Hives", lifecycle.HIVE_TRANSITIONS)]
)
def test_the_other_states_are_the_tables(section, table):
    written, body = rows(section)
    assert dict(written) == {
        before.value: ", ".join(sorted(state.value for state in after)) for before, after in table.items()
    }
    assert all(f"**{state.value}**" in body for state in table)


@pytest.mark.parametrize(
    ("program", "keys"),
    [
        ("queen-rbee", queen_config.KEYS),
        ("rbee-hive", hive_config.KEYS),
        ("llm-worker-rbee", worker_config.KEYS),
    ],
)
def test_every_setting_is_documented_with_its_variable_and_default(program, keys):
    text = (ROOT / "docs" / "operations.md").read_text()
    section = re.search(rf"^## Settings of {program}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    for key in keys:
        row = next((line for line in section.splitlines() if line.startswith(f"| `{key.option}`")), None)
        assert row is not None, f"{program} {key.option} is not in docs/operations.md"
        assert f"`{key.variable}`" in row
    documented = set(re.findall(r"^\| `(--[a-z-]+)`", section, re.MULTILINE))
    assert documented == {key.option for key in keys}


def test_every_module_begins_with_what_it_is():
    for file in (ROOT / "src").rglob("*.py"):
        if "rbee/v1" not in str(file):
            assert file.read_text().startswith('"""'), f"{file} has no docstring"


def test_modules_stay_small():
    for file in (ROOT / "src").rglob("*.py"):
        if "rbee/v1" not in str(file):
            assert len(file.read_text().splitlines()) <= 400, f"{file} wants to be split along a noun"


def test_every_make_target_has_a_help_line():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\.PHONY: ([a-z-]+)$", makefile, re.MULTILINE):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE), target
