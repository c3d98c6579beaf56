"""Validation finds what is wrong with a policy; fuzzing is the same for the same seed."""

import random
from collections import Counter

import pytest

from policy_worlds import NOW, PLATFORM, program
from queen.policy import fuzz, trial
from queen.policy.bytecode import Use, uses
from queen.policy.language import Decided, Outcome
from queen.policy.scenario import Reader
from queen.policy.validate import validate


def problems(source, clusters=20):
    report = validate(source, "mine.lua", platform_source=PLATFORM, randomness=random.Random, seed=1, clusters=clusters)
    return report.problems


def test_syntax_errors_have_their_place():
    (problem,) = problems("function schedule(context)\n  return return\nend")
    assert (problem.line, problem.source_line) == (2, "  return return")
    assert "unexpected symbol near 'return'" in problem.message


@pytest.mark.parametrize(
    ("line", "message", "column"),
    [
        ("  return find_wroker('m')", "unknown name find_wroker; did you mean find_worker?", 10),
        ("  return quux", "unknown name quux", 10),
        ("  local x = math.randomseed(1)", "math.randomseed is not available to policies; did you mean random?", 18),
        ("  local x = context.workers:fitler(wait)", "lists have no method :fitler; did you mean filter?", 29),
    ],
)
def test_unknown_names_are_told_with_line_column_and_the_nearest(line, message, column):
    found = problems(f"local x\nfunction schedule(context)\n{line}\nend", clusters=0)
    assert (found[0].message, found[0].line, found[0].column) == (message, 3, column)
    assert found[0].source_line == line


def test_a_misspelt_entry_point_is_told():
    (found,) = problems("function shedule(context) end function on_idle() end", clusters=0)
    assert found.message == "shedule is never called; did you mean schedule?"


def test_own_names_methods_and_strings_are_known():
    source = """
    limit = 5
    local Box = {} Box.__index = Box
    function Box:open() return ("x"):rep(limit) end
    function pick(job) return job.model:find("70b") and Box.open(Box) end
    function schedule_job(job) if pick(job) then return wait("big") end return platform.schedule(context) end
    """
    assert problems(source) == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return dispatch(job, 'nobody')", "dispatch: there is no worker nobody"),
        ("return start_worker{model_ref = job.model, pool_id = 'nowhere'}", "start_worker: there is no pool nowhere"),
        ("local w = workers:filter(function(w) return w.pinned end):first() return w and evict(w)", "is pinned"),
        ("local w = workers:filter(function(w) return w.in_flight > 0 end):first() return w and evict(w)", "runs jobs"),
        ("local w = workers:with_model(job.model):first() return w", "dispatch: worker"),
        ("local w = workers:available():first() return w", "has another model"),
        ("return nil", "waits without a reason while idle worker"),
        ("return job.deadline + 1", "attempt to perform arithmetic on a nil value"),
        ("return workers:get('worker-00').in_flight < 1 and wait('x') or wait('y')", "attempt to index a nil value"),
        ("for n = 1, 1e9 do end", "policy exceeded 50 ms"),
    ],
)
def test_decisions_that_break_a_rule_are_found(body, message):
    found = problems(f"function schedule_job(job, pools, workers)\n{body}\nend", clusters=60)
    assert any(message in problem.message for problem in found), found
    assert all(problem.cluster is not None for problem in found)


def test_a_reason_lets_a_job_wait():
    assert problems("function schedule_job() return wait('not today') end") == ()
    assert problems("function schedule() return wait('not today') end") == ()


def test_a_policy_that_remembers_is_found():
    source = "local n = {0} function schedule() n[1] = n[1] + 1 return wait('call ' .. n[1]) end"
    assert ["decides differently" in problem.message for problem in problems(source)] == [True]


def test_the_same_seed_makes_the_same_clusters():
    first, again, other = (fuzz.cluster(random.Random(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_clusters_are_as_varied_as_they_are_to_be():
    clusters = [fuzz.cluster(random.Random(seed)) for seed in range(200)]
    seen = Counter(worker["status"] for each in clusters for worker in each.rows["workers"].values())
    assert set(seen) == {"loading", "ready", "busy", "draining", "failed"}
    assert any(not each.rows["pools"] for each in clusters)
    assert any(worker.get("pinned") for each in clusters for worker in each.rows["workers"].values())


def scenario():
    reader = Reader(NOW)
    return reader.scenario({"workers": [{"id": "w1", "pool_id": "p", "model": "m"}]}, [{"model": "m"}, {"model": "m"}])


@pytest.mark.parametrize(
    ("decided", "said"),
    [
        ([Decided("dispatch", "job-1", "w1")], []),
        ([Decided("dispatch", "job-1", "w1"), Decided("dispatch", "job-2", "w1")], ["no free slot"]),
        ([Decided("dispatch", "job-1", "w1"), Decided("dispatch", "job-1", "w1")], ["was decided before"]),
        ([Decided("dispatch", "job-1", "w1"), Decided("evict", worker_id="w1")], ["being evicted"]),
        ([Decided("reject", "gone", reason="x"), Decided("dispatch", "job-1", "w1")], ["there is no job gone"]),
    ],
)
def test_rules_hold_over_the_whole_cycle(decided, said):
    found = fuzz.violations(scenario(), Outcome(decisions=tuple(decided)))
    assert [words for words in said if not any(words in each for each in found)] == []
    assert bool(found) is bool(said)


def test_names_are_read_from_every_function_and_line():
    source = (
        "\n" * 200
        + "function schedule()\n"
        + "local t = {}\n" * 100
        + "t.x = foo\nreturn (function() return bar end)\nend"
    )
    found = uses(source)
    assert found.read == (Use("foo", 302), Use("bar", 303))
    assert found.written == (Use("schedule", 201),)
    assert "x" in found.fields


async def test_a_trial_in_a_process_of_its_own_finds_the_same():
    source = "function schedule_job(job) return dispatch(job, 'nobody') end"
    report = await trial.validate_apart(source, "mine.lua", platform_source=PLATFORM, seed=1)
    here = validate(source, "mine.lua", platform_source=PLATFORM, randomness=random.Random, seed=1)
    assert report == here
    (result,) = await trial.run_cases_apart(
        "cluster: {workers: [{id: w1, model: m}]}\ncases: [{job: {model: m}, expect: {dispatch: nobody}}]",
        "x.yaml",
        source=source,
        name="mine.lua",
        platform_source=PLATFORM,
    )
    assert result.passed


async def test_a_policy_that_hangs_beyond_the_deadline_is_ended(monkeypatch):
    monkeypatch.setattr(trial, "TIMEOUT_S", 2.0)
    source = "function schedule() return ('a'):rep(100):find(('a*'):rep(40) .. 'b') end"
    report = await trial.validate_apart(source, "mine.lua", platform_source=PLATFORM)
    assert "did not return within 2 s" in report.problems[0].message


def test_a_program_for_tests_is_what_it_says():
    assert program().decide_platform(NOW, 1).error is None
