"""The client for programs without an event loop: the asynchronous one, driven on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar, Unpack

from client.answer import Answer, Piece
from client.client import DEFAULT_ADDRESS, Client
from client.job import JobOptions
from rbee.v1 import event_pb2, hive_pb2, job_pb2, job_service_pb2, model_pb2, trace_pb2, trace_service_pb2, worker_pb2

Item = TypeVar("Item")


def connect_sync(address: str = DEFAULT_ADDRESS, *, reattach_s: float = 30.0) -> SyncClient:
    """Returns a client of the queen at "host:port" that blocks; use it as `with`. See `connect`."""
    return SyncClient(Client(address, reattach_s=reattach_s))


class _Loop:
    """An event loop on a thread of its own; Ctrl+C in the waiting thread cancels what it waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rbee-client", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, Item]) -> Item:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def each(self, items: AsyncGenerator[Item, None]) -> Iterator[Item]:
        end = object()
        # After Ctrl+C the cancelled step may still be on its way out when the closing begins.
        turn = asyncio.Lock()

        async def following() -> Item | object:
            async with turn:
                return await anext(items, end)

        async def close() -> None:
            async with turn:
                await items.aclose()

        try:
            while (item := self.wait(following())) is not end:
                yield item  # type: ignore[misc]  # the one object that is no Item is the end
        finally:
            self.wait(close())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncAnswer:
    """The answer of one job. Iterate it for `Piece`s, or `events()` for everything that happens. See `Answer`."""

    def __init__(self, answer: Answer, loop: _Loop) -> None:
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
        self._loop = _Loop()

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

    def trace(self, job_id: str) -> list[trace_pb2.Span]:
        """Returns what was done for a job in all programs, by when it began."""

        async def ask() -> list[trace_pb2.Span]:  # the connection is made on the loop
            return await self._client.traces.get(job_id)

        return self._loop.wait(ask())

    def slowest_traces(self) -> Iterator[trace_service_pb2.TraceSummary]:
        """Yields jobs at rest whose traces are kept, those first that waited longest for their first token."""

        async def each() -> AsyncGenerator[trace_service_pb2.TraceSummary, None]:
            async for one in self._client.traces.slowest():
                yield one

        return self._loop.each(each())

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

    def is_serving(self) -> bool:
        """Tells whether the queen takes work."""
        return self._loop.wait(self._client.is_serving())
