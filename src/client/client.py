"""The asynchronous client of a queen."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, Protocol, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2

from client.answer import CANCEL_TIMEOUT_S, Answer, Call, Stream
from client.job import JobOptions, job_spec
from client.policies import PolicyCalls
from client.tenants import Tenants
from client.traces import Traces
from rbee.v1 import (
    hive_pb2,
    hive_service_pb2,
    hive_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    worker_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from wire import channel, errors, status, telemetry

DEFAULT_ADDRESS: Final = "localhost:7833"
LINGER_S: Final = 0.25
"""How long the queen lets a job go on whose call broke off: enough to come back over a new connection, and little for
the slot of a caller that was killed. Jobs that must outlive their caller are detached."""
ANSWER_TIMEOUT_S: Final = 30.0
"""Longest wait for an answer that needs no process to start or stop."""

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class _Page(Protocol):
    next_page_token: str


Page = TypeVar("Page", bound=_Page)


def connect(address: str = DEFAULT_ADDRESS, *, reattach_s: float = 30.0) -> Client:
    """Returns a client of the queen at "host:port"; use it as `async with`, or close it.

    It connects with the first call. `reattach_s`: seconds an answer tries to get back to a queen that went away.
    Raises `Invalid` for what is no address.
    """
    return Client(address, reattach_s=reattach_s)


class Client:
    """A queen, as her callers see her. Every method raises errors of `wire.errors`, the contract lists which.

    To be used on one event loop. Messages are those of the contract, `rbee.v1`.
    """

    def __init__(self, address: str, *, reattach_s: float) -> None:
        channel.split_address(address)
        self.address = address
        self._reattach_s = reattach_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls in progress are cancelled."""
        await self._channel.close()

    # --- tokens ---

    def infer(
        self,
        *,
        detach: bool = False,
        request_id: str | None = None,
        on_lost: Callable[[str], None] | None = None,
        **job: Unpack[JobOptions],
    ) -> Answer:
        """Returns the answer to a job, to be iterated; nothing is asked before that.

        `detach`: the job goes on after its caller has gone. `request_id`: a second call with the same id re-attaches
        to the first one's job; default: a new one. `on_lost`: told the job's id each time a broken connection is
        about to be mended.
        """
        request = inference_service_pb2.InferRequest(
            request_id=request_id or _request_id(), job=job_spec(job), detach=detach
        )

        request.reattach.FromNanoseconds(round(min(self._reattach_s, LINGER_S) * 1e9))

        def begin(received: Sequence[int]) -> Call:
            request.received_token_ids[:] = received
            return self._inference.Infer(request, metadata=telemetry.inject())

        return Answer(self._stream(begin), outlives_caller=detach, reattach_s=self._reattach_s, on_lost=on_lost)

    def watch(self, job_id: str, after_sequence: int = 0, *, on_lost: Callable[[str], None] | None = None) -> Answer:
        """Returns the answer of a job from after a sequence on; 0: all of it. Leaving it early leaves the job alone."""
        return Answer(
            self._stream(lambda _: self._watch(job_id, after_sequence, ())),
            job_id=job_id,
            after_sequence=after_sequence,
            outlives_caller=True,
            reattach_s=self._reattach_s,
            on_lost=on_lost,
        )

    async def submit(self, *, request_id: str | None = None, **job: Unpack[JobOptions]) -> job_pb2.Job:
        """Returns a job that runs without its caller, once it is on disk; `watch` gives its answer."""
        request = job_service_pb2.JobServiceSubmitRequest(request_id=request_id or _request_id(), job=job_spec(job))
        return (await self._ask(self._jobs.Submit, request)).job

    async def submit_batch(self, jobs: Sequence[tuple[str, JobOptions]]) -> list[str | errors.RbeeError]:
        """Hands in up to 1,000 jobs at once, each with its request id: much cheaper than one by one.

        Returns, in their order, the ids of those that are on disk and why the others were refused.
        """
        requests = [
            job_service_pb2.JobServiceSubmitRequest(request_id=request_id, job=job_spec(job))
            for request_id, job in jobs
        ]
        request = job_service_pb2.JobServiceSubmitBatchRequest(jobs=requests)
        return [_outcome(one) for one in (await self._ask(self._jobs.SubmitBatch, request)).results]

    # --- jobs ---

    async def get_job(self, job_id: str) -> job_pb2.Job:
        """Returns where a job stands."""
        return (await self._ask(self._jobs.Get, job_service_pb2.JobServiceGetRequest(job_id=job_id))).job

    async def list_jobs(
        self,
        *,
        states: Iterable[job_pb2.JobState.ValueType] = (),
        tenant: str = "",
        model: str = "",
        page_size: int = 0,
    ) -> AsyncGenerator[job_pb2.Job, None]:
        """Yields jobs, newest first; the queue in queue order when only queued ones are asked for."""
        request = job_service_pb2.JobServiceListRequest(
            states=states, tenant_id=tenant, model=model, page_size=page_size
        )
        async for page in self._pages(self._jobs.List, request):
            for job in page.jobs:
                yield job

    async def explain(self, job_id: str) -> job_service_pb2.JobServiceExplainResponse:
        """Returns in words why a job ran where and when it did, or why it still waits."""
        return await self._ask(self._jobs.Explain, job_service_pb2.JobServiceExplainRequest(job_id=job_id))

    async def cancel(self, job_id: str) -> job_pb2.Job:
        """Cancels a job and returns it; a job at rest stays as it is."""
        return await self._cancel(job_id)

    async def _cancel(self, job_id: str, *, unless_heard: bool = False) -> job_pb2.Job:
        request = job_service_pb2.JobServiceCancelRequest(
            job_id=job_id, request_id=_request_id(), unless_heard=unless_heard
        )
        return (await self._ask(self._jobs.Cancel, request, CANCEL_TIMEOUT_S)).job

    # --- hives ---

    async def hives(self) -> AsyncGenerator[hive_pb2.Hive, None]:
        """Yields the hives by name."""
        async for page in self._pages(self._hives.List, hive_service_pb2.HiveServiceListRequest()):
            for hive in page.hives:
                yield hive

    async def get_hive(self, hive_id: str) -> hive_pb2.Hive:
        """Returns what is known of a hive."""
        return (await self._ask(self._hives.Get, hive_service_pb2.HiveServiceGetRequest(hive_id=hive_id))).hive

    async def start_hive(self, hive_id: str = "") -> hive_pb2.Hive:
        """Starts a hive, without a name the queen's own machine's, and returns it when it serves."""
        request = hive_service_pb2.HiveServiceStartRequest(request_id=_request_id(), hive_id=hive_id)
        return (await self._ask(self._hives.Start, request, None)).hive

    async def stop_hive(self, hive_id: str) -> hive_pb2.Hive:
        """Stops a hive and its workers and returns it when they have ended."""
        request = hive_service_pb2.HiveServiceStopRequest(request_id=_request_id(), hive_id=hive_id)
        return (await self._ask(self._hives.Stop, request, None)).hive

    # --- workers ---

    async def workers(self, *, hive: str = "") -> AsyncGenerator[worker_pb2.Worker, None]:
        """Yields the workers by hive and id; `hive`: only that hive's."""
        async for page in self._pages(self._workers.List, worker_service_pb2.WorkerServiceListRequest(hive_id=hive)):
            for worker in page.workers:
                yield worker

    async def get_worker(self, worker_id: str) -> worker_pb2.Worker:
        """Returns what is known of a worker."""
        request = worker_service_pb2.WorkerServiceGetRequest(worker_id=worker_id)
        return (await self._ask(self._workers.Get, request)).worker

    async def spawn_worker(
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
        """Starts a worker and returns it when it is ready; empty and 0 mean the contract's defaults."""
        request = worker_service_pb2.WorkerServiceSpawnRequest(
            request_id=_request_id(),
            model=model,
            hive_id=hive,
            engine=engine,
            slots=slots,
            context_length=context_length,
            device_ids=devices,
            engine_options=engine_options or {},
        )
        return (await self._ask(self._workers.Spawn, request, None)).worker

    async def stop_worker(self, worker_id: str, *, force: bool = False) -> None:
        """Stops a worker when what it runs has ended, or at once with `force`; returns when it has ended."""
        request = worker_service_pb2.WorkerServiceStopRequest(
            request_id=_request_id(), worker_id=worker_id, force=force
        )
        await self._ask(self._workers.Stop, request, None)

    # --- models ---

    async def models(self, *, hive: str = "") -> AsyncGenerator[model_pb2.Model, None]:
        """Yields the models by name; `hive`: only those it holds."""
        async for page in self._pages(self._models.List, model_service_pb2.ModelServiceListRequest(hive_id=hive)):
            for model in page.models:
                yield model

    async def resolve_model(self, model: str) -> model_pb2.Model:
        """Returns the model a name means."""
        return (await self._ask(self._models.Resolve, model_service_pb2.ModelServiceResolveRequest(model=model))).model

    # --- policies ---

    @cached_property
    def policies(self) -> PolicyCalls:
        """What can be asked about policies."""
        return PolicyCalls(self._channel, self._ask, self._pages, self._explain)

    # --- traces ---

    @cached_property
    def traces(self) -> Traces:
        """What was done for jobs, step by step."""
        return Traces(self._channel, self._ask, self._pages)

    # --- the queen herself ---

    @cached_property
    def tenants(self) -> Tenants:
        """Who shares her cluster."""
        return Tenants(self._channel, self._ask)

    async def is_serving(self, timeout_s: float = ANSWER_TIMEOUT_S, *, wait_for_ready: bool = False) -> bool:
        """Tells whether the queen takes work; False while she stops. Raises `Unreachable` when nobody answers.

        With `wait_for_ready` it waits for her to come, `timeout_s` seconds, then raises `TimedOut`.
        """
        reply: health_pb2.HealthCheckResponse = await self._ask(
            self._health_check, health_pb2.HealthCheckRequest(), timeout_s, wait_for_ready=wait_for_ready
        )
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    # --- calls ---

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return channel.dial(self.address)

    @cached_property
    def _health_check(self) -> grpc.aio.UnaryUnaryMultiCallable[Any, health_pb2.HealthCheckResponse]:
        return self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )

    @cached_property
    def _inference(self) -> inference_service_pb2_grpc.InferenceServiceAsyncStub:
        return inference_service_pb2_grpc.InferenceServiceStub(self._channel)

    @cached_property
    def _jobs(self) -> job_service_pb2_grpc.JobServiceAsyncStub:
        return job_service_pb2_grpc.JobServiceStub(self._channel)

    @cached_property
    def _hives(self) -> hive_service_pb2_grpc.HiveServiceAsyncStub:
        return hive_service_pb2_grpc.HiveServiceStub(self._channel)

    @cached_property
    def _workers(self) -> worker_service_pb2_grpc.WorkerServiceAsyncStub:
        return worker_service_pb2_grpc.WorkerServiceStub(self._channel)

    @cached_property
    def _models(self) -> model_service_pb2_grpc.ModelServiceAsyncStub:
        return model_service_pb2_grpc.ModelServiceStub(self._channel)

    def _stream(self, begin: Callable[[Sequence[int]], Call]) -> Stream:
        return Stream(begin, self._watch, partial(self._cancel, unless_heard=True), self._explain)

    def _watch(self, job_id: str, after_sequence: int, received: Sequence[int]) -> Call:
        request = job_service_pb2.JobServiceWatchRequest(
            job_id=job_id, after_sequence=after_sequence, received_token_ids=received
        )
        return self._jobs.Watch(request, metadata=telemetry.inject())

    async def _ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Reply],
        request: Request,
        timeout_s: float | None = ANSWER_TIMEOUT_S,
        *,
        wait_for_ready: bool = False,
    ) -> Reply:
        try:
            return await method(request, timeout=timeout_s, metadata=telemetry.inject(), wait_for_ready=wait_for_ready)
        except grpc.aio.AioRpcError as error:
            raise self._explain(error) from error

    async def _pages(
        self, method: grpc.aio.UnaryUnaryMultiCallable[Any, Page], request: Any
    ) -> AsyncGenerator[Page, None]:
        while True:
            page = await self._ask(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _explain(self, error: grpc.aio.AioRpcError) -> errors.RbeeError:
        """Returns what a failed call means; what the network said, rather than the queen, is put in words here."""
        found = status.from_rpc_error(error)
        if found.reason == "UNAVAILABLE" and "HTTP/2" in found.message:
            return errors.Unreachable(
                f"what answers at {self.address} is not a queen; name hers with --queen or RBEE_QUEEN", "NOT_A_QUEEN"
            )
        if found.reason == "UNAVAILABLE":
            return errors.Unreachable(
                f"no queen answers at {self.address}; start one with: rbee up", "QUEEN_UNREACHABLE"
            )
        if found.reason == "UNIMPLEMENTED":
            return errors.Unreachable(
                f"what answers at {self.address} is not a queen of this version; name hers with --queen or RBEE_QUEEN",
                "NOT_A_QUEEN",
            )
        if found.reason == "DEADLINE_EXCEEDED":
            return errors.TimedOut(
                f"the queen at {self.address} took too long to answer; see: rbee status", found.reason
            )
        return found


def _outcome(result: job_service_pb2.JobServiceSubmitBatchResult) -> str | errors.RbeeError:
    if not result.HasField("failure"):
        return result.job_id
    failure = result.failure
    error = status.from_code_number(failure.code, failure.message, failure.reason)
    if result.HasField("retry_delay"):
        error.retry_after_s = result.retry_delay.ToNanoseconds() / 1e9
    return error


def _request_id() -> str:
    return os.urandom(16).hex()
