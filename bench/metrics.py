"""What do metrics cost the queen: a token, a one-token call, a record and a scrape? See README.md here."""

from __future__ import annotations

from typing import Final

import rig
from tracing import asked, each_us, measure, row

from queen.core.model import Device, Hive, Job, Priority, WorkerSpec, WorkerState
from queen.metrics.meter import Meter
from queen.registry.cluster import Cluster
from queen.registry.jobs import JobTable, LiveJob
from queen.registry.tenants import TenantTable
from wire.clock import SystemClock

STREAMS: Final = 64
HIVES: Final = 100
WORKERS: Final = 1000
WAITING: Final = 10_000

OFF, SCRAPED = "no metrics", "counted"


class Nowhere:
    """Keeps nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


def full_queen() -> Meter:
    """Returns the metrics of a queen with many machines, workers and waiting jobs."""
    cluster, clock = Cluster(lambda: None), SystemClock()
    for number in range(HIVES):
        hive = f"hive-{number}"
        cluster.register_hive(Hive(hive))
        gpus = tuple(Device(f"gpu{at}", "", "cuda", "", "", 80_000, 40_000, 1000) for at in range(WORKERS // HIVES))
        cluster.heard(hive, clock.now(), {"devices": gpus})
        for gpu in gpus:
            spec = WorkerSpec(f"{hive}-{gpu.id}", "synthetic:x", device_ids=(gpu.id,), memory_mb=39_000)
            told = {"spec": spec, "state": WorkerState.READY, "slots_total": 4}
            cluster.heard_worker(hive, spec.worker_id, clock.now(), told)
    tenants = TenantTable(Nowhere(), cluster.get_worker)
    meter = Meter(cluster, clock, "bench", None, served=True)
    jobs = JobTable(Nowhere(), lambda: None, tenants, meter.jobs.moved)
    meter.look_at(jobs, tenants)
    for number in range(WAITING):
        priority = (Priority.INTERACTIVE, Priority.BATCH)[number % 2]
        waiting = Job(f"job-{number}", number, "x", "synthetic:x", clock.now(), priority=priority, tenant_id="default")
        jobs.add(LiveJob(waiting, b""))
    return meter


def alone() -> list[list[str]]:
    """Returns what a record and a scrape take, processor time of one thread."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    meter = full_queen()
    ours = meter.jobs.instruments
    counter = next(one for one in ours if one.name == "rbee.tokens")
    spread = next(one for one in ours if one.name == "rbee.queue.wait")
    sdk = MeterProvider([InMemoryMetricReader()]).get_meter("bench")
    their_counter, their_spread = sdk.create_counter("tokens"), sdk.create_histogram("wait")
    labels = {"rbee.job.priority": "interactive", "rbee.tenant.id": "default"}
    text, scrape_us = "".join(meter.parts()), each_us(lambda: "".join(meter.parts()), 20)
    return [
        ["a counter", f"{each_us(lambda: counter.add(1, 'default', 'input')):.2f}"],
        ["a counter of the SDK's", f"{each_us(lambda: their_counter.add(1, labels)):.2f}"],
        ["a histogram", f"{each_us(lambda: spread.record(0.2, 'interactive', 'default')):.2f}"],
        ["a histogram of the SDK's", f"{each_us(lambda: their_spread.record(0.2, labels)):.2f}"],
        [f"a scrape of {len(text) // 1000} kB: {WORKERS:,} workers and GPUs, {WAITING:,} jobs", f"{scrape_us:,.0f}"],
    ]


async def main() -> None:
    rounds, calls, run_s = asked(__doc__)
    rig.print_table("One alone, us of processor time", ["what", "us"], alone())
    ways = await measure({OFF: {"RBEE_QUEEN_HTTP": "off"}, SCRAPED: {}}, rounds, calls, run_s)
    rig.print_table(
        f"Metrics, medians of {rounds} rounds in turns: first token and queen CPU of 1-token replies ({calls} calls), "
        f"queen CPU per token of {STREAMS} streams",
        ["way", "first token ms", "more", "CPU us/call", "more", "CPU us/token", "more"],
        [row(name, ways) for name in ways],
    )


if __name__ == "__main__":
    rig.run(main())
