"""Two policies side by side, and what people and programs get to read."""

import json

import pytest

from queen.core.model import JobState
from queen.simulation import schedulers
from queen.simulation.comparison import compare
from queen.simulation.plot import picture
from queen.simulation.report import report_on, to_json
from queen.simulation.run import simulate
from queen.simulation.tables import comparison_tables, report_tables
from scenes import cluster, lua, platform, request
from wire import errors

SLOW = """
function schedule_job(job, pools, workers)
  if job.wait_time_ms < 4000 then return wait("thinks about it", 1000) end
  return workers:idle():first()
end
"""


def runs(*makers, requests=None):
    requests = requests or [request(0.0, 100, 1), request(10.0, 100, 1), request(20.0, 100, 1, "other")]
    plan = cluster(models=("small", "other"), memory="250MB")
    made = [simulate(plan, requests, maker) for maker in makers]
    return [(run, report_on(run)) for run in made]


def test_jobs_treated_differently_are_named_with_both_reasons():
    comparison = compare(*runs(lua(SLOW), platform()))
    assert (comparison.ours, comparison.theirs) == ("mine.lua", "platform")
    assert [(one.job, one.wait_difference_s) for one in comparison.jobs] == [
        ("job-000003", pytest.approx(295.0)),
        ("job-000001", 4.0),
        ("job-000002", 4.0),
    ]
    assert (comparison.outcome_differs, comparison.waited_longer, comparison.waited_shorter) == (1, 3, 0)
    lost = comparison.jobs[0]
    assert (lost.ours.outcome, lost.theirs.outcome) == ("JOB_TIMED_OUT", "complete")
    assert lost.theirs.reason.startswith("least loaded")
    assert "another model" in lost.ours.reason
    figures = {one.name: (one.ours, one.theirs) for one in comparison.figures}
    assert figures["completed"] == (2, 3)
    assert figures["workers evicted"] == (0, 1)


def test_a_policy_against_itself_differs_nowhere():
    comparison = compare(*runs(platform(), platform()))
    assert comparison.jobs == ()
    assert all(one.ours == one.theirs for one in comparison.figures)


def test_waits_below_the_threshold_are_the_same():
    assert compare(*runs(lua(SLOW), platform()), threshold_s=5.0).waited_longer == 1
    assert len(compare(*runs(lua(SLOW), platform()), top=1).jobs) == 1


def test_tables_have_as_many_cells_as_columns_and_say_what_the_report_says():
    ours, theirs = runs(platform(), schedulers.simple)
    tables = (*report_tables(ours[1]), *comparison_tables(compare(ours, theirs)))
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    titles = [table.title for table in tables]
    assert titles[0] == "platform on scene"
    assert "Workers" in titles
    assert "platform against simple" in titles
    assert ("jobs", "3: 3 completed, 0 failed, 0 waiting, 0 running") in tables[0].rows


def test_a_report_is_json_and_json_is_a_picture():
    [(_, report)] = runs(platform())
    fields = json.loads(to_json(report))
    assert fields["completed"] == 3
    assert len(fields["timeline"]["queue"]) == 240
    lane = fields["timeline"]["lanes"][1]
    assert max(lane["loading"]) == 1.0
    assert max(lane["busy"]) == 0.25  # one of four slots
    assert picture(fields).startswith(b"\x89PNG\r\n\x1a\n")


def test_an_empty_run_is_a_picture_too():
    report = report_on(simulate(cluster(), [], schedulers.simple))
    assert picture(json.loads(to_json(report)))


def test_without_matplotlib_the_command_that_brings_it_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(errors.WrongState, match=r"pip install 'rbee\[plot\]'"):
        picture({})


def test_the_timeline_adds_up_to_the_report():
    [(run, report)] = runs(platform())
    for lane, worker in zip(report.timeline.lanes, sorted(report.workers, key=lambda one: one.id), strict=True):
        taken_s = sum(lane.busy) * report.timeline.column_s
        assert taken_s == pytest.approx(worker.slot_use * worker.alive_s, abs=0.02)
        assert sum(lane.loading) * report.timeline.column_s == pytest.approx(worker.loading_s, abs=0.02)
    assert all(job.state is JobState.COMPLETE for job in run.jobs)
