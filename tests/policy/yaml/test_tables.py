"""The compiler's tables name what the language has, no more and no less."""

import pytest

from queen.policy.language import Program
from queen.policy.yaml_compiler.actions import SELECTIONS
from queen.policy.yaml_compiler.fields import OBJECTS, Kind
from queen.policy.yaml_compiler.methods import METHODS

VOCABULARY = Program().vocabulary()
OF_TEXTS = {"contains", "starts_with"}


@pytest.mark.parametrize("kind", sorted(set(OBJECTS) - {Kind.USER, Kind.GEO}))
def test_the_fields_are_those_of_the_language(kind):
    known = VOCABULARY.kinds[kind.value]
    assert set(OBJECTS[kind]) == {*known.fields, *known.aliases}


def test_the_methods_are_those_of_the_language():
    assert set(METHODS) - OF_TEXTS == VOCABULARY.methods
    assert {lua.partition("(")[0] for _, lua in SELECTIONS.values()} <= VOCABULARY.methods


def test_fields_that_are_always_there_are():
    program = Program()
    policy = ["function schedule_job(job, pools, workers)", "  local there = { job = job, worker = workers:first() }"]
    policy += ["  there.pool, there.metrics, there.gpu = pools:first(), context.metrics, pools:first().gpus:first()"]
    for kind in (Kind.JOB, Kind.WORKER, Kind.POOL, Kind.METRICS, Kind.GPU):
        for name, field in OBJECTS[kind].items():
            if field.always:
                policy.append(f'  if there.{kind}.{name} == nil then error("{kind}.{name}") end')
    assert program.load("\n".join([*policy, "end"]), "always.lua") is None
    program.put("jobs", "j", {"model": "m", "priority": "batch"})
    program.put("pools", "p", {"status": "healthy", "gpus": [{"id": "gpu0"}]})
    program.put("workers", "w", {"model": "m", "pool_id": "p", "status": "ready"})
    program.queue(["j"])
    assert program.decide(0, 1).error is None
