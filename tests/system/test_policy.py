"""A real queen with a policy: what it decides can be decided again, and a hostile one holds up nobody."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from programs import Queen, alive, running_queen, wait_for
from queen.policy.sandbox.record import replayed
from rbee.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

HOSTILE = Path(__file__).parents[1] / "policy" / "hostile"
MODEL = "synthetic:steady"

# One of each kind; tests/policy/test_hostile.py runs them all against a sandbox.
KINDS = [
    *("pcall_nested", "pattern_backtracking", "memory_table", "flood_at_once", "ids_foreign_job"),
]

# A queen tries a policy before it decides, so it is hostile to nobody but her own jobs.
DISGUISE = """
local attack = schedule
function schedule(context)
  if context.queue:first().model ~= "synthetic:steady" then return platform.schedule(context) end
  return attack(context)
end
"""


def spawn(channel, slots=8):
    worker_service_pb2_grpc.WorkerServiceStub(channel).Spawn(
        worker_service_pb2.WorkerServiceSpawnRequest(
            model=MODEL,
            engine="synthetic",
            slots=slots,
            engine_options={"completion_tokens": "100", "tokens_per_second": "50", "first_token_ms": "0"},
        ),
        timeout=60,
    )


def workers(channel):
    stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
    return stub.List(worker_service_pb2.WorkerServiceListRequest(), timeout=10).workers


def infer(channel, max_tokens, timeout_s=60, model=MODEL):
    """Returns the times at which messages of one answer came."""
    spec = job_pb2.JobSpec(model=model, prompt="hello")
    spec.sampling.max_tokens = max_tokens
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    return [time.monotonic() for _ in stub.Infer(inference_service_pb2.InferRequest(job=spec), timeout=timeout_s)]


def flows(channel):
    """Whether an answer comes without a pause of 100 ms while others ask.

    On a machine so busy that there are such pauses when nobody else asks, those are the yardstick.
    """
    gap = longest_gap(channel, 8)
    return gap < 0.1 or gap < 2 * longest_gap(channel, 0)


def longest_gap(channel, others_ask):
    """Returns the longest pause in an answer while so many others ask, whose jobs are decided about meanwhile."""
    with ThreadPoolExecutor(5) as others:
        steady = others.submit(infer, channel, 60)
        asked = [others.submit(infer, channel, 1) for _ in range(others_ask)]
        assert all(one.result() for one in asked)
        came = steady.result()
    return max(after - before for before, after in pairwise(came[2:]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_policy_holds_up_nobody(kind, tmp_path):
    file = tmp_path / f"{kind}.lua"
    file.write_text((HOSTILE / file.name).read_text() + DISGUISE)
    with running_queen(tmp_path, "--policy", str(file)) as queen:
        with grpc.insecure_channel(queen.address) as channel:
            spawn(channel)
            if kind == "flood_at_once":
                # It decides, if to no good: every job waits, and the queen answers all the same.
                with pytest.raises(grpc.RpcError):
                    infer(channel, 1, timeout_s=1)
                return
            # A stall of the queen's own comes each time; one that the machine's other programs cause does not.
            assert any(flows(channel) for _ in range(3))
        assert "the platform policy decides" in queen.log
        assert f"policy {kind}.lua is suspended" in queen.log
        assert "Traceback" not in queen.log


def refusal(folder, name, text):
    """Returns how a queen ends, and what she says, who is started with a policy that is no good."""
    (folder / name).write_text(text)
    queen = Queen(folder, "--policy", str(folder / name))
    status = queen.launch().wait(60)
    return status, queen.log


MISSPELT = (
    "function schedule(context)\n  if context.now_ms < 0 then wayt() end\n  return platform.schedule(context)\nend"
)
BAD_RULE = "rules:\n  - name: r\n    condition: alwys\n    action: {use: platform-scheduler}"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("misspelt.lua", MISSPELT, "misspelt.lua:2:30: unknown name wayt; did you mean wait?"),
        ("broken.lua", "function schedule(", "broken.lua:1: <name> or '...' expected near <eof>"),
        ("stuck.lua", "while true do end", "stuck.lua:1: policy exceeded 50 ms"),
        ("wrong.yaml", BAD_RULE, "wrong.yaml:3:16: "),
    ],
)
def test_a_queen_does_not_start_with_a_policy_that_is_no_good(name, text, said, tmp_path):
    status, log = refusal(tmp_path, name, text)
    assert status == 64
    assert f"{name} cannot be used, it has 1 problem:\n  {said}" in log
    assert "Traceback" not in log


def test_a_queen_says_which_policy_file_is_not_there(tmp_path):
    queen = Queen(tmp_path, "--policy", str(tmp_path / "none.lua"))
    assert queen.launch().wait(60) == 64
    assert f"the policy {tmp_path}/none.lua cannot be read: No such file" in queen.log


def test_a_policy_and_no_policies_exclude_each_other(tmp_path):
    queen = Queen(tmp_path, "--scheduler", "simple", "--policy", str(tmp_path / "none.lua"))
    assert queen.launch().wait(60) == 64
    assert "--policy and --scheduler simple exclude each other" in queen.log


SLEEPY = """
rules:
  - name: not the sleepy ones
    condition: {job.model: {contains: sleepy}}
    action: {wait: {duration_ms: 60000}}
  - name: all else
    condition: always
    action: {use: platform-scheduler}
"""


def test_a_queen_is_started_with_a_policy_in_yaml(tmp_path):
    (tmp_path / "night.yaml").write_text(SLEEPY)
    with (
        running_queen(tmp_path, "--policy", str(tmp_path / "night.yaml")) as queen,
        grpc.insecure_channel(queen.address) as channel,
    ):
        spawn(channel)
        assert infer(channel, 1)
        with pytest.raises(grpc.RpcError):
            infer(channel, 1, timeout_s=1, model="synthetic:sleepy")
        assert len(workers(channel)) == 1
        assert "the platform policy decides" not in queen.log


def test_what_a_queen_recorded_is_decided_again(tmp_path):
    record = tmp_path / "record"
    flags = ("--scheduler", "policy", "--policy-record", str(record))
    with (
        running_queen(tmp_path, *flags) as queen,
        grpc.insecure_channel(queen.address) as channel,
        ThreadPoolExecutor(6) as callers,
    ):
        spawn(channel, slots=2)
        answers = [callers.submit(infer, channel, 5) for _ in range(12)]
        assert all(one.result() for one in answers)
    turns = list(replayed(record.read_bytes()))
    assert sum(len(then.decisions) for then, _ in turns) >= 12
    for then, now in turns:
        assert then == now


MAKES_ROOM = """
function schedule(context)
  for _, worker in ipairs(context.workers) do
    local idle = worker.status == "ready" and worker.in_flight == 0 and not worker.pinned
    if idle and worker.model ~= context.queue:first().model then
      return batch{ evict(worker, "makes room"), wait("room is being made", 60000) }
    end
  end
  return platform.schedule(context)
end
"""


def test_an_idle_worker_is_evicted_and_another_started(tmp_path):
    (tmp_path / "room.lua").write_text(MAKES_ROOM)
    flags = ("--scheduler", "policy", "--policy", str(tmp_path / "room.lua"))
    with running_queen(tmp_path, *flags) as queen, grpc.insecure_channel(queen.address) as channel:
        spawn(channel)
        (before,) = workers(channel)
        assert infer(channel, 1, model="synthetic:other")
        (after,) = workers(channel)
        assert (before.model_ref, after.model_ref) == (MODEL, "synthetic:other")
        assert f"worker {before.id} is evicted: makes room" in queen.log


PATIENT = """
function schedule(context)
  if context.queue:first().wait_time_ms < 400 then return wait("a moment", 150) end
  return platform.schedule(context)
end
"""


def test_a_policy_that_waits_is_asked_again(tmp_path):
    (tmp_path / "patient.lua").write_text(PATIENT)
    flags = ("--scheduler", "policy", "--policy", str(tmp_path / "patient.lua"))
    with running_queen(tmp_path, *flags) as queen, grpc.insecure_channel(queen.address) as channel:
        spawn(channel)
        begun = time.monotonic()
        assert infer(channel, 1)[-1] - begun >= 0.4
        assert "platform policy decides" not in queen.log


def test_no_sandbox_outlives_its_queen(tmp_path):
    with running_queen(tmp_path, "--scheduler", "policy", hive=False) as queen:
        sandboxes = [one for one in queen.descendants() if "queen.policy.sandbox" in one.cmdline()]
        assert sandboxes
        queen.kill()
        wait_for(lambda: not alive(sandboxes), "the sandboxes have ended")
