"""The client for programs without an event loop: the asynchronous one, driven on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Self, Unpack

from client.answer import Answer, Piece
from client.blocking_policies import SyncPolicies
from client.blocking_tenants import SyncTenants
from client.blocking_traces import SyncTraces
from client.client import ANSWER_TIMEOUT_S, DEFAULT_ADDRESS, Client
from client.job import JobOptions
from client.loop import Loop
from client.policies import PolicyCalls
from client.tenants import Tenants
from client.traces import Traces
from rbee.v1 import event_pb2, hive_pb2, job_pb2, job_service_pb2, model_pb2, worker_pb2
from wire import errors


def connect_sync(address: str = DEFAULT_ADDRESS, *, reattach_s: float = 30.0) -> SyncClient:
    """Returns a client of the queen at "host:port" that blocks; use it as `with`. See `connect`."""
    return SyncClient(Client(address, reattach_s=reattach_s))


class SyncAnswer:
    """The answer of one job. Iterate it for `Piece`s, or `events()` for everything that happens. See `Answer`."""

    def __init__(self, answer: Answer, loop: Loop) -> None:
        self._answer = answer
        self._loop = loop

    @property
    def job_id(self) -> str:
        """The job's id; empty until the queen has accepted it."""
        return self._answer.job_id

    @property
    def sequence(self) -> int:
        """Sequence of the last event seen."""
        return self._answer.sequence

    @property
    def done(self) -> event_pb2.Done | None:
        """Usage, timings, seed and finish reason; None until the answer is complete."""
        return self._answer.done

    def __iter__(self) -> Iterator[Piece]:
        """Yields the answer's tokens as they come; raises the error the job ended with."""
        return self._loop.each(self._answer.pieces())

    def events(self) -> Iterator[event_pb2.JobEvent]:
        """Yields everything that happens to the job, in sequence; raises the error the job ended with."""
        return self._loop.each(self._answer.events())

    def text(self) -> str:
        """Returns the whole answer, once it is complete."""
        return self._loop.wait(self._answer.text())


class SyncClient:
    """A queen, as her callers see her. Each method is that of `Client`, but blocks. May be shared by threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = Loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the thread; the client cannot be used after that."""
        self._loop.wait(self._client.close())
        self._loop.stop()

    def infer(
        self,
        *,
        detach: bool = False,
        request_id: str | None = None,
        on_lost: Callable[[str], None] | None = None,
        **job: Unpack[JobOptions],
    ) -> SyncAnswer:
        """Returns the answer to a job, to be iterated."""
        return SyncAnswer(self._client.infer(detach=detach, request_id=request_id, on_lost=on_lost, **job), self._loop)

    def watch(
        self, job_id: str, after_sequence: int = 0, *, on_lost: Callable[[str], None] | None = None
    ) -> SyncAnswer:
        """Returns the answer of a job from after a sequence on."""
        return SyncAnswer(self._client.watch(job_id, after_sequence, on_lost=on_lost), self._loop)

    def submit(self, *, request_id: str | None = None, **job: Unpack[JobOptions]) -> job_pb2.Job:
        """Returns a job that runs without its caller, once it is on disk."""
        return self._loop.wait(self._client.submit(request_id=request_id, **job))

    def submit_batch(self, jobs: Sequence[tuple[str, JobOptions]]) -> list[str | errors.RbeeError]:
        """Hands in up to 1,000 jobs at once; returns their ids, or why they were refused."""
        return self._loop.wait(self._client.submit_batch(jobs))

    def get_job(self, job_id: str) -> job_pb2.Job:
        """Returns where a job stands."""
        return self._loop.wait(self._client.get_job(job_id))

    def list_jobs(
        self,
        *,
        states: Iterable[job_pb2.JobState.ValueType] = (),
        tenant: str = "",
        model: str = "",
        page_size: int = 0,
    ) -> Iterator[job_pb2.Job]:
        """Yields jobs, newest first."""
        return self._loop.each(self._client.list_jobs(states=states, tenant=tenant, model=model, page_size=page_size))

    def explain(self, job_id: str) -> job_service_pb2.JobServiceExplainResponse:
        """Returns in words why a job ran where and when it did, or why it still waits."""
        return self._loop.wait(self._client.explain(job_id))

    def cancel(self, job_id: str) -> job_pb2.Job:
        """Cancels a job and returns it."""
        return self._loop.wait(self._client.cancel(job_id))

    def hives(self) -> Iterator[hive_pb2.Hive]:
        """Yields the hives by name."""
        return self._loop.each(self._client.hives())

    def get_hive(self, hive_id: str) -> hive_pb2.Hive:
        """Returns what is known of a hive."""
        return self._loop.wait(self._client.get_hive(hive_id))

    def start_hive(self, hive_id: str = "") -> hive_pb2.Hive:
        """Starts a hive and returns it when it serves."""
        return self._loop.wait(self._client.start_hive(hive_id))

    def stop_hive(self, hive_id: str) -> hive_pb2.Hive:
        """Stops a hive and its workers and returns it when they have ended."""
        return self._loop.wait(self._client.stop_hive(hive_id))

    def workers(self, *, hive: str = "") -> Iterator[worker_pb2.Worker]:
        """Yields the workers by hive and id."""
        return self._loop.each(self._client.workers(hive=hive))

    def get_worker(self, worker_id: str) -> worker_pb2.Worker:
        """Returns what is known of a worker."""
        return self._loop.wait(self._client.get_worker(worker_id))

    def spawn_worker(
        self,
        model: str,
        *,
        hive: str = "",
        engine: str = "",
        slots: int = 0,
        context_length: int = 0,
        devices: Iterable[str] = (),
        engine_options: Mapping[str, str] | None = None,
    ) -> worker_pb2.Worker:
        """Starts a worker and returns it when it is ready."""
        return self._loop.wait(
            self._client.spawn_worker(
                model,
                hive=hive,
                engine=engine,
                slots=slots,
                context_length=context_length,
                devices=devices,
                engine_options=engine_options,
            )
        )

    def stop_worker(self, worker_id: str, *, force: bool = False) -> None:
        """Stops a worker; returns when it has ended."""
        self._loop.wait(self._client.stop_worker(worker_id, force=force))

    def models(self, *, hive: str = "") -> Iterator[model_pb2.Model]:
        """Yields the models by name."""
        return self._loop.each(self._client.models(hive=hive))

    def resolve_model(self, model: str) -> model_pb2.Model:
        """Returns the model a name means."""
        return self._loop.wait(self._client.resolve_model(model))

    @cached_property
    def policies(self) -> SyncPolicies:
        """What can be asked about policies."""

        async def calls() -> PolicyCalls:  # on the loop: what it calls by is made there
            return self._client.policies

        return SyncPolicies(self._loop.wait(calls()), self._loop)

    @cached_property
    def tenants(self) -> SyncTenants:
        """Who shares her cluster."""

        async def calls() -> Tenants:
            return self._client.tenants

        return SyncTenants(self._loop.wait(calls()), self._loop)

    @cached_property
    def traces(self) -> SyncTraces:
        """What she did lately."""

        async def calls() -> Traces:
            return self._client.traces

        return SyncTraces(self._loop.wait(calls()), self._loop)

    def is_serving(self, timeout_s: float = ANSWER_TIMEOUT_S, *, wait_for_ready: bool = False) -> bool:
        """Tells whether the queen takes work; with `wait_for_ready` it waits for her to come."""
        return self._loop.wait(self._client.is_serving(timeout_s, wait_for_ready=wait_for_ready))
