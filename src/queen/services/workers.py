"""WorkerService: loaded models."""

from __future__ import annotations

from typing import Any

import grpc

from queen.core.model import Worker
from queen.provision.workers import WorkerStarts
from queen.registry.cluster import Cluster
from queen.services import convert, paging
from queen.services.intake import Models
from rbee.v1 import worker_pb2, worker_service_pb2, worker_service_pb2_grpc
from wire import errors
from wire.clock import Clock

pb = worker_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]

MAX_SLOTS = 256


class WorkerService(worker_service_pb2_grpc.WorkerServiceServicer):
    """Lists, starts and stops workers."""

    def __init__(self, *, cluster: Cluster, starts: WorkerStarts, models: Models, clock: Clock) -> None:
        self._cluster = cluster
        self._starts = starts
        self._models = models
        self._clock = clock

    async def List(self, request: pb.WorkerServiceListRequest, context: Context) -> pb.WorkerServiceListResponse:
        """Lists workers by hive and id."""
        workers = [one for one in self._cluster.list_online_workers() if request.hive_id in ("", one.hive_id)]
        workers.sort(key=_place)
        page, next_token = paging.cut(workers, _place, request.page_size, request.page_token)
        return pb.WorkerServiceListResponse(workers=[self._message(one) for one in page], next_page_token=next_token)

    async def Get(self, request: pb.WorkerServiceGetRequest, context: Context) -> pb.WorkerServiceGetResponse:
        """Tells what is known of a worker."""
        return pb.WorkerServiceGetResponse(worker=self._message(self._find(request.worker_id)))

    async def Spawn(self, request: pb.WorkerServiceSpawnRequest, context: Context) -> pb.WorkerServiceSpawnResponse:
        """Starts a worker and answers when it is ready."""
        faults = []
        if not request.model.strip():
            faults.append(errors.FieldFault("model", "a model is required: rbee model list"))
        if request.slots > MAX_SLOTS:
            faults.append(errors.FieldFault("slots", f"1 to {MAX_SLOTS}, not {request.slots}"))
        if faults:
            raise errors.invalid(faults, "request")
        worker = await self._starts.spawn(
            model_ref=await self._models.resolve(request.model),
            hive_id=request.hive_id,
            engine=request.engine,
            slots=request.slots,
            context_length=request.context_length,
            device_ids=tuple(request.device_ids),
            engine_options=dict(request.engine_options),
        )
        return pb.WorkerServiceSpawnResponse(worker=self._message(worker))

    async def Stop(self, request: pb.WorkerServiceStopRequest, context: Context) -> pb.WorkerServiceStopResponse:
        """Stops a worker when what it runs has ended, or at once; answers when it has ended."""
        await self._starts.stop(self._find(request.worker_id), force=request.force)
        return pb.WorkerServiceStopResponse()

    def _find(self, worker_id: str) -> Worker:
        worker = self._cluster.get_worker(worker_id)
        if worker is None:
            raise errors.NotFound(f"there is no worker {worker_id}; see: rbee worker list", "WORKER_NOT_FOUND")
        return worker

    def _message(self, worker: Worker) -> worker_pb2.Worker:
        return convert.worker(worker, self._cluster, self._clock.now())


def _place(worker: Worker) -> str:
    return f"{worker.hive_id}\n{worker.id}"
