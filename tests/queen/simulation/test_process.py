"""Simulations in a process of their own."""

import json
import subprocess
import sys

import pytest

from queen.simulation import request as simulation_request
from scenes import EXCERPT, PLATFORM, ROOT
from wire import errors

HOME = (ROOT / "policies" / "clusters" / "home.yaml").read_text()
ASKED = {"cluster_yaml": HOME, "platform_source": PLATFORM, "trace_csv": EXCERPT, "seed": 7, "limit": 60}


class Simulation:
    def __init__(self, asked):
        argv = [sys.executable, "-m", "queen.simulation"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        text = asked if isinstance(asked, str) else json.dumps(asked)
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def lines(self):
        return [json.loads(line) for line in self.process.stdout]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def test_progress_comes_first_and_the_result_last():
    with Simulation({**ASKED, "against": {"language": "simple"}}) as simulation:
        *progress, last = simulation.lines()
        assert simulation.process.wait() == 0
    assert progress[0] == {"requests_done": 0, "requests_total": 120}
    assert progress[-1] == {"requests_done": 120, "requests_total": 120}
    result = last["result"]
    assert result["report"]["jobs"] == result["against"]["jobs"] == 60
    assert result["comparison"]["theirs"] == "simple"
    assert result["tables"][0]["title"] == "platform against simple"


YAML = "rules: [{name: any, condition: always, action: {select: workers.idle().first()}}]"


def test_yaml_is_compiled():
    with Simulation({**ASKED, "policy": {"name": "mine.yaml", "source": YAML}}) as simulation:
        report = simulation.lines()[-1]["result"]["report"]
    assert report["policy"] == "mine.yaml"
    assert report["completed"] > 0
    with Simulation({**ASKED, "policy": {"source": YAML.replace("idle", "idel"), "language": "yaml"}}) as simulation:
        [fault] = simulation.lines()[-1]["error"]["faults"]
    assert fault["field"] == "policy:1"


def test_the_same_seed_gives_the_same_result_in_another_process():
    with Simulation(ASKED) as one, Simulation(ASKED) as other:
        assert one.lines()[-1] == other.lines()[-1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cluster_yaml": "models: []"}, "line 1: models"),
        ({"trace_csv": "TIMESTAMP\n"}, "line 1"),
        ({"policy": {"name": "mine.lua", "source": "function schedule( end"}}, "mine.lua"),
        ({"policy": {"language": "cobol"}}, "policy.language"),
        ({"seed": "x"}, "seed"),
        ({"sped": 2}, "sped"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(changes, field):
    with Simulation({**ASKED, **changes}) as simulation:
        [error] = [line["error"] for line in simulation.lines() if "error" in line]
        assert simulation.process.wait() == 1
    assert error["kind"] == "Invalid"
    assert field in [fault["field"] for fault in error["faults"]]


def test_what_is_no_request_is_told():
    with Simulation("[1") as simulation:
        assert "not JSON" in simulation.lines()[-1]["error"]["message"]


def test_it_ends_when_whoever_asked_is_gone():
    traffic = "arrivals: {rate: 1000, duration: 1h}"
    with Simulation({**ASKED, "trace_csv": "", "limit": 0, "traffic_yaml": traffic}) as simulation:
        simulation.process.stdin.close()
        assert simulation.process.wait() == 1
        assert not any("result" in line for line in simulation.lines())


def test_a_policy_that_hangs_where_no_limit_within_reaches_ends_the_process():
    bomb = "function schedule(context) return string.find(string.rep('a', 60), string.rep('a*', 20) .. 'b') end"
    with Simulation({**ASKED, "policy": {"source": bomb}}) as simulation:
        assert not any("result" in line for line in simulation.lines())
        assert simulation.process.wait() < 0


def test_every_bad_field_is_told_at_once():
    with pytest.raises(errors.Invalid) as caught:
        simulation_request.asked({"speed": 0, "window": 0, "against": 3, "seed": True})
    assert {fault.field for fault in caught.value.faults} == {
        "speed", "window", "against", "seed", "cluster_yaml", "platform_source", "trace_csv",
    }  # fmt: skip
