"""HiveAgentService: checks, converts, calls, converts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from hive import convert
from hive.core.model import WorkerSpec
from hive.models.catalogue import Catalogue
from hive.processes.supervisor import Supervisor
from hive.services.spawn_check import DEFAULT_READY_TIMEOUT_S, ENGINES, FILE_REF, spawn_faults
from hive.telemetry.sampling import Sampler
from rbee.v1 import hive_agent_service_pb2 as messages
from rbee.v1 import hive_agent_service_pb2_grpc, telemetry_service_pb2
from wire import errors, telemetry
from wire.spans import Recorder


class HiveAgentService(hive_agent_service_pb2_grpc.HiveAgentServiceServicer):
    """One machine, as the queen commands it. `on_shutdown` is called when the workers have ended on request."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        catalogue: Catalogue,
        sampler: Sampler,
        hello: Callable[[], Awaitable[telemetry_service_pb2.HiveHello]],
        on_shutdown: Callable[[], None],
        recorder: Recorder,
    ) -> None:
        self._supervisor = supervisor
        self._catalogue = catalogue
        self._sampler = sampler
        self._hello = hello
        self._on_shutdown = on_shutdown
        self._recorder = recorder

    async def GetCapabilities(
        self, request: messages.GetCapabilitiesRequest, context: Any
    ) -> messages.GetCapabilitiesResponse:
        """Tells what the machine is and can do."""
        return messages.GetCapabilitiesResponse(hello=await self._hello(), engines=ENGINES)

    async def SpawnWorker(self, request: messages.SpawnWorkerRequest, context: Any) -> None:
        """Starts a worker, or joins its start, and writes it as it is now and when it is ready."""
        faults = spawn_faults(request, {device.id for device in self._sampler.devices})
        if faults:
            raise errors.invalid(faults, "worker to start")
        spec = convert.spec_from_wire(request.spec)
        ready_timeout_s = _seconds(request.ready_timeout) if request.HasField("ready_timeout") else None
        facts = {"rbee.worker.id": spec.worker_id, "rbee.model.ref": spec.model_ref, "rbee.engine": spec.engine}
        with self._recorder.span(telemetry.SPAN_WORKER_START, facts, kind="server"):
            model_argument = await self._model_argument(spec)
            worker = self._supervisor.start(spec, model_argument, ready_timeout_s or DEFAULT_READY_TIMEOUT_S)
            await context.write(messages.SpawnWorkerResponse(worker=convert.worker_to_wire(worker)))
            worker = self._sampler.with_use(await self._supervisor.ready(spec.worker_id))
            await context.write(messages.SpawnWorkerResponse(worker=convert.worker_to_wire(worker)))

    async def StopWorker(self, request: messages.StopWorkerRequest, context: Any) -> messages.StopWorkerResponse:
        """Stops a worker and answers when its process has ended."""
        ended = await self._supervisor.stop(request.worker_id, _grace(request.grace))
        return messages.StopWorkerResponse(exit=convert.exit_to_wire(ended))

    async def ListWorkers(self, request: messages.ListWorkersRequest, context: Any) -> messages.ListWorkersResponse:
        """Lists the workers as they are now."""
        return messages.ListWorkersResponse(workers=map(convert.worker_to_wire, self._sampler.workers()))

    async def ListModels(self, request: messages.ListModelsRequest, context: Any) -> messages.ListModelsResponse:
        """Lists the model files, after a fresh look at the directories."""
        await self._catalogue.refresh()
        return messages.ListModelsResponse(models=map(convert.model_to_wire, self._catalogue.models))

    async def InspectModel(self, request: messages.InspectModelRequest, context: Any) -> messages.InspectModelResponse:
        """Reads one model file by its absolute path."""
        return messages.InspectModelResponse(model=convert.model_to_wire(await self._catalogue.inspect(request.path)))

    async def AnnounceWorker(
        self, request: messages.AnnounceWorkerRequest, context: Any
    ) -> messages.AnnounceWorkerResponse:
        """Takes a worker's ready callback."""
        if not 1 <= request.port <= 65535:
            raise errors.invalid([errors.FieldFault("port", f"1 to 65535, not {request.port}")])
        worker_id = self._supervisor.announce(
            request.spawn_token,
            request.port,
            request.slots_total,
            request.context_length,
            convert.backend_from_wire(request.backend),
        )
        return messages.AnnounceWorkerResponse(worker_id=worker_id)

    async def Shutdown(self, request: messages.ShutdownRequest, context: Any) -> messages.ShutdownResponse:
        """Stops the workers, answers, and lets the process end."""
        await self._supervisor.stop_all(_grace(request.grace))
        self._on_shutdown()
        return messages.ShutdownResponse()

    async def _model_argument(self, spec: WorkerSpec) -> str:
        """Returns what the worker is told as its model: a path, or the name of a synthetic model.

        Raises `NotFound` MODEL_NOT_FOUND, `WrongState` MODEL_UNUSABLE.
        """
        scheme, _, rest = spec.model_ref.partition(":")
        if scheme != FILE_REF:
            return rest
        model = await self._catalogue.inspect(rest)
        if model.defect:
            raise errors.WrongState(
                f"{rest} cannot be loaded: {model.defect}. Replace the file, then look again with: rbee model list",
                "MODEL_UNUSABLE",
                metadata={"model_ref": spec.model_ref},
            )
        # The first shard, whichever was named: llama.cpp finds the others from it.
        return model.model_ref.removeprefix(f"{FILE_REF}:")


def _seconds(span: Duration) -> float:
    return span.ToNanoseconds() / 1e9


def _grace(span: Duration) -> float:
    return max(0.0, _seconds(span))
