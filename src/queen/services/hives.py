"""HiveService: machines."""

from __future__ import annotations

from typing import Any

import grpc

from queen.core.model import Hive
from queen.provision.hives import LocalHives
from queen.registry.cluster import Cluster
from queen.services import convert, paging
from rbee.v1 import hive_pb2, hive_service_pb2, hive_service_pb2_grpc
from wire import errors

pb = hive_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]


class HiveService(hive_service_pb2_grpc.HiveServiceServicer):
    """Lists, starts and stops hives. Machines reached over SSH come with their own rpcs later."""

    def __init__(self, cluster: Cluster, hives: LocalHives) -> None:
        self._cluster = cluster
        self._hives = hives

    async def Get(self, request: pb.HiveServiceGetRequest, context: Context) -> pb.HiveServiceGetResponse:
        """Tells what is known of a hive."""
        hive = self._cluster.get_hive(request.hive_id)
        if hive is None:
            raise errors.NotFound(f"there is no hive {request.hive_id}; see: rbee hive list", "HIVE_NOT_FOUND")
        return pb.HiveServiceGetResponse(hive=self._message(hive))

    async def List(self, request: pb.HiveServiceListRequest, context: Context) -> pb.HiveServiceListResponse:
        """Lists hives by name."""
        page, next_token = paging.cut(
            self._cluster.list_hives(), lambda hive: hive.id, request.page_size, request.page_token
        )
        return pb.HiveServiceListResponse(hives=[self._message(hive) for hive in page], next_page_token=next_token)

    async def Start(self, request: pb.HiveServiceStartRequest, context: Context) -> pb.HiveServiceStartResponse:
        """Starts a hive and answers when it reports."""
        return pb.HiveServiceStartResponse(hive=self._message(await self._hives.start(request.hive_id)))

    async def Stop(self, request: pb.HiveServiceStopRequest, context: Context) -> pb.HiveServiceStopResponse:
        """Stops a hive and its workers and answers when they have ended."""
        return pb.HiveServiceStopResponse(hive=self._message(await self._hives.stop(request.hive_id)))

    def _message(self, hive: Hive) -> hive_pb2.Hive:
        return convert.hive(hive, self._cluster.claims_mb(hive.id))
