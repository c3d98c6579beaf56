"""What conditions mean, against the same said in Python."""

import re
from datetime import datetime, timedelta, timezone

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from queen.policy import yaml_compiler
from queen.policy.language import Program
from queen.policy.yaml_compiler import literals

relaxed = settings(max_examples=100, deadline=None)


def holds(condition, job=None, now_ms=0, **policy):
    """Whether a condition holds for a job."""
    rule = {"name": "a", "condition": condition, "action": {"reject": {"reason": "holds"}}}
    compiled = yaml_compiler.compile(yaml.safe_dump({"rules": [rule], **policy}, allow_unicode=True), "x.yaml")
    assert not [problem for problem in compiled.problems if problem.fatal]
    program = Program()
    assert program.load(compiled.lua, "x.yaml") is None, compiled.lua
    program.put("jobs", "j", {"model": "m", "priority": "batch", **(job or {})})
    program.queue(["j"])
    outcome = program.decide(now_ms, 1, 5000)
    assert outcome.error is None
    return [decided.action for decided in outcome.decisions] == ["reject"]


@relaxed
@given(pattern=st.text("ab*", min_size=1, max_size=8), text=st.text("ab", max_size=10))
def test_patterns_match_as_a_whole(pattern, text):
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None
    assert holds({"job.model": {"matches": pattern}}, {"model": text}) is expected


@relaxed
@given(
    minute_of_epoch=st.integers(29_000_000, 30_000_000),
    offset=st.integers(-14 * 60, 14 * 60),
    begin=st.integers(0, 24 * 60 - 1),
    end=st.integers(0, 24 * 60),
    first=st.sampled_from(literals.DAYS),
    last=st.sampled_from(literals.DAYS),
)
def test_hours_and_days_are_those_of_the_clock_on_the_wall(minute_of_epoch, offset, begin, end, first, last):
    if begin == end:
        end = begin + 1
    local = datetime.fromtimestamp(minute_of_epoch * 60, timezone(timedelta(minutes=offset)))
    minute = local.hour * 60 + local.minute
    within = begin <= minute < end if begin < end else minute >= begin or minute < end
    span = (literals.DAYS.index(last) - literals.DAYS.index(first)) % 7
    today = (local.weekday() - literals.DAYS.index(first)) % 7 <= span
    condition = {
        "hours": f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}",
        "days": f"{first}-{last}",
    }
    sign, minutes = "-" if offset < 0 else "+", abs(offset)
    utc_offset = f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    assert holds(condition, now_ms=minute_of_epoch * 60_000, utc_offset=utc_offset) is (within and today)


def test_sizes_and_durations_are_in_the_unit_of_their_field():
    assert holds({"job.estimated_vram_mb": {"eq": "8GB"}}, {"estimated_vram_mb": 8192})
    assert holds("job.estimated_vram_mb == 0.5GB", {"estimated_vram_mb": 512})
    assert holds({"job.wait_time_ms": {"eq": "1.5min"}}, {"submit_ms": 10_000}, now_ms=100_000)
    assert holds("job.wait_time_ms >= 90s", {"submit_ms": 10_000}, now_ms=100_000)


def test_what_is_absent_fulfils_only_ne_and_exists_false():
    for operator in ("eq", "gt", "ge", "lt", "le"):
        assert not holds({"job.seed": {operator: 0}})
    assert holds({"job.seed": {"ne": 0}})
    assert holds({"job.seed": {"exists": False}})
    assert not holds({"job.seed": {"exists": True}})
    assert not holds({"job.type": {"contains": "x"}})
    assert not holds({"job.labels.team": ["a", "b"]})
    assert not holds("job.seed < 3")
    assert holds("job.seed == nil and not job.type.starts_with('x')")


def test_conditions_combine():
    assert holds({"all": [{"priority": "batch"}, {"not": {"model": "x"}}]})
    assert holds({"any": [{"model": "x"}, {"model": ["y", "m"]}]})
    assert not holds({"not": {"any": [{"model": "x"}, "always"]}})
    assert not holds({"not": {"priority": "batch", "model": "m"}})
    assert holds({"not": {"priority": "batch", "model": "x"}})
    assert holds("not (job.model == 'x' or job.model == 'y') and job.priority in ['batch']")


def test_texts_are_taken_as_they_are():
    for text in ('say "x"', "back\\slash", "line\nbreak", "\x7f", "ünï", "%d", "]]", "--", "a" * 300):
        assert holds({"model": text}, {"model": text})
        assert holds({"model_contains": text}, {"model": f"<{text}>"})
