"""Whatever is killed or stopped, a job is complete and right, cancelled by its caller, or out of attempts."""

import asyncio
import json
import os
import random
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from functools import partial

import grpc
import pytest

import rbee
from queen.core.faults import MAX_ATTEMPTS, RETRIABLE
from queen.core.model import RESTING_STATES
from rbee.v1 import engine_service_pb2, engine_service_pb2_grpc, job_pb2
from system.chaos import HIVES, SMALL, WHOLE, Caller, Cluster, Outcome, Plan, Size, plan

SMALL_SEED = 27
REATTACH_S = 120.0
"""A queen takes a second to start, but on a busy machine, and killed again meanwhile, many."""
ALIVE = [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_DISPATCHED, job_pb2.JOB_STATE_RUNNING]


def seeds():
    if told := os.environ.get("RBEE_CHAOS_SEED"):
        return [int(told)]
    return [random.randrange(10**6) for _ in range(int(os.environ.get("RBEE_CHAOS_ROUNDS", "1")))]


@pytest.mark.timeout(300)
async def test_jobs_outlive_what_is_killed_or_stopped_in_a_short_while(tmp_path, capsys):
    await outlive(SMALL, SMALL_SEED, tmp_path, capsys)


@pytest.mark.soak
@pytest.mark.timeout(500)
@pytest.mark.parametrize("seed", seeds())
async def test_jobs_outlive_whatever_is_killed_or_stopped(seed, tmp_path, capsys):
    await outlive(WHOLE, seed, tmp_path, capsys)


async def outlive(size: Size, seed: int, tmp_path, capsys) -> None:
    say = partial(show, capsys)
    say(f"RBEE_CHAOS_SEED={seed}")
    draw = random.Random(seed)
    cluster = Cluster(tmp_path, size.workers)
    try:
        cluster.launch()
        outcomes, undisturbed = await ordeal(cluster, size, draw)
        left = await asyncio.to_thread(cluster.stop)
        assert left == [], "processes are left"
        jobs, summary = read_database(tmp_path / "data" / "queen.db")
        say(told(cluster, outcomes, jobs))
        faults = [*summary]
        for outcome in outcomes:
            row = jobs.get(outcome.job_id)
            faults += [f"{outcome.job_id or outcome.request_id}: {one}" for one in judge(outcome, row, undisturbed)]
        for job in jobs.values():
            faults += [f"{job['id']}: {one}" for one in row_faults(job)]
        assert not faults, "\n".join([f"seed {seed}, {len(faults)} faults", *faults[:40]])
    finally:
        cluster.queen.end_everything()


def show(capsys, text: str) -> None:
    """Prints a line, whatever comes of the test."""
    with capsys.disabled():
        sys.stdout.write(f"\nchaos: {text}\n")


async def ordeal(cluster: Cluster, size: Size, draw: random.Random) -> tuple[list[Outcome], dict[str, Outcome]]:
    """Returns what callers saw while things happened, and what each question is answered when nothing does."""
    async with rbee.connect(cluster.queen.address) as client, asyncio.TaskGroup() as group:
        keeping = group.create_task(cluster.keep(client))
        await asyncio.wait_for(cluster.full(client), 150)
        mine = [
            [plan(draw, model, caller) for _ in range(jobs)]
            for model, (callers, jobs) in size.callers.items()
            for caller in range(callers)
        ]
        undisturbed = await answers(client, {one.question: one for plans in mine for one in plans})
        begun = time.monotonic()
        disturbing = group.create_task(cluster.disturb(draw))
        asked = await asyncio.gather(*(carry_out(cluster.queen.address, plans) for plans in mine))
        disturbing.cancel()
        await asyncio.wait([disturbing])
        cluster.lasted_s = time.monotonic() - begun
        await asyncio.wait_for(at_rest(client), 60)
        workers = await asyncio.wait_for(cluster.full(client), 100)
        await check_no_leaks(client, workers)
        keeping.cancel()
    return [outcome for one in asked for outcome in one], undisturbed


async def answers(client: rbee.Client, questions: dict[str, Plan]) -> dict[str, Outcome]:
    caller = Caller(client)
    found = await asyncio.gather(*(caller.ask(Plan("infer", plan.options, 0.0, 0.0)) for plan in questions.values()))
    assert all(one.usage is not None for one in found), [one.error for one in found]
    return dict(zip(questions, found, strict=True))


async def carry_out(address: str, mine: list[Plan]) -> list[Outcome]:
    """Is one caller, with a connection of his own."""
    done = []
    async with rbee.connect(address, reattach_s=REATTACH_S) as client:
        for plan in mine:
            await asyncio.sleep(plan.pause_s)
            done.append(await Caller(client).ask(plan))
    return done


async def at_rest(client: rbee.Client) -> None:
    while True:
        with suppress(rbee.Unreachable):
            if not [job.id async for job in client.list_jobs(states=ALIVE)]:
                return
        await asyncio.sleep(0.1)


async def check_no_leaks(client: rbee.Client, workers: list) -> None:
    """Holds what the queen has promised against what there is, and asks every worker what it runs."""
    claims: Counter[str] = Counter()
    for worker in workers:
        assert worker.slots_available == worker.slots_total, f"{worker.id} has slots that nobody uses"
        claims[worker.hive_id] += worker.memory_claimed_mb
        async with grpc.aio.insecure_channel(worker.address) as channel:
            stub = engine_service_pb2_grpc.EngineServiceStub(channel)
            status = await stub.GetStatus(engine_service_pb2.GetStatusRequest(), timeout=10)
        assert status.slots_available == status.slots_total == worker.slots_total, worker.id
        assert [one.job_id for one in status.generations if not one.ended] == []
    for hive in [one async for one in client.hives()]:
        assert sum(device.memory_claimed_mb for device in hive.devices) == claims[hive.id], f"{hive.id}: memory"
    assert {one.hive_id for one in workers} == set(HIVES)


def judge(outcome: Outcome, row: dict | None, undisturbed: dict[str, Outcome]) -> list[str]:
    """Returns what is wrong with a job as its caller saw it."""
    faults = list(outcome.faults)
    right = undisturbed[outcome.plan.question]
    gives_up = outcome.plan.way in ("leave", "cancel")
    if not right.text.startswith(outcome.text):
        faults.append(f"its text is wrong: {outcome.text!r} is not the begin of {right.text!r}")
    if outcome.usage is not None:
        if outcome.text != right.text:
            faults.append(f"its text is cut short: {outcome.text[-20:]!r}")
        used, meant = outcome.usage, right.usage
        if (used.prompt_tokens, used.completion_tokens) != (meant.prompt_tokens, meant.completion_tokens):
            faults.append(f"its usage is {used}, not {meant}")
        if row is not None and row["state"] == "complete" and row["usage"]["completion_tokens"] != right.tokens:
            faults.append(f"{row['usage']} is noted, not {right.tokens} tokens")
    elif outcome.error is None:
        if not gives_up:
            faults.append("its caller got neither an end nor an error")
    elif outcome.error.reason == "JOB_CANCELLED":
        if not gives_up:
            faults.append(f"nobody cancelled it: {outcome.error}")
    elif outcome.error.reason not in RETRIABLE:
        faults.append(f"{outcome.error.reason}: {outcome.error}")
    if row is None and not gives_up:
        faults.append(f"it is not in the database ({outcome.plan.way}, {outcome.error})")
    # A queen who is killed right after she has sent the end of an answer does not know that, and her successor waits in
    # vain for the caller who has it all.
    if row is not None and row["state"] == "cancelled" and not gives_up and outcome.usage is None:
        faults.append("it is noted as cancelled, but nobody did")
    return faults


def row_faults(job: dict) -> list[str]:
    """Returns what in a job's row disagrees with the life of a job."""
    faults, attempts = [], job["attempts"]
    if job["state"] not in RESTING_STATES:
        return [f"it is {job['state']} still"]
    if [attempt["number"] for attempt in attempts] != list(range(1, len(attempts) + 1)):
        faults.append(f"attempts are numbered {[attempt['number'] for attempt in attempts]}")
    if any(attempt["end_time"] is None for attempt in attempts):
        faults.append("an attempt has not ended")
    faults += [*time_faults(job), *kept_faults(job)]
    if job["state"] == "complete":
        if not (attempts and job["usage"] and job["finish_reason"] and not job["failure"]):
            faults.append("complete without an end")
        if attempts and attempts[-1]["failure"] is not None:
            faults.append("complete, and its last attempt failed")
    if job["state"] == "failed":
        tries = [one for one in attempts if (one["failure"] or {}).get("reason") != "QUEEN_STOPPED"]
        if job["failure"]["reason"] not in RETRIABLE or len(tries) < MAX_ATTEMPTS:
            faults.append(f"failed after {len(tries)} attempts: {job['failure']}")
    return faults


def time_faults(job: dict) -> list[str]:
    times = [job["submit_time"]]
    for attempt in job["attempts"]:
        times += [attempt["dispatch_time"], attempt["end_time"] or 0.0]
    times.append(job["end_time"] or 0.0)
    faults = [] if times == sorted(times) else [f"times are not in order: {times}"]
    if job["first_token_time"] and not job["submit_time"] <= job["first_token_time"] <= job["end_time"]:
        faults.append("its first token came before it or after its end")
    return faults


def kept_faults(job: dict) -> list[str]:
    faults, wanted = [], job["detached"] and job["state"] == "complete"
    if job["has_request"]:
        faults.append("its request is kept")
    if wanted and not job["has_output"]:
        faults.append("its output is not kept")
    # That of an attended one is, where a queen was killed before she knew that its caller has it.
    if job["has_output"] and job["state"] != "complete":
        faults.append("its output is kept")
    return faults


def read_database(path) -> tuple[dict[str, dict], list[str]]:
    """Returns the jobs by id, and rows that belong to none."""
    query = """SELECT jobs.*, job_requests.job_id IS NOT NULL AS has_request,
               job_outputs.job_id IS NOT NULL AS has_output
               FROM jobs LEFT JOIN job_requests ON job_requests.job_id = jobs.id
               LEFT JOIN job_outputs ON job_outputs.job_id = jobs.id"""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        jobs = {row["id"]: dict(row) for row in database.execute(query)}
        strays = [
            f"{table}: {job_id} has no job"
            for table in ("job_requests", "job_outputs")
            for (job_id,) in database.execute(f"SELECT job_id FROM {table} WHERE job_id NOT IN (SELECT id FROM jobs)")
        ]
    for job in jobs.values():
        job.update({name: json.loads(job[name] or "null") for name in ("attempts", "usage", "failure", "labels")})
    return jobs, strays


def told(cluster: Cluster, outcomes: list[Outcome], jobs: dict[str, dict]) -> str:
    """Returns what happened, in one line."""
    log = [json.loads(line) for line in cluster.queen.log.splitlines() if line.startswith("{")]
    adopted = {line["job_id"] for line in log if line["message"].startswith("taken over") and "job_id" in line}
    failures = Counter(
        attempt["failure"]["reason"] for job in jobs.values() for attempt in job["attempts"] if attempt["failure"]
    )
    retried = {job["id"] for job in jobs.values() if len(job["attempts"]) > 1}
    went_on = {
        job["id"]
        for job in jobs.values()
        if job["id"] in retried
        and job["first_token_time"]
        and job["first_token_time"] < job["attempts"][-1]["dispatch_time"]
    }
    states = Counter(job["state"] for job in jobs.values())
    did = ", ".join(f"{count} x {what}" for what, count in sorted(cluster.done.items()))
    return (
        f"{cluster.lasted_s:.0f} s: {did}. {len(outcomes)} jobs asked for, {len(jobs)} noted: {dict(states)}; "
        f"{len(retried | adopted)} hit: "
        f"{len(retried)} retried, {len(went_on)} of them mid-answer, {len(adopted)} taken over by a new queen; "
        f"attempts failed: {dict(failures)}"
    )
