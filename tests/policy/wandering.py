"""Clusters that wander: steps that change what is there in every way it can change, and the queue with it."""

from queen.core.model import HiveState, WorkerState
from worlds import job, model_file

STEP_KINDS = ["hive", "worker", "slot", "free", "report", "offline", "forget", "model", "queue", "pin", "done"]


def walk(world, steps):
    """Does each step and yields the queue after it."""
    queue = []
    for count, step in enumerate(steps):
        do(world.cluster, world, queue, count, *step)
        queue = queue[-3:]
        yield queue


def do(cluster, world, queue, count, step, which, number):
    """Does one step, if it is possible now."""
    hive, worker, at = f"h{which % 2}", f"w{which}", float(count)
    there, known = cluster.get_hive(hive), cluster.get_worker(worker)
    state = WorkerState.READY if number % 2 else WorkerState.LOADING
    files = tuple(model_file(f"m{n}") for n in range(which))
    does = {
        "hive": (True, lambda: world.add_hive(hive, free_mb=1000 + number, gpus=which)),
        "worker": (there and not known, lambda: world.add_worker(worker, hive, slots=1 + which, state=state)),
        "slot": (cluster.slots_available(worker), lambda: cluster.reserve(worker, f"job-{at}")),
        "free": (known, lambda: [cluster.release(worker, name, at) for name in cluster.jobs_on(worker)]),
        "report": (known, lambda: cluster.heard_worker(known.hive_id, worker, at, {"cpu_pct": float(number)})),
        "offline": (there and there.online, lambda: cluster.set_hive_state(hive, HiveState.OFFLINE)),
        "forget": (True, lambda: cluster.forget_worker(worker)),
        "model": (there, lambda: cluster.heard(hive, at, {"models": files})),
        "pin": (known, lambda: cluster.pin(worker, number % 2 == 0)),
        "done": (known, lambda: cluster.note_completed(worker, float(number))),
        "queue": (True, lambda: queue.append(job(f"job-{count}", count, session_id=f"s{which}"))),
    }
    possible, act = does[step]
    if possible:
        act()
