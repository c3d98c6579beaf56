"""A real queen and the keeper: policies saved, activated, broken, suspended, rolled back, and changed as files."""

import json

import pytest

from programs import rbee, running_queen, wait_for
from rbee import connect_sync

# Valid wherever it is tried, and broken by jobs that say so.
POLICY = """
function schedule_job(job, pools, workers)
  if job.labels and job.labels.broken then error("broken by " .. job.id) end
  local worker = workers:with_model(job.model):available():first()
  if worker then return dispatch(job, worker, "{}") end
  return platform.schedule(context)
end
"""
MODEL = "synthetic:quick"


def keeper(queen, *arguments, code=0):
    said = rbee(queen, *arguments)
    assert said.returncode == code, said.stdout + said.stderr
    return said.stdout


def status(queen):
    return json.loads(keeper(queen, "status", "--json"))["policy"]


def infer(queen, **labels):
    """Runs one job and returns its decision."""
    with connect_sync(queen.address) as client:
        answer = client.infer(model=MODEL, prompt="hi", max_tokens=1, labels=labels)
        assert answer.text()
        return client.get_job(answer.job_id).decision


def spawn(queen):
    keeper(queen, "worker", "spawn", MODEL, "--engine", "synthetic", "--slots", "4")


def test_a_policy_decides_breaks_is_suspended_and_rolled_back(tmp_path):
    (tmp_path / "mine.lua").write_text(POLICY.replace("{}", "says mine"))
    with running_queen(tmp_path) as queen:
        spawn(queen)
        assert "policy mine 1.0.0 is saved" in keeper(queen, "policy", "save", str(tmp_path / "mine.lua"))
        keeper(queen, "policy", "activate", "mine@1.0.0")
        decision = infer(queen)
        assert (decision.policy, decision.policy_version) == ("mine", "1.0.0")
        assert decision.reason == "says mine"

        keeper(queen, "infer", "hi", "--model", MODEL, "-n", "1", "--label", "broken=yes")
        assert [infer(queen, broken="yes").policy for _ in range(2)] == ["platform"] * 2
        assert infer(queen).policy == "platform"
        told = keeper(queen, "status")
        assert "policy mine 1.0.0 is suspended, the platform policy decides: error: mine:3: broken by job-" in told
        assert "seccomp" in told or "limit of memory" in told
        assert "suspended" in keeper(queen, "policy", "list")

        assert queen.stop() == 0
        queen.start()
        assert "broken by job-" in status(queen)["policy"]["suspension"]
        spawn(queen)
        keeper(queen, "policy", "activate", "mine")
        assert infer(queen).policy == "mine"
        assert "policy platform decides again" in keeper(queen, "policy", "rollback")
        assert infer(queen).policy == "platform"
        said = rbee(queen, "policy", "rollback")
        assert (said.returncode, "nothing to roll back to" in said.stderr) == (1, True)


def test_a_file_that_changes_decides_and_a_bad_edit_changes_nothing(tmp_path):
    folder = tmp_path / "rules"
    folder.mkdir()
    file = folder / "Mine.lua"
    file.write_text(POLICY.replace("{}", "one"))
    with running_queen(tmp_path, "--policy-dir", str(folder)) as queen:
        spawn(queen)
        wait_for(lambda: "policy mine 1.0.0 is saved, by policy directory" in queen.log, "the file is taken in")
        assert infer(queen).policy == "platform", "it was not activated"
        keeper(queen, "policy", "activate", "mine")
        assert infer(queen).reason == "one"

        file.write_text(POLICY.replace("{}", "two"))
        wait_for(lambda: "policy mine 1.0.1 decides" in queen.log, "the edit decides")
        assert infer(queen).reason == "two"

        file.write_text(POLICY.replace("{}", "three").replace("dispatch(", "dispach("))
        wait_for(lambda: f"policy file {file} is not used" in queen.log, "the bad edit is refused")
        assert infer(queen).reason == "two"
        (fault,) = status(queen)["faulty_files"]
        assert fault["file_name"] == "Mine.lua"
        assert "Mine.lua:5" in fault["message"]
        assert "did you mean dispatch" in fault["message"]
        assert "policy file Mine.lua is not used" in keeper(queen, "status")

        file.write_text(POLICY.replace("{}", "two"))
        wait_for(lambda: "faulty_files" not in status(queen) or not status(queen)["faulty_files"], "it is mended")
        assert status(queen)["policy"]["version"] == "1.0.1"


@pytest.mark.parametrize("arguments", [("save", "mine.lua"), ("activate", "platform"), ("rollback",)])
def test_platform_mode_refuses(platform_queen, arguments):
    folder = platform_queen.folder
    (folder / "mine.lua").write_text(POLICY)
    named = [str(folder / one) if one.endswith(".lua") else one for one in arguments]
    said = rbee(platform_queen, "policy", *named)
    assert (said.returncode, "--mode platform" in said.stderr) == (1, True)


def test_platform_mode_reads_no_files_and_shows_its_policy(platform_queen):
    assert not (platform_queen.data_dir / "policies").exists()
    assert status(platform_queen)["policy"]["name"] == "platform"
    assert "function schedule" in keeper(platform_queen, "policy", "source")


@pytest.fixture(scope="module")
def platform_queen(tmp_path_factory):
    with running_queen(tmp_path_factory.mktemp("platform"), "--mode", "platform", hive=False) as queen:
        yield queen


def test_the_way_from_a_template_to_a_simulation(queen, tmp_path):
    mine, cases = tmp_path / "mine.lua", tmp_path / "mine.cases.yaml"
    assert "cost-optimizer" in keeper(queen, "policy", "templates")
    keeper(queen, "policy", "new", "--from", "cost-optimizer", str(mine))
    assert "is there already" in rbee(queen, "policy", "new", "--from", "cost-optimizer", str(mine)).stderr
    assert "4 of 4 cases passed" in keeper(queen, "policy", "test", str(mine))
    cases.write_text(cases.read_text().replace("dispatch: home", "dispatch: rented"))
    failed = keeper(queen, "policy", "test", str(mine), code=1)
    assert f"{cases}:7" in failed
    assert "expected: dispatch rented" in failed
    assert "is valid" in keeper(queen, "policy", "validate", str(mine))
    mine.write_text(mine.read_text().replace("wait(", "wayt("))
    wrong = keeper(queen, "policy", "validate", str(mine), code=1)
    assert f"{mine}:13:36: unknown name wayt; did you mean wait?" in wrong
    assert keeper(queen, "policy", "save", str(mine), code=2) == ""
    cluster = tmp_path / "home.yaml"
    cluster.write_text(HOME)
    options = ("--cluster", str(cluster), "--synthetic", "1", "--duration", "20s", "--seed", "3")
    picture = tmp_path / "out.png"
    shown = keeper(queen, "policy", "simulate", "platform", *options, "--against", "simple", "--plot", str(picture))
    assert "platform against simple" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    once, twice = (keeper(queen, "policy", "simulate", "platform", *options, "--json") for _ in range(2))
    assert json.loads(once)["report"]["jobs"] > 0
    assert once == twice


HOME = """
models: [{name: m, file_size: 1MB, speeds: {cpu: {prefill: 1000, decode: 100}}}]
machines: [{name: a, devices: [{kind: cpu, memory: 1GB}], workers: [{model: m}]}]
"""
