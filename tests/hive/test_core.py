import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hive.convert import change_to_wire, worker_to_wire
from hive.core.delta import change_between
from hive.core.lifecycle import TRANSITIONS, WorkerEvent, WorkerState, next_state
from hive.core.model import Backend, Device, ModelFile, Snapshot, Worker, WorkerExit, WorkerSpec
from rbee.v1 import telemetry_service_pb2, worker_pb2
from wire import errors

NUMBERS = (None, 0, 3)
WORKER_CHOICES = {
    "state": [state for state in WorkerState if state is not WorkerState.STOPPED],
    "model_ref": ["file:/a", "file:/b"],
    "engine_options": [(), (("a", "1"),), (("b", "2"),)],
    "address": [None, "a:1", "a:2"],
    "backend": [None, *Backend],
    "pid": NUMBERS,
    "cpu_pct": [None, 0.0, 12.5],
    "rss_mb": NUMBERS,
    "vram_mb": NUMBERS,
    "start_time_s": [None, 1.0, 2.0],
    "exit": [None, WorkerExit(-9, (), 5.0), WorkerExit(1, ("last",), 5.0)],
}


class Choices:
    """Turns one big number into choices: its digits, so that hypothesis draws and shrinks quickly."""

    def __init__(self, number):
        self.number = number

    def one_of(self, options):
        self.number, index = divmod(self.number, len(options))
        return options[index]

    def some_of(self, options):
        return [option for option in options if self.one_of([False, True])]


def worker(choices, worker_id):
    chosen = {name: choices.one_of(options) for name, options in WORKER_CHOICES.items()}
    options, model_ref = chosen.pop("engine_options"), chosen.pop("model_ref")
    return Worker(worker_id, spec=WorkerSpec(worker_id, model_ref, "synthetic", 1, engine_options=options), **chosen)


def snapshot(number):
    choices = Choices(number)
    return Snapshot(
        time_s=1.0,
        devices=tuple(
            Device(
                device_id,
                "n",
                Backend.CUDA,
                memory_free_mb=choices.one_of(NUMBERS),
                memory_total_mb=choices.one_of(NUMBERS),
            )
            for device_id in choices.some_of(["cpu", "gpu0"])
        ),
        workers=tuple(worker(choices, worker_id) for worker_id in choices.some_of(["w1", "w2", "w3"])),
        models=tuple(
            ModelFile(ref, "m", file_size_bytes=choices.one_of([0, 1])) for ref in choices.some_of(["a", "b"])
        ),
        disk_free_bytes=choices.one_of(NUMBERS),
        ram_free_mb=choices.one_of(NUMBERS),
    )


snapshots = st.integers(0, 2**96).map(snapshot)


class Reader:
    """A queen's side of the reports, written from the contract's words alone."""

    def __init__(self):
        self.workers, self.devices, self.models, self.disk, self.ram = {}, {}, [], None, None

    def read(self, report):
        if report.full:
            self.__init__()
        for device in report.devices:
            self.devices[device.id] = device
        for change in report.workers:
            worker = self.workers.setdefault(change.worker_id, telemetry_service_pb2.WorkerReport())
            for field, _ in change.ListFields():
                worker.ClearField(field.name)
            worker.MergeFrom(change)
            worker.ClearField("absent")
            for path in change.absent.paths:
                worker.ClearField(path)
        for worker_id in report.removed_worker_ids:
            del self.workers[worker_id]
        if report.models_changed:
            self.models = list(report.models)
        self.disk = report.disk_free_bytes if report.HasField("disk_free_bytes") else self.disk
        self.ram = report.ram_free_mb if report.HasField("ram_free_mb") else self.ram
        return self

    def state(self):
        return self.workers, self.devices, self.models, self.disk, self.ram


def wire(before, after):
    report = change_to_wire(change_between(before, after), 1, after.time_s)
    return telemetry_service_pb2.HiveReport.FromString(report.SerializeToString())


@given(st.lists(snapshots, min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_full_report_and_the_deltas_after_it_add_up_to_the_current_full_report(history):
    reader, before = Reader(), None
    for after in history:
        reader.read(wire(before, after))
        before = after
    assert reader.state() == Reader().read(wire(None, history[-1])).state()


@given(snapshots)
@settings(max_examples=50, deadline=None)
def test_nothing_changed_says_nothing(snapshot):
    report = wire(snapshot, snapshot)
    report.ClearField("number")
    report.ClearField("sample_time")
    assert report == telemetry_service_pb2.HiveReport()


def test_one_changed_field_of_one_worker_is_all_a_delta_says():
    spec = WorkerSpec("w1", "file:/a", "llamacpp", 4)
    idle = Worker("w1", WorkerState.READY, spec, cpu_pct=0.0, rss_mb=10, vram_mb=5)
    busy = Worker("w1", WorkerState.READY, spec, cpu_pct=99.0, rss_mb=10)
    report = wire(Snapshot(1.0, workers=(idle,)), Snapshot(2.0, workers=(busy,)))
    expected = telemetry_service_pb2.WorkerReport(worker_id="w1", cpu_pct=99.0)
    expected.absent.paths.append("vram_mb")
    assert list(report.workers) == [expected]
    assert not report.full


def test_a_device_that_went_away_makes_the_report_full():
    gpu = Device("gpu0", "n", Backend.CUDA)
    assert wire(Snapshot(1.0, devices=(gpu,)), Snapshot(2.0)).full


def test_an_unknown_value_is_absent_and_zero_is_zero():
    spec = WorkerSpec("w1", "file:/a", "llamacpp", 4)
    report = worker_to_wire(Worker("w1", WorkerState.LOADING, spec, cpu_pct=0.0))
    assert report.HasField("cpu_pct")
    assert not report.HasField("rss_mb")
    assert report.state == worker_pb2.WORKER_STATE_LOADING


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize("event", WorkerEvent)
def test_the_table_is_all_there_is(state, event):
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(errors.WrongState):
            next_state(state, event)


def test_a_process_that_ends_unasked_has_failed_and_one_that_ends_when_asked_has_stopped():
    assert next_state(WorkerState.READY, WorkerEvent.EXITED) is WorkerState.FAILED
    asked = next_state(WorkerState.READY, WorkerEvent.STOP_REQUESTED)
    assert next_state(asked, WorkerEvent.EXITED) is WorkerState.STOPPED
