"""The platform policy shares tokens between tenants, whoever asks most; properties of its decisions."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from policy_worlds import NOW, PLATFORM
from queen.policy import fuzz
from queen.policy.language import Program

SLOTS, TICKS = 8, 160


def share_out(demand, weights, seed=1):
    """Serves tenants on one worker of 8 slots and returns the tokens each got.

    `demand` is jobs a tenant adds per tick; each job is of random length and ends after a tick per 50 tokens.
    """
    rng = random.Random(seed)
    program = Program()
    assert program.load_platform(PLATFORM) is None
    for tenant, weight in weights.items():
        program.put("tenants", tenant, {"weight": weight, "tokens_counter": 0, "concurrent_jobs": 0})
    row = {"model": "m", "pool_id": "p", "status": "ready", "slots_total": SLOTS}
    program.put("workers", "w", {**row, "slots_available": SLOTS, "in_flight": 0})
    counters, got = dict.fromkeys(weights, 0), dict.fromkeys(weights, 0)
    queue, running, length, number = [], {}, {}, 0
    for tick in range(TICKS):
        for tenant, rate in demand.items():
            for _ in range(rate if tick < TICKS // 2 else 0):
                number += 1
                job_id = f"job-{number:06}"
                length[job_id] = rng.randint(20, 400)
                fields = {"model": "m", "tenant_id": tenant, "priority": "interactive", "max_tokens": 400}
                program.put("jobs", job_id, {**fields, "prompt_tokens": 50, "submit_ms": NOW + tick})
                queue.append((job_id, tenant))
        for job_id in [job_id for job_id, (_, end) in running.items() if end <= tick]:
            tenant, _ = running.pop(job_id)
            program.remove("jobs", job_id)
            counters[tenant] += 50 + 2 * length[job_id]
            if tick < TICKS // 2:  # both have work queued until then
                got[tenant] += length[job_id]
        free = SLOTS - len(running)
        program.put("workers", "w", {"slots_available": free, "in_flight": len(running)})
        for tenant in weights:
            program.put("tenants", tenant, {"tokens_counter": counters[tenant]})
        program.queue([job_id for job_id, _ in queue])
        outcome = program.decide(NOW + tick, tick, 5000)
        assert outcome.error is None, outcome.error
        dispatched = {decided.job_id for decided in outcome.decisions if decided.action == "dispatch"}
        assert len(dispatched) == min(free, len(queue))  # work is never held back
        for job_id, tenant in queue:
            if job_id in dispatched:
                running[job_id] = tenant, tick + 1 + length[job_id] // 50
        queue = [pair for pair in queue if pair[0] not in dispatched]
    return got


def test_ten_times_the_load_gets_no_larger_share():
    got = share_out({"greedy": 10, "modest": 1}, {"greedy": 1, "modest": 1})
    assert abs(got["greedy"] - got["modest"]) <= 0.1 * max(got.values())


def test_shares_follow_weights():
    got = share_out({"heavy": 4, "light": 4}, {"heavy": 3, "light": 1})
    assert 2.5 <= got["heavy"] / got["light"] <= 3.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**31))
def test_decisions_are_legal_repeatable_and_leave_the_state_as_it_was(cluster_seed, seed):
    scenario = fuzz.cluster(random.Random(cluster_seed))
    outcomes = []
    for _ in range(2):
        program = Program()
        assert program.load_platform(PLATFORM) is None
        scenario.fill(program)
        outcomes += [program.decide(scenario.now_ms, seed, 5000), program.decide(scenario.now_ms, seed, 5000)]
    assert len({outcome.decisions for outcome in outcomes}) == 1
    assert outcomes[0].error is None
    assert fuzz.violations(scenario, outcomes[0]) == []
    starts = [decided.model_ref for decided in outcomes[0].decisions if decided.action == "start_worker"]
    assert len(starts) == len(set(starts))  # never two of one model at once
    about = [decided.job_id for decided in outcomes[0].decisions if decided.action != "evict"]
    assert sorted(about) == sorted(scenario.queue)  # every job gets exactly one decision
