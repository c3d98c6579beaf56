"""The sandbox process: what it may not do, how it is lost and replaced, and that nothing of it survives."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import psutil
import pytest

from policy.sandboxes import hosting, scheduling
from policy.wandering import STEP_KINDS, walk
from programs import alive, wait_for
from queen.policy.failure import PolicyFailed, Source
from queen.policy.sandbox import frames
from queen.policy.sandbox.record import FlightRecord, replayed
from wire import errors
from worlds import World

GOOD = Source("good.lua", "function schedule(context) return wait('good ' .. context.workers:count()) end")
HANGS = Source("hangs.lua", "function schedule(c) return ('a'):rep(30000):find(('.-'):rep(30) .. 'b') end")

ATTEMPTS = {
    "read a file": "open('/etc/hostname').close()",
    "write a file": "open('/tmp/rbee-sandbox-was-here', 'w').close()",
    "a socket": "socket.socket()",
    "a pair of sockets": "socket.socketpair()",
    "fork": "os._exit(0) if os.fork() == 0 else None",
    "another program": "os.execv('/bin/true', ['true'])",
    "kill its parent": "os.kill(os.getppid(), 0)",
    "code it has written": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "more files": "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    "a gigabyte": "bytearray(2**30)",
    "more processor time": "resource.setrlimit(resource.RLIMIT_CPU, (3, 3))",
}


@pytest.fixture(scope="module")
def confined():
    """What a process under the sandbox's limits says holds, and which of the attempts it got away with."""
    script = f"""
    import mmap, os, resource, socket
    from queen.policy.sandbox import limits
    held = limits.apply()
    done = []
    for name, attempt in {ATTEMPTS!r}.items():
        try:
            exec(attempt)
        except (OSError, MemoryError, ValueError) as refused:
            continue
        done.append(name)
    os.write(1, repr((held, done)).encode())
    """
    output = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=30)
    assert output.stdout, output.stderr
    return eval(output.stdout)


def test_the_protections_of_this_machine_are_told(confined, record_property):
    held, _ = confined
    record_property("protections", ", ".join(held))
    expected = {"limit of cpu", "limit of memory", "limit of files", "limit of file size", "limit of core"}
    if sys.platform == "linux":
        expected |= {"no_new_privs"}
        assert {"seccomp", "network namespace"} & set(held), "neither seccomp nor a namespace keeps it off the network"
    assert expected <= set(held)


def test_what_is_said_to_hold_holds(confined):
    held, done = confined
    if "seccomp" in held:
        # Its own processor time is the one limit it sets, for each request anew; the kernel keeps it all the same.
        assert done == ["more processor time"]
    else:
        assert not {"write a file", "a gigabyte", "more files"} & set(done)


async def test_a_sandbox_says_what_protects_it():
    async with hosting() as host:
        assert "no_new_privs" in host.protections or sys.platform != "linux"


async def test_a_policy_decides_on_rows_as_they_change():
    async with hosting() as host:
        await host.load(GOOD)
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        for count in (1, 2):
            host.rows.put("workers", f"w{count}", {"model": "m", "pool_id": "p", "status": "ready"})
            outcome = await host.decide(1, 1, most=10)
            assert [one.reason for one in outcome.decisions] == [f"good {count}"]
        host.rows.remove("workers", "w1")
        outcome = await host.decide(1, 1, most=10)
        assert [one.reason for one in outcome.decisions] == ["good 1"]


async def test_thousands_of_changes_arrive_before_the_policy_is_asked():
    async with hosting() as host:
        await host.load(GOOD)
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        for count in range(3000):
            host.rows.put("workers", f"w{count:04}", {"model": "m", "pool_id": "p", "status": "ready"})
        outcome = await host.decide(1, 1, most=10)
        assert [one.reason for one in outcome.decisions] == ["good 3000"]


async def test_a_hung_sandbox_is_killed_and_its_stand_in_knows_the_same():
    async with hosting() as host:
        await host.load(HANGS)
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.put("workers", "w1", {"model": "m", "pool_id": "p", "status": "ready"})
        host.rows.queue(["j1"])
        hung = host.pid
        with pytest.raises(PolicyFailed, match="did not answer within") as failure:
            await host.decide(1, 1, most=10)
        assert failure.value.cause == "timeout"
        await host.load(GOOD)
        outcome = await host.decide(1, 1, most=10)
        assert [one.reason for one in outcome.decisions] == ["good 1"]
        assert host.pid != hung
        assert host.replaced == 1


async def test_a_sandbox_killed_from_outside_is_replaced_without_blaming_the_policy():
    async with hosting() as host:
        await host.load(GOOD)
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        sandbox = psutil.Process(host.pid)
        sandbox.kill()
        wait_for(lambda: not alive([sandbox]), "it is dead")
        while host.alive:  # noqa: ASYNC110 - until the loop has been told of another process's end
            await asyncio.sleep(0.01)
        outcome = await host.decide(1, 1, most=10)
        assert [one.reason for one in outcome.decisions] == ["good 0"]


async def test_a_caller_that_goes_away_takes_no_answer_with_it():
    async with hosting() as host:
        await host.load(HANGS)
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await host.decide(1, 1, most=10)
        await host.load(GOOD)
        outcome = await host.decide(2, 2, most=10)
        assert [one.reason for one in outcome.decisions] == ["good 0"]


async def test_a_bad_policy_is_refused_and_the_one_before_stays():
    async with hosting() as host:
        await host.load(GOOD)
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        for bad in ("function (", "while true do end", "('a'):rep(30000):find(('.-'):rep(30) .. 'b')"):
            with pytest.raises(PolicyFailed):
                await host.load(Source("bad.lua", bad))
            outcome = await host.decide(1, 1, most=10)
            assert [one.reason for one in outcome.decisions] == ["good 0"]


async def test_entry_points_are_told_and_asked():
    source = """
    function schedule(context) return nil end
    function should_admit(job, context) return job.max_tokens < 100, "too long" end
    """
    async with hosting() as host:
        assert await host.load(Source("x.lua", source)) == {"schedule", "should_admit"}
        for tokens, answer in ((50, True), (500, False)):
            host.rows.put("jobs", "j1", {"model": "m", "max_tokens": tokens})
            outcome = await host.call("should_admit", 1, 1, job_id="j1")
            assert outcome.answer is answer


async def test_what_was_recorded_is_decided_again(tmp_path):
    file = tmp_path / "record"
    async with hosting(FlightRecord(file)) as host:
        await host.load(Source("chance.lua", "function schedule(c) local w = c.workers:random() return wait(w.id) end"))
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        for count in range(20):
            host.rows.put("workers", f"w{count}", {"model": "m", "pool_id": "p", "status": "ready"})
            await host.decide(count, count, most=10)
        await host.load(HANGS)
        with pytest.raises(PolicyFailed):
            await host.decide(1, 1, most=10)
        await host.decide_platform(1, 1, most=10)
    turns = list(replayed(file.read_bytes()))
    assert len({then.decisions[0].reason for then, _ in turns if then.decisions}) > 3
    for then, now in turns:
        assert then == now


async def test_a_record_that_cannot_be_written_ends_and_the_deciding_goes_on(caplog):
    record = FlightRecord(Path("/dev/full"))
    async with hosting(record) as host:
        host.rows.put("jobs", "j1", {"model": "m"})
        host.rows.queue(["j1"])
        for count in range(5):
            assert (await host.decide_platform(count, 1, most=10)).decisions
    assert [one.message for one in caplog.records if "record ends here" in one.message]


def test_a_record_that_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(errors.Invalid, match=f"the policy record {tmp_path} cannot be written") as caught:
        FlightRecord(tmp_path)
    assert caught.value.reason == "RECORD_UNWRITABLE"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_decisions_of_a_wandering_cluster_are_made_again(seed, tmp_path):
    chance, file, world = random.Random(seed), tmp_path / "record", World()
    steps = [(chance.choice(STEP_KINDS), chance.randrange(4), chance.randrange(100)) for _ in range(300)]
    actions = Counter()
    async with scheduling(FlightRecord(file)) as (scheduler, host):
        for count, queue in enumerate(walk(world, steps)):
            if count == 150:
                await scheduler.activate(HANGS)
            for proposal in await scheduler.decide(queue, world.cluster, float(count)):
                actions[proposal.action] += 1
        assert host.replaced
    assert len(actions) >= 2, actions
    turns = list(replayed(file.read_bytes()))
    assert sum(len(then.decisions) for then, _ in turns) > 100
    for then, now in turns:
        assert then == now


async def test_a_recorded_stream_that_was_cut_off_is_read_as_far_as_it_goes():
    whole = frames.framed(b"one") + frames.framed(b"two")
    assert frames.split(whole) == [b"one", b"two"]
    assert frames.split(whole[:-1]) == [b"one"]


def test_nothing_survives_a_queen_that_is_killed(tmp_path):
    script = """
    import asyncio, sys
    sys.path.insert(0, "tests")
    from policy.sandboxes import hosting
    from queen.policy.failure import Source
    from queen.policy.sandbox import host as rules
    rules.HARD_S = 60.0
    async def main():
        async with hosting() as host:
            await host.load(Source("h", "function schedule(c) return ('a'):rep(30000):find(('.-'):rep(30) .. 'b') end"))
            host.rows.put("jobs", "j1", {"model": "m"})
            host.rows.queue(["j1"])
            print("hanging", flush=True)
            await host.decide(1, 1, most=1)
    asyncio.run(main())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"hanging\n"
    sandboxes = psutil.Process(process.pid).children()
    assert sandboxes
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(sandboxes), "the sandboxes ended with their queen")
