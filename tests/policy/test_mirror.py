"""The mirror: rows brought up to date by small changes are the rows a fresh look would give."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from policy.wandering import STEP_KINDS, walk
from queen.core.model import Asks, Device, HiveState, Priority
from queen.policy.mirror import Mirror
from queen.policy.rows import Rows
from worlds import MODEL, World, job, model_file


def mirrored(world, queue=()):
    rows = Rows()
    mirror = Mirror(world.cluster, rows)
    mirror.sync(queue, 0.0)
    return mirror, rows


def row(rows, kind, name):
    return next(change[3] for change in rows.everything() if change[:3] == ["put", kind, name])


def test_nothing_changed_is_nothing_sent():
    world = World()
    world.add_hive(models=(model_file(),))
    world.add_worker()
    queue = [job()]
    mirror, rows = mirrored(world, queue)
    assert rows.take()
    mirror.sync(queue, 0.0)
    assert rows.take() == []


def test_a_report_sends_what_it_changed():
    world = World()
    world.add_hive()
    world.add_worker()
    mirror, rows = mirrored(world)
    rows.take()
    world.cluster.heard_worker("mill", "w1", 5.0, {"cpu_pct": 12.345, "rss_mb": 300})
    mirror.sync((), 0.0)
    assert rows.take() == [["put", "workers", "w1", {"cpu_pct": 12.3, "rss_mb": 300}, []]]


def test_the_jobs_of_the_last_minute_are_counted():
    world = World()
    world.add_hive()
    world.add_worker("w1")
    world.add_worker("w2")
    mirror, rows = mirrored(world)
    seen = []
    for now, worker_id in ((10.0, "w1"), (20.0, "w1"), (20.0, "w2"), (75.0, "w2"), (200.0, None)):
        if worker_id is not None:
            world.cluster.note_completed(worker_id, 0.0)
        mirror.sync((), now)
        seen.append(row(rows, "metrics", "")["jobs_completed_last_minute"])
    assert seen == [1, 2, 3, 3, 0]
    world.cluster.forget_worker("w1")
    mirror.sync((), 201.0)
    assert row(rows, "metrics", "")["jobs_completed_last_minute"] == 0


def test_a_slot_taken_and_given_back():
    world = World()
    world.add_hive()
    world.add_worker(slots=2)
    mirror, rows = mirrored(world)
    assert row(rows, "workers", "w1")["idle_since_ms"] == 0
    world.cluster.reserve("w1", "job-1")
    mirror.sync((), 0.0)
    assert rows.take() == [["put", "workers", "w1", {"slots_available": 1}, ["idle_since_ms"]]]
    world.cluster.release("w1", "job-1", 7.0)
    mirror.sync((), 0.0)
    assert rows.take() == [["put", "workers", "w1", {"slots_available": 2, "idle_since_ms": 7000}, []]]


def test_what_a_job_asks_for():
    asks = Asks(max_tokens=10, prompt_hash="h", prompt_tokens=3, user_geo={"region": "EU"})
    waiting = job(
        priority=Priority.BATCH, session_id="s", timeout_s=60.0, submit_time=1.5, asks=asks, labels={"a": "b"}
    )
    _, rows = mirrored(World(), [waiting])
    found = row(rows, "jobs", "job-1")
    assert found["model"] == MODEL
    assert found["submit_ms"] == 1500
    assert found["deadline_at_ms"] == 61500
    assert found["user_geo"] == {"region": "EU"}
    assert found["labels"] == {"a": "b"}
    assert "seed" not in found
    assert "temperature" not in found


def test_memory_is_told_apart_by_claims_free_and_foreign():
    world = World()
    world.add_hive(gpus=1, models=(model_file(),))
    device = Device("gpu0", "GPU", "cuda", memory_total_mb=1000, memory_free_mb=600, memory_foreign_mb=50)
    world.cluster.heard("mill", 1.0, {"devices": (device,)})
    worker = world.add_worker()
    world.cluster.heard_worker("mill", "w1", 1.0, {"spec": replace(worker.spec, device_ids=("gpu0",), memory_mb=300)})
    _, rows = mirrored(world)
    (gpu,) = row(rows, "pools", "mill")["gpus"]
    assert (gpu["vram_total"], gpu["vram_free"], gpu["vram_foreign"], gpu["vram_allocated"]) == (1000, 600, 50, 300)


def test_a_model_is_known_by_its_hives():
    world = World()
    world.add_hive("a", models=(model_file(),))
    world.add_hive("b")
    mirror, rows = mirrored(world)
    assert row(rows, "models", MODEL)["vram_required_mb"] > 100
    assert row(rows, "pools", "a")["cached_models"] == [MODEL]
    world.cluster.set_hive_state("a", HiveState.OFFLINE)
    mirror.sync((), 0.0)
    assert not rows.has("models", MODEL)
    assert row(rows, "pools", "a")["cached_models"] == []
    assert row(rows, "pools", "a")["status"] == "offline"


def test_a_session_remembers_its_worker():
    world = World()
    world.add_hive()
    world.add_worker()
    first, second = job(session_id="s"), job("job-2", 2, session_id="s")
    mirror, rows = mirrored(world, [first])
    mirror.note_dispatch(first, "w1")
    mirror.sync([second], 0.0)
    assert row(rows, "jobs", "job-2")["session_last_worker"] == "w1"
    assert not rows.has("jobs", "job-1")


STEPS = st.lists(st.tuples(st.sampled_from(STEP_KINDS), st.integers(0, 3), st.integers(0, 100)), max_size=40)


def held(changes):
    """What a sandbox holds after changes."""
    kinds = {}
    for what, *rest in changes:
        if what == "put":
            kind, name, fields, absent = rest
            found = kinds.setdefault(kind, {}).setdefault(name, {})
            found.update(fields)
            for field in absent:
                del found[field]
        elif what == "remove":
            del kinds[rest[0]][rest[1]]
        else:
            kinds["queue"] = rest[0]
    return {kind: rows for kind, rows in kinds.items() if rows}


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_small_changes_come_to_the_same_as_a_fresh_look(steps):
    world = World()
    mirror, rows = mirrored(world)
    sent = rows.take()
    queue = []
    for queue in walk(world, steps):
        mirror.sync(queue, 0.0)
        sent += rows.take()
    _, fresh = mirrored(world, queue)
    assert held(sent) == held(fresh.everything()) == held(rows.everything())
