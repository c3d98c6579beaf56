from queen.core import applier
from queen.core.model import Action, JobState, Proposal, WorkerSpec, WorkerState
from worlds import MODEL, World, job


def dispatch(worker_id: str = "w1") -> Proposal:
    return Proposal("job-1", Action.DISPATCH, "", worker_id, "mill")


def test_a_dispatch_to_a_free_slot_is_let_through():
    world = World()
    world.add_hive()
    world.add_worker()
    assert applier.refusal(dispatch(), job(), world.cluster) == ""


def test_a_dispatch_is_refused_with_what_speaks_against_it():
    world = World()
    world.add_hive()
    world.add_worker("w1", slots=1)
    world.add_worker("other", model_ref="file:/models/other.gguf")
    world.add_worker("young", state=WorkerState.LOADING)
    world.cluster.reserve("w1", "job-0")
    assert "all 1 slots are taken" in applier.refusal(dispatch("w1"), job(), world.cluster)
    assert "another model" in applier.refusal(dispatch("other"), job(), world.cluster)
    assert "still loads" in applier.refusal(dispatch("young"), job(), world.cluster)
    assert "no worker ghost" in applier.refusal(dispatch("ghost"), job(), world.cluster)


def test_only_queued_jobs_are_decided_about():
    world = World()
    world.add_hive()
    world.add_worker()
    running = job(state=JobState.RUNNING)
    assert applier.refusal(dispatch(), running, world.cluster) == "the job is running, not queued"
    assert "no job job-1" in applier.refusal(dispatch(), None, world.cluster)


def test_a_start_is_refused_where_memory_is_booked_already():
    world = World()
    world.add_hive(free_mb=300)
    spec = WorkerSpec("w2", MODEL, memory_mb=200, device_ids=("cpu",))
    start = Proposal("job-1", Action.START_WORKER, "", "w2", "mill", spec)
    assert applier.refusal(start, job(), world.cluster) == ""
    world.cluster.expect_worker("mill", WorkerSpec("w1", MODEL, memory_mb=200, device_ids=("cpu",)))
    assert "needs 200 MB" in applier.refusal(start, job(), world.cluster)


def test_a_busy_worker_is_not_evicted():
    world = World()
    world.add_hive()
    world.add_worker(slots=2)
    evict = Proposal("job-1", Action.EVICT, "", "w1", "mill")
    assert applier.refusal(evict, job(), world.cluster) == ""
    world.cluster.reserve("w1", "job-0")
    assert applier.refusal(evict, job(), world.cluster) == "worker w1 runs 1 jobs"


def test_evictions_and_preloads_need_no_job():
    world = World()
    world.add_hive(free_mb=4000)
    world.add_worker()
    spec = WorkerSpec("w2", "file:/models/other.gguf", memory_mb=200, device_ids=("cpu",))
    assert applier.refusal(Proposal("", Action.START_WORKER, "", "w2", "mill", spec), None, world.cluster) == ""
    assert applier.refusal(Proposal("", Action.EVICT, "", "w1", "mill"), None, world.cluster) == ""
    assert "no job" in applier.refusal(Proposal("", Action.REJECT, ""), None, world.cluster)


def test_what_is_pinned_loading_or_leaving_is_not_evicted():
    world = World()
    world.add_hive()
    world.add_worker("w1")
    world.add_worker("w2", state=WorkerState.LOADING)
    world.cluster.pin("w1")
    assert applier.refusal(Proposal("", Action.EVICT, "", "w1", "mill"), None, world.cluster) == "worker w1 is pinned"
    assert "is loading" in applier.refusal(Proposal("", Action.EVICT, "", "w2", "mill"), None, world.cluster)
    world.cluster.pin("w1", pinned=False)
    assert applier.refusal(Proposal("", Action.EVICT, "", "w1", "mill"), None, world.cluster) == ""


def test_a_model_that_loads_on_a_hive_is_not_started_there_again():
    world = World()
    world.add_hive(free_mb=4000)
    world.cluster.expect_worker("mill", WorkerSpec("w1", MODEL, memory_mb=200, device_ids=("cpu",)))
    start = Proposal("job-1", Action.START_WORKER, "", "w2", "mill", WorkerSpec("w2", MODEL, device_ids=("cpu",)))
    assert "worker w1 still loads" in applier.refusal(start, job(), world.cluster)
    assert "does not have the model" in applier.refusal(
        Proposal("job-1", Action.START_WORKER, "", "", "mill"), job(), world.cluster
    )
