"""Whatever the tables allow compiles, loads and decides; whatever is broken is refused without falling over."""

import string
from pathlib import Path

import jsonschema
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy.yaml.random_clusters import clusters
from policy.yaml.random_policies import documents
from queen.policy import yaml_compiler
from queen.policy.language import Program
from queen.policy.yaml_compiler.schema import schema

PLATFORM = (Path(__file__).parents[3] / "policies" / "platform.lua").read_text()
VALIDATOR = jsonschema.Draft7Validator(schema())
POOL_MESSAGE = "start_worker chooses a pool"
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed
@given(document=documents, cluster=clusters, flow=st.booleans())
def test_a_valid_document_compiles_loads_and_decides(document, cluster, flow):
    assert list(VALIDATOR.iter_errors(document)) == []
    text = yaml.safe_dump(document, allow_unicode=True, default_flow_style=flow, sort_keys=False)
    compiled = yaml_compiler.compile(text, "any.yaml")
    fatal = [problem for problem in compiled.problems if problem.fatal]
    if fatal:  # the one thing a schema cannot say
        assert all(problem.message.startswith(POOL_MESSAGE) for problem in fatal), fatal
        return
    program = Program()
    assert program.load_platform(PLATFORM) is None
    assert program.load(compiled.lua, "any.yaml") is None, compiled.lua
    cluster.fill(program)
    outcome = program.decide(cluster.now_ms, 1, 5000)
    assert outcome.error is None, compiled.lua
    assert all(line.rstrip() == line for line in compiled.lua.splitlines())


@relaxed
@given(
    document=documents, place=st.integers(0, 10_000), put=st.text(string.printable, max_size=5), cut=st.integers(0, 5)
)
def test_a_broken_document_is_refused_with_places_that_exist(document, place, put, cut):
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    at = place % len(text)
    broken = text[:at] + put + text[at + cut :]
    compiled = yaml_compiler.compile(broken, "any.yaml")
    lines = broken.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in compiled.problems:
        assert 1 <= problem.line <= len(lines) + 1
        assert 1 <= problem.column <= len([*lines, ""][problem.line - 1]) + 2
    if compiled.lua:
        assert Program().load(compiled.lua, "any.yaml") is None


@relaxed
@given(text=st.text(max_size=200))
def test_any_text_gets_an_answer(text):
    compiled = yaml_compiler.compile(text, text)
    assert compiled.lua == ""
    assert any(problem.fatal for problem in compiled.problems)


@relaxed
@given(text=st.text("workers.filt()><=!\"'andornt 18GBgpuj[],", max_size=60))
def test_any_expression_gets_an_answer(text):
    rule = {"name": "a", "condition": text, "action": "wait"}
    compiled = yaml_compiler.compile(yaml.safe_dump({"rules": [rule]}), "any.yaml")
    assert bool(compiled.lua) is not bool(compiled.problems)
