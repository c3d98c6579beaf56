"""What a request says of its limits wins over what its model has, that over what the queen has."""

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from queen.core.limits import LimitRules, Wanted, model_key, resolve
from queen.core.model import StageLimits

SPANS = st.floats(min_value=0.001, max_value=1e6)
MAYBE = st.none() | SPANS
WANTED = st.builds(Wanted, MAYBE, MAYBE, MAYBE, MAYBE, MAYBE)
DEFAULTS = st.builds(StageLimits, SPANS, MAYBE, SPANS, MAYBE, SPANS)
STAGES = [stage.name for stage in fields(Wanted)]


@given(WANTED, WANTED, DEFAULTS, MAYBE)
def test_the_nearest_level_that_says_something_decides(request, model, default, caller_s):
    found = resolve(request, model, default, caller_s)
    for stage in STAGES:
        said = [getattr(level, stage) for level in (request, model, default)]
        expected = next((limit for limit in said if limit is not None), None)
        if stage == "total_s" and caller_s is not None:
            expected = min(expected, caller_s)
        assert getattr(found, stage) == expected


@given(WANTED, WANTED, DEFAULTS, MAYBE)
def test_a_callers_deadline_only_shortens_and_is_told_when_it_did(request, model, default, caller_s):
    alone, found = resolve(request, model, default), resolve(request, model, default, caller_s)
    assert found.total_s <= alone.total_s
    assert found.by_caller == (found.total_s < alone.total_s)
    assert replace(found, total_s=alone.total_s, by_caller=False) == alone


@given(WANTED, DEFAULTS)
def test_levels_that_say_nothing_change_nothing(said, default):
    assert resolve(said, Wanted(), default) == resolve(Wanted(), said, default)
    assert resolve(Wanted(), Wanted(), default) == default


@given(st.dictionaries(st.text(), WANTED), st.text(), st.text())
def test_a_model_that_is_not_named_has_no_limits_of_its_own(table, ref, name):
    rules = LimitRules(models={model_key(key): limits for key, limits in table.items()})
    expected = rules.models.get(ref, rules.models.get(model_key(name), Wanted()))
    assert rules.of_model(ref, name) == expected
