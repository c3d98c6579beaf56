import asyncio

from queen.core import feasibility
from queen.core.model import Device, HiveState, WorkerExit, WorkerSpec, WorkerState
from worlds import MODEL, World, job, model_file


def test_hives_and_workers_are_listed_in_order_however_they_come():
    world = World()
    for name in ("b", "c", "a"):
        world.add_hive(name)
    for name, hive in (("w2", "b"), ("w3", "a"), ("w1", "b")):
        world.add_worker(name, hive, slots=2)
    cluster = world.cluster
    cluster.reserve("w1", "x")
    cluster.reserve("w1", "y")
    assert [hive.id for hive in cluster.list_hives()] == ["a", "b", "c"]
    assert [worker.id for worker in cluster.list_online_workers()] == ["w1", "w2", "w3"]
    assert [worker.id for worker in cluster.find_workers_with_model(MODEL)] == ["w1", "w2", "w3"]
    assert [worker.state for worker in cluster.find_workers_on("b")] == [WorkerState.BUSY, WorkerState.READY]
    cluster.forget_worker("w1")
    assert [worker.id for worker in cluster.find_workers_on("b")] == ["w2"]
    assert [worker.id for worker in cluster.find_workers_with_model(MODEL)] == ["w2", "w3"]


def test_memory_that_becomes_free_wakes_once_and_small_change_does_not():
    world = World()
    world.add_hive(free_mb=1000)

    def report(free_mb):
        wakes = world.wakes
        cpu = Device("cpu", "CPU", "cpu", memory_total_mb=4000, memory_free_mb=free_mb)
        world.cluster.heard("mill", 1.0, {"devices": (cpu,)})
        return world.wakes - wakes

    assert [report(free_mb) for free_mb in (1010, 990, 1040, 1054, 1060, 500, 540, 2000)] == [0, 0, 0, 1, 0, 0, 0, 1]


def test_a_silent_hive_is_degraded_after_3_s_and_offline_after_10():
    world = World()
    world.add_hive()
    world.add_worker()
    cluster = world.cluster
    assert cluster.next_silence() == 3.0
    assert cluster.expire(2.9) == []
    assert [hive.state for hive in cluster.expire(3.0)] == [HiveState.DEGRADED]
    assert cluster.list_available_hives() == []
    assert [hive.id for hive in cluster.list_online_hives()] == ["mill"]
    assert cluster.next_silence() == 10.0
    assert [hive.state for hive in cluster.expire(10.0)] == [HiveState.OFFLINE]
    assert cluster.list_online_workers() == []
    assert cluster.next_silence() is None
    cluster.heard("mill", 11.0, {})
    assert [hive.state for hive in cluster.list_hives()] == [HiveState.HEALTHY]


def test_slots_are_taken_at_once_and_tell_ready_from_busy():
    world = World()
    world.add_hive()
    world.add_worker(slots=2)
    cluster = world.cluster
    cluster.reserve("w1", "a")
    assert cluster.get_worker("w1").state is WorkerState.READY
    assert cluster.find_idle_workers() == []
    cluster.reserve("w1", "b")
    assert cluster.get_worker("w1").state is WorkerState.BUSY
    assert cluster.find_best_worker_for_model(MODEL) is None
    cluster.heard_worker("mill", "w1", 1.0, {"state": WorkerState.READY, "cpu_pct": 3.0})
    assert cluster.get_worker("w1").state is WorkerState.BUSY, "a report does not free a slot"
    cluster.release("w1", "a", 5.0)
    cluster.release("w1", "a", 6.0)
    assert cluster.slots_available("w1") == 1
    cluster.release("w1", "b", 7.0)
    assert cluster.idle_since("w1") == 7.0
    assert [worker.id for worker in cluster.find_idle_workers()] == ["w1"]


def test_the_speed_of_a_worker_is_that_of_its_recent_jobs():
    world = World()
    world.add_hive()
    world.add_worker()
    assert world.cluster.avg_tokens_per_sec("w1") is None
    for speed in (100.0, 0.0, 200.0):
        world.cluster.note_completed("w1", speed)
    assert world.cluster.avg_tokens_per_sec("w1") == 130.0
    assert world.cluster.jobs_completed("w1") == 3


def test_a_worker_whose_gpu_somebody_else_uses_is_not_idle():
    world = World()
    world.add_hive()
    world.add_worker()
    cluster = world.cluster
    cluster.reserve("w1", "a")
    cluster.release("w1", "a", 5.0)
    cluster.heard_worker("mill", "w1", 4.0, {"gpu_util_pct": 80.0})
    assert cluster.find_idle_workers(), "the sample is older than the end of its own job"
    cluster.heard_worker("mill", "w1", 6.0, {"gpu_util_pct": 80.0})
    assert cluster.find_idle_workers() == []


def test_a_report_taken_before_ready_or_drain_does_not_turn_the_clock_back():
    world = World()
    world.add_hive()
    world.add_worker()
    world.cluster.heard_worker("mill", "w1", 1.0, {"state": WorkerState.LOADING})
    assert world.cluster.get_worker("w1").state is WorkerState.READY
    world.cluster.heard_worker("mill", "w1", 1.0, {"state": WorkerState.DRAINING})
    world.cluster.heard_worker("mill", "w1", 2.0, {"state": WorkerState.READY})
    assert world.cluster.get_worker("w1").state is WorkerState.DRAINING


def test_a_worker_whose_stream_broke_gets_no_jobs_until_it_has_told_what_it_runs():
    world = World()
    world.add_hive()
    worker = world.add_worker()
    world.cluster.doubt("w1")
    (doubtful,) = world.cluster.list_doubtful_workers("mill")
    assert feasibility.worker_reject_reason(job(), doubtful, 1) == "has to tell what it runs first"
    world.cluster.heard("mill", 2.0, {})
    assert world.cluster.get_worker("w1").doubtful
    world.cluster.settle("w1")
    assert world.cluster.get_worker("w1") == worker
    assert world.cluster.list_doubtful_workers("mill") == []


def test_a_worker_nobody_here_has_started_has_to_tell_what_it_runs():
    world = World()
    world.add_hive()
    spec = WorkerSpec("old", MODEL)
    world.cluster.heard_worker("mill", "old", 1.0, {"spec": spec, "state": WorkerState.READY, "slots_total": 1})
    world.cluster.expect_worker("mill", WorkerSpec("new", MODEL))
    world.cluster.heard_worker("mill", "new", 1.0, {"state": WorkerState.READY, "slots_total": 1})
    assert [worker.id for worker in world.cluster.list_doubtful_workers("mill")] == ["old"]


def test_a_full_report_does_not_drop_a_worker_that_is_being_started():
    world = World()
    world.add_hive()
    world.cluster.expect_worker("mill", WorkerSpec("w1", MODEL))
    world.cluster.keep_workers("mill", frozenset())
    assert world.cluster.get_worker("w1") is not None
    world.cluster.heard_worker("mill", "w1", 1.0, {"state": WorkerState.READY})
    world.cluster.keep_workers("mill", frozenset())
    assert world.cluster.get_worker("w1") is None


def test_a_failed_worker_keeps_how_it_ended_until_its_hive_drops_it():
    world = World()
    world.add_hive()
    world.add_worker()
    ended = WorkerExit(-9, ("last words",), 3.0)
    world.cluster.heard_worker("mill", "w1", 3.0, {"state": WorkerState.FAILED, "exit": ended})
    assert world.cluster.get_worker("w1").exit == ended
    world.cluster.keep_workers("mill", frozenset())
    assert world.cluster.get_worker("w1") is None


def test_booked_memory_counts_while_a_worker_loads_and_is_shown_after():
    world = World()
    world.add_hive()
    world.cluster.expect_worker("mill", WorkerSpec("w1", MODEL, memory_mb=500, device_ids=("cpu",)))
    assert world.cluster.loading_claims_mb("mill") == {"cpu": 500}
    world.cluster.heard_worker("mill", "w1", 1.0, {"state": WorkerState.READY})
    assert world.cluster.loading_claims_mb("mill") == {}
    assert world.cluster.claims_mb("mill") == {"cpu": 500}


def test_capacity_is_a_question_of_gpu_memory():
    world = World()
    world.add_hive()
    world.add_worker()
    assert world.cluster.find_workers_with_capacity(1) == [], "without a GPU there is no such figure"
    world.cluster.heard_worker("mill", "w1", 1.0, {"vram_mb": 1000, "total_vram_mb": 8000})
    assert [worker.id for worker in world.cluster.find_workers_with_capacity(7000)] == ["w1"]
    assert world.cluster.find_workers_with_capacity(7001) == []


def test_one_model_in_two_folders_is_one_model():
    world = World()
    world.add_hive("a", models=(model_file(folder="/x"),))
    world.add_hive("b", models=(model_file(folder="/y"),))
    models = world.cluster.models
    ref = models.find("small")
    assert ref == "file:/x/small.gguf"
    assert models.find("small.gguf") == models.find("SMALL") == models.find("file:/y/small.gguf") == ref
    assert world.cluster.find_file(ref, "b").model_ref == "file:/y/small.gguf"
    world.add_worker("w1", "b", model_ref="file:/y/small.gguf")
    assert [worker.id for worker in world.cluster.find_workers_with_model(ref)] == ["w1"]


def test_the_nearest_names_are_told():
    world = World()
    world.add_hive(models=(model_file("rbee-tiny"), model_file("llama-8b", size_mb=2)))
    assert world.cluster.models.nearest("rbee-tini") == ["rbee-tiny"]
    assert world.cluster.models.find("nothing") is None


async def test_waiting_for_a_condition_ends_with_the_change_that_brings_it():
    world = World()
    world.add_hive()
    waiting = asyncio.ensure_future(world.cluster.until(lambda: world.cluster.get_worker("w1") is not None))
    await asyncio.sleep(0)
    assert not waiting.done()
    world.add_worker()
    await asyncio.wait_for(waiting, 1)
