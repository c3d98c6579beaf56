"""The machines of a simulation: they load models and generate tokens on virtual time, and report to the registry.

To the queen's parts they are the dispatcher and the starter of workers. A worker's prompts are processed one after the
other; decoding streams of a device share it (`pace`); prompt processing does not slow decoding down, as with chunked
prefill. A worker keeps the KV cache of the last sessions it served, one a slot, so a session's next turn there has
only its new tokens to process.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from queen.core import feasibility
from queen.core.model import Device, Hive, Job, Proposal, Usage, Worker, WorkerSpec, WorkerState
from queen.registry.jobs import JobTable, LiveJob
from queen.simulation.calendar import Calendar
from queen.simulation.cluster_file import CPU, DevicePlan, Machine, Speed, WorkerPlan
from queen.simulation.pace import Pace
from queen.simulation.records import DeviceRecord, Level, WorkerRecord
from queen.simulation.stage import Stage


@dataclass(slots=True)
class _Device:
    plan: DevicePlan
    record: DeviceRecord
    pace: Pace
    used_mb: int = 0
    due: float | None = None


@dataclass(slots=True)
class _Seat:
    """A worker on its device. `prefilled` is when the last prompt it was given is processed."""

    machine: Machine
    device: _Device
    spec: WorkerSpec
    speed: Speed
    record: WorkerRecord
    prefilled: float = 0.0
    sessions: OrderedDict[str, int] = field(default_factory=OrderedDict)


class Fleet:
    """All machines of a plan. The stage's requests say how long the answer of each job is."""

    def __init__(self, stage: Stage, *, calendar: Calendar, jobs: JobTable) -> None:
        self._stage = stage
        self._calendar = calendar
        self._cluster = stage.cluster
        self._jobs = jobs
        self._requests = stage.requests
        self._machines = {machine.name: machine for machine in stage.plan.machines}
        self._models = stage.plan.models
        self._names = {model.file.model_ref: name for name, model in stage.plan.models.items()}
        self._devices: dict[tuple[str, str], _Device] = {}
        self._seats: dict[str, _Seat] = {}
        self.workers: list[WorkerRecord] = []
        self.residents: dict[str, Level] = {name: Level() for name in self._machines}

    @property
    def devices(self) -> list[DeviceRecord]:
        """What happened on each device."""
        return [device.record for device in self._devices.values()]

    def open(self) -> None:
        """Brings all machines online with the workers they begin with."""
        for machine in self._machines.values():
            for plan in machine.devices:
                record = DeviceRecord(machine.name, plan.id, plan.kind, plan.id != CPU)
                self._devices[machine.name, plan.id] = _Device(plan, record, Pace(plan.full_speed_streams))
            files = tuple(self._models[name].file for name in machine.models)
            self._cluster.register_hive(
                Hive(machine.name, labels=dict(machine.labels), geo=machine.geo, cost_per_token=machine.cost_per_token)
            )
            self._report(machine, models=files, address=f"{machine.name}:7835")
            for worker in machine.workers:
                seat = self._seat(machine, self._spec(machine, worker, self._stage.new_id(machine.name)), started=False)
                self._ready(seat.spec.worker_id)

    # The dispatcher and the starter of workers.

    def dispatch(self, job_id: str, worker: Worker) -> None:
        """Starts running a job whose slot is reserved."""
        seat, request, now = self._seats[worker.id], self._requests[job_id], self._calendar.now()
        seat.record.jobs.add(1, now)
        seat.device.record.jobs.add(1, now)
        cached = min(request.prompt_tokens, seat.sessions.pop(request.session_id, 0))
        if request.session_id:
            seat.sessions[request.session_id] = request.prompt_tokens + request.generated_tokens
            if len(seat.sessions) > seat.spec.slots:
                seat.sessions.popitem(last=False)
        prefill_s = (request.prompt_tokens - cached) / seat.speed.prefill_tokens_per_s
        seat.prefilled = max(now, seat.prefilled) + prefill_s
        self._calendar.at(seat.prefilled, self._first_token, job_id, cached)

    def start_for(self, proposal: Proposal) -> None:
        """Starts the worker a proposal asks for."""
        spec = proposal.spec
        assert spec is not None, "a proposal to start says what"
        self._cluster.expect_worker(proposal.hive_id, spec)
        seat = self._seat(self._machines[proposal.hive_id], spec, started=True)
        self._calendar.at(self._calendar.now() + seat.speed.load_s, self._ready, spec.worker_id)

    def tell_waiting(self, job_id: str) -> None:
        """Nobody listens to a simulated job."""

    def evict(self, proposal: Proposal) -> None:
        """Ends a worker that runs nothing; its memory is free at once."""
        worker_id, reason = proposal.worker_id, proposal.reason
        seat, now = self._seats.pop(worker_id), self._calendar.now()
        seat.record.end, seat.record.end_reason = now, reason
        seat.device.record.workers.add(-1, now)
        self.residents[seat.machine.name].add(-1, now)
        if seat.record.ready is not None:
            seat.device.used_mb -= seat.spec.memory_mb
            self._report(seat.machine)
        self._cluster.forget_worker(worker_id)

    def spent(self, job: Job) -> Usage:
        """Returns what a job that has not ended has taken of its worker."""
        seat, request, now = self._seats[job.attempt.worker_id], self._requests[job.id], self._calendar.now()
        began = now if job.first_token_time is None else job.first_token_time
        most = int((now - began) * seat.speed.decode_tokens_per_s)
        return Usage(request.prompt_tokens, min(most, request.generated_tokens))

    def drop(self, job: Job) -> None:
        """Stops what a worker does for a job that has ended otherwise, and frees its slot."""
        seat, now = self._seats[job.attempt.worker_id], self._calendar.now()
        seat.device.pace.remove(job.id, now)
        self._free_slot(seat, job, now)
        self._schedule(seat.device)

    # What happens on the machines.

    def _spec(self, machine: Machine, worker: WorkerPlan, worker_id: str) -> WorkerSpec:
        hive = self._cluster.get_hive(machine.name)
        assert hive is not None, "workers begin on machines that are online"
        device = next(device for device in hive.devices if device.id == worker.device_id)
        return feasibility.spec_for(worker_id, self._models[worker.model].file, device, slots=worker.slots)

    def _seat(self, machine: Machine, spec: WorkerSpec, *, started: bool) -> _Seat:
        device, now = self._devices[machine.name, spec.device_ids[0]], self._calendar.now()
        name = self._names[spec.model_ref]
        record = WorkerRecord(spec.worker_id, device.record, name, spec.slots, spec.memory_mb, now, started)
        self.workers.append(record)
        device.record.workers.add(1, now)
        self.residents[machine.name].add(1, now)
        seat = _Seat(machine, device, spec, machine.speed(name, device.plan.kind), record)
        self._seats[spec.worker_id] = seat
        return seat

    def _ready(self, worker_id: str) -> None:
        seat = self._seats.get(worker_id)
        if seat is None:
            return  # ended while it loaded
        now = self._calendar.now()
        seat.record.ready = now
        seat.device.used_mb += seat.spec.memory_mb
        gpu_memory = {"vram_mb": seat.spec.memory_mb, "total_vram_mb": seat.device.plan.memory_mb}
        self._cluster.heard_worker(
            seat.machine.name,
            worker_id,
            now,
            {
                "spec": seat.spec,
                "state": WorkerState.READY,
                "address": f"{seat.machine.name}:{worker_id}",
                "backend": seat.device.plan.backend,
                "slots_total": seat.spec.slots,
                "context_length": seat.spec.context_length,
                "rss_mb": seat.spec.memory_mb,
                "start_time": seat.record.start,
                **(gpu_memory if seat.device.record.gpu else {}),
            },
        )
        self._cluster.settle(worker_id)  # it runs nothing yet
        self._report(seat.machine)

    def _first_token(self, job_id: str, cached: int) -> None:
        live, now = self._running(job_id), self._calendar.now()
        if live is None:
            return  # ended before its prompt was processed
        self._jobs.started(live, now)
        seat, generated = self._seats[live.job.attempt.worker_id], self._requests[job_id].generated_tokens
        seat.record.cached_tokens += cached
        if generated <= 1:
            self._complete(live, seat, now)
            return
        seat.device.pace.add(job_id, (generated - 1) / seat.speed.decode_tokens_per_s, now)
        self._schedule(seat.device)

    def _schedule(self, device: _Device) -> None:
        """Enters when the device's next stream ends, unless that is entered already."""
        upcoming = device.pace.next_end()
        due = None if upcoming is None else upcoming[0]
        if due != device.due and due is not None:
            self._calendar.at(due, self._stream_ends, device, due)
        device.due = due

    def _stream_ends(self, device: _Device, due: float) -> None:
        upcoming = device.pace.next_end()
        if due != device.due or upcoming is None:
            return  # streams came or went since
        job_id, now = upcoming[1], self._calendar.now()
        device.due = None
        device.pace.remove(job_id, now)
        live = self._running(job_id)
        assert live is not None, "a job that ends otherwise is dropped"
        self._complete(live, self._seats[live.job.attempt.worker_id], now)
        self._schedule(device)

    def _complete(self, live: LiveJob, seat: _Seat, now: float) -> None:
        job, request = live.job, self._requests[live.job.id]
        began = job.first_token_time
        decode_s = now - began if began is not None else 0.0
        speed = (request.generated_tokens - 1) / decode_s if decode_s > 0 else 0.0
        self._cluster.note_completed(job.attempt.worker_id, speed)
        reason = "length" if request.generated_tokens >= request.max_tokens else "stop"
        usage = Usage(request.prompt_tokens, request.generated_tokens)
        self._jobs.completed(live, now, usage=usage, finish_reason=reason, seed=None)
        seat.record.completed += 1
        seat.record.prompt_tokens += request.prompt_tokens
        seat.record.generated_tokens += request.generated_tokens
        self._free_slot(seat, job, now)

    def _free_slot(self, seat: _Seat, job: Job, now: float) -> None:
        seat.record.jobs.add(-1, now)
        seat.device.record.jobs.add(-1, now)
        self._cluster.release(seat.spec.worker_id, job.id, now)

    def _running(self, job_id: str) -> LiveJob | None:
        live = self._jobs.get(job_id)
        return None if live is None or live.job.resting else live

    def _report(self, machine: Machine, **facts: object) -> None:
        """Tells the registry how much memory the machine's devices have free."""
        devices = tuple(
            Device(
                id=plan.id,
                name=plan.kind,
                backend=plan.backend,
                memory_total_mb=plan.memory_mb,
                memory_free_mb=plan.memory_mb - self._devices[machine.name, plan.id].used_mb,
                memory_foreign_mb=0,
            )
            for plan in machine.devices
        )
        ram_free_mb = next((device.memory_free_mb for device in devices if device.id == CPU), None)
        changes = {**facts, "devices": devices, "ram_free_mb": ram_free_mb}
        self._cluster.heard(machine.name, self._calendar.now(), changes)
