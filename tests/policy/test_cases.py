"""Cases beside policies: what they report, and what is wrong with a file of them."""

import pytest

from policy_worlds import PLATFORM
from queen.policy import cases
from wire import errors

HEAD = "cluster: {workers: [{id: w1, model: m}]}\n"


def run(text, source="function schedule_job(job) return platform.schedule(context) end"):
    return cases.run(cases.read(text, "x.yaml"), "x.yaml", source=source, name="x.lua", platform_source=PLATFORM)


def test_results_say_where_what_was_expected_and_what_came():
    good, bad = run(
        HEAD + "cases:\n"
        "  - {name: right, job: {model: m}, expect: {dispatch: w1}}\n"
        "  - {name: wrong, job: {model: m}, expect: {reject: no, because: why}}\n"
    )
    assert (good.passed, good.line) == (True, 3)
    assert (bad.passed, bad.file, bad.line) == (False, "x.yaml", 4)
    assert bad.expected == "reject because 'why'"
    assert bad.got == "job-1 dispatch w1 (least loaded, 1 of 1 slots free)"


@pytest.mark.parametrize(
    ("expect", "passes"),
    [
        ("{dispatch: w1}", True),
        ("{dispatch: [w0, w1]}", True),
        ("{dispatch: w1, because: least}", True),
        ("{dispatch: w1, because: most}", False),
        ("{dispatch: w2}", False),
        ("wait", False),
        ("[]", False),  # what is done beyond what is expected fails
        ("[{dispatch: w1}, {evict: w1}]", False),
    ],
)
def test_a_dispatch_against_expectations(expect, passes):
    (result,) = run(HEAD + f"cases: [{{job: {{model: m}}, expect: {expect}}}]")
    assert result.passed is passes


def test_a_policy_that_fails_fails_its_cases():
    (result,) = run(HEAD + "cases: [{job: {model: m}, expect: wait}]", "function schedule() error('oh') end")
    assert not result.passed
    assert "x.lua:1: oh" in result.got
    (result,) = run(HEAD + "cases: [{job: {model: m}, expect: wait}]", "function schedule(")
    assert result.got.startswith("x.lua:1: ")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("cases: [{job: {modle: m}, expect: wait}]", ["line 1 jobs[0].modle: a known field; did you mean model?"]),
        (
            "cluster: {worker: []}\ncases: [{expects: wait}]",
            ["cluster.worker: a known field; did you mean workers?", "line 2 expects: one of", "line 2 expect: one of"],
        ),
        ("cases: [{expect: {dispatch: a, evict: b}}]", ["line 1 expect: one of"]),
        ("cases: [{expect: wait, now: soon}]", ["line 1 now: a time such as"]),
        ("cases: [{job: {wait_time_ms: long}, expect: wait}]", ["wait_time_ms: a number or a map"]),
        ("cases: [5]", ["line 1: a map with name"]),
        ("cases: []", ["has no cases"]),
        ("", ["has no cases"]),
        ("cases: [", ["is not YAML"]),
    ],
)
def test_every_fault_of_a_file_is_told(text, faults):
    with pytest.raises(errors.Invalid) as caught:
        cases.read(text, "x.yaml")
    assert caught.value.reason == "BAD_CASES"
    assert all(fault in caught.value.message for fault in faults), caught.value.message
