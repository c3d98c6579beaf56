"""A queen's tenants, as her callers see them."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Any, Protocol

import grpc

from rbee.v1 import tenant_pb2, tenant_service_pb2, tenant_service_pb2_grpc
from wire import errors

pb = tenant_service_pb2


class Asking(Protocol):
    """How a client calls a method; raises errors of `wire.errors`."""

    async def __call__(self, method: grpc.aio.UnaryUnaryMultiCallable[Any, Any], request: Any) -> Any:
        """Returns the answer."""
        ...


class Tenants:
    """Creates, changes and lists tenants, and tells what they used. Got by `Client.tenants`."""

    def __init__(self, channel: grpc.aio.Channel, ask: Asking) -> None:
        self._stub: tenant_service_pb2_grpc.TenantServiceAsyncStub = tenant_service_pb2_grpc.TenantServiceStub(channel)
        self._ask = ask

    async def list(self) -> AsyncGenerator[tenant_pb2.Tenant, None]:
        """Yields the tenants by id."""
        request = pb.TenantServiceListRequest()
        while True:
            page: pb.TenantServiceListResponse = await self._ask(self._stub.List, request)
            for tenant in page.tenants:
                yield tenant
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get(self, tenant_id: str) -> tenant_pb2.Tenant:
        """Returns a tenant; raises `NotFound` TENANT_NOT_FOUND with the nearest ids."""
        async for tenant in self.list():
            if tenant.id == tenant_id:
                return tenant
        await self.usage(tenant_id)  # the queen says that it is not there, and which ids are like it
        raise errors.NotFound(f"there is no tenant {tenant_id}; see: rbee tenant list", "TENANT_NOT_FOUND")

    async def create(self, tenant: tenant_pb2.Tenant) -> tenant_pb2.Tenant:
        """Creates a tenant and returns it; raises `AlreadyExists` TENANT_EXISTS."""
        request = pb.TenantServiceCreateRequest(request_id=os.urandom(16).hex(), tenant=tenant)
        created: pb.TenantServiceCreateResponse = await self._ask(self._stub.Create, request)
        return created.tenant

    async def change(self, tenant_id: str, change: Callable[[tenant_pb2.Tenant], None]) -> tenant_pb2.Tenant:
        """Returns a tenant after `change` was made to its name, weight and quota."""
        tenant = await self.get(tenant_id)
        change(tenant)
        request = pb.TenantServiceUpdateRequest(request_id=os.urandom(16).hex(), tenant=tenant)
        changed: pb.TenantServiceUpdateResponse = await self._ask(self._stub.Update, request)
        return changed.tenant

    async def usage(
        self, tenant_id: str, start: datetime | None = None, end: datetime | None = None
    ) -> tenant_pb2.TenantUsage:
        """Returns what a tenant used on the days (UTC) that a span touches; today's without one."""
        request = pb.TenantServiceGetUsageRequest(tenant_id=tenant_id)
        if start is not None:
            request.start_time.FromDatetime(start)
        if end is not None:
            request.end_time.FromDatetime(end)
        found: pb.TenantServiceGetUsageResponse = await self._ask(self._stub.GetUsage, request)
        return found.usage
