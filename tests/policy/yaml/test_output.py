"""The Lua that comes out, as people will read it."""

from pathlib import Path

import pytest

from queen.policy import yaml_compiler
from queen.policy.language import Program

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yaml"))


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_the_lua_is_as_written_down(file):
    compiled = yaml_compiler.compile(file.read_text(), file.name)
    assert compiled.problems == ()
    assert compiled.lua == file.with_suffix(".lua").read_text()
    program = Program()
    assert program.load(compiled.lua, file.name) is None
    assert program.entry_points() == {"schedule_job"}


def test_both_shapes_come_to_the_same():
    short = 'name: x\nversion: "1.0"\nrules:\n  - {name: a, condition: always, action: wait}\n'
    long = "scheduler:\n" + "".join(f"  {line}\n" for line in short.splitlines())
    ours, theirs = yaml_compiler.compile(short, "x.yaml"), yaml_compiler.compile(long, "x.yaml")
    assert ours.lua.replace("line 4", "line 5") == theirs.lua
    assert (ours.name, ours.version) == (theirs.name, theirs.version) == ("x", "1.0")


def test_the_file_gives_the_name_where_the_policy_has_none():
    compiled = yaml_compiler.compile("rules: [{name: a, condition: always, action: wait}]", "dir/My Night_batch.yaml")
    assert (compiled.name, compiled.version) == ("my-night-batch", "")


def test_names_cannot_leave_their_comment_or_their_quotes():
    text = 'rules: [{name: "a\\n\\"] os.exit() --\\0\\\\", condition: always, action: wait}]'
    compiled = yaml_compiler.compile(text, "evil\nname.yaml")
    program = Program()
    assert program.load(compiled.lua, "evil") is None
    program.put("jobs", "j", {"model": "m"})
    program.queue(["j"])
    (decided,) = program.decide(0, 1).decisions
    assert decided.action == "wait"
    assert decided.reason.startswith("a")
    assert "os.exit()" in decided.reason


def test_priority_comes_before_the_order_of_the_file():
    rules = [("low", -1), ("first", 0), ("second", 0), ("high", 10)]
    text = "rules:\n" + "".join(
        f"  - {{name: {name}, condition: {{model: m}}, action: wait, priority: {priority}}}\n"
        for name, priority in rules
    )
    lua = yaml_compiler.compile(text, "x.yaml").lua
    places = [lua.index(f"-- {name} (") for name in ("high", "first", "second", "low")]
    assert places == sorted(places)


def test_what_was_compiled_is_kept_within_bounds():
    cache = yaml_compiler.Cache(size=2)
    text = "rules: [{name: a, condition: always, action: wait}]"
    first = cache.compile(text, "a.yaml")
    assert cache.compile(text, "a.yaml") is first
    assert cache.compile(text, "b.yaml").name == "b"
    cache.compile(text, "a.yaml")  # now the newest
    cache.compile(text, "c.yaml")
    assert cache.compile(text, "a.yaml") is first
    assert len(cache) == 2


def test_yaml_is_told_from_lua():
    assert yaml_compiler.is_yaml("", "a/b.YML")
    assert not yaml_compiler.is_yaml("rules: []", "b.lua")
    for file in GOLDEN:
        assert yaml_compiler.is_yaml(file.read_text())
        assert not yaml_compiler.is_yaml(file.with_suffix(".lua").read_text())
