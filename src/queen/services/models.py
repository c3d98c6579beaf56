"""ModelService: models and their files on the machines."""

from __future__ import annotations

from typing import Any

import grpc

from queen.registry.cluster import Cluster
from queen.services import convert, paging
from queen.services.intake import Models
from rbee.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc

pb = model_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Lists models and tells which one a name means."""

    def __init__(self, cluster: Cluster, models: Models) -> None:
        self._cluster = cluster
        self._models = models

    async def List(self, request: pb.ModelServiceListRequest, context: Context) -> pb.ModelServiceListResponse:
        """Lists models by name."""
        models = sorted(
            (f"{next(iter(files.values())).name}\n{model_ref}", model_ref, files)
            for model_ref, files in self._cluster.models.list_models()
            if not request.hive_id or request.hive_id in files
        )
        page, next_token = paging.cut(models, lambda one: one[0], request.page_size, request.page_token)
        return pb.ModelServiceListResponse(
            models=[convert.known_model(model_ref, files, self._cluster) for _, model_ref, files in page],
            next_page_token=next_token,
        )

    async def Resolve(self, request: pb.ModelServiceResolveRequest, context: Context) -> pb.ModelServiceResolveResponse:
        """Tells which model a name means."""
        model_ref = await self._models.resolve(request.model)
        files = dict(self._cluster.models.list_models()).get(model_ref)
        if files is None:
            return pb.ModelServiceResolveResponse(model=model_pb2.Model(model_ref=model_ref, name=model_ref))
        return pb.ModelServiceResolveResponse(model=convert.known_model(model_ref, files, self._cluster))
