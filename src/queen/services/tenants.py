"""TenantService: who shares the cluster, what each may have and what it used. Keys have their time later."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from queen.core.ports import Store
from queen.core.tenants import DAY_S, Quota, Tenant, TenantUsage, day_of, faults
from queen.registry.tenants import TenantTable
from queen.services import paging
from rbee.v1 import tenant_pb2, tenant_service_pb2, tenant_service_pb2_grpc
from wire import errors
from wire.clock import Clock

pb = tenant_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]

METADATA_KEY: Final = "x-rbee-tenant"
"""Where a call names its tenant when the job itself does not."""


def named_by(context: Context) -> str:
    """Returns the tenant a call's metadata names; "" when it names none."""
    found = next((value for key, value in context.invocation_metadata() or () if key == METADATA_KEY), "")
    return found.decode(errors="replace") if isinstance(found, bytes) else found


class TenantService(tenant_service_pb2_grpc.TenantServiceServicer):
    """Creates, changes and lists tenants, and tells what they used."""

    def __init__(self, tenants: TenantTable, store: Store, clock: Clock) -> None:
        self._tenants = tenants
        self._store = store
        self._clock = clock

    async def Create(self, request: pb.TenantServiceCreateRequest, context: Context) -> pb.TenantServiceCreateResponse:
        """Creates a tenant."""
        tenant = _tenant(request.tenant)
        before = self._tenants.find(tenant.id)
        if before is None:
            before = replace(tenant, create_time=self._clock.now(), request_id=request.request_id)
            await self._keep(before)
        elif not request.request_id or before.request_id != request.request_id:
            raise errors.AlreadyExists(
                f"there is a tenant {tenant.id} already; choose another id, or: rbee tenant set {tenant.id}",
                "TENANT_EXISTS",
            )
        return pb.TenantServiceCreateResponse(tenant=_message(before))

    async def Update(self, request: pb.TenantServiceUpdateRequest, context: Context) -> pb.TenantServiceUpdateResponse:
        """Replaces a tenant's name, weight and quota."""
        before = self._tenants.get(request.tenant.id)
        tenant = replace(_tenant(request.tenant), create_time=before.create_time, request_id=before.request_id)
        await self._keep(tenant)
        return pb.TenantServiceUpdateResponse(tenant=_message(tenant))

    async def List(self, request: pb.TenantServiceListRequest, context: Context) -> pb.TenantServiceListResponse:
        """Lists tenants by id."""
        tenants = self._tenants.list()
        page, next_token = paging.cut(tenants, lambda one: one.id, request.page_size, request.page_token)
        return pb.TenantServiceListResponse(tenants=[_message(one) for one in page], next_page_token=next_token)

    async def GetUsage(
        self, request: pb.TenantServiceGetUsageRequest, context: Context
    ) -> pb.TenantServiceGetUsageResponse:
        """Tells what a tenant used on the days (UTC) that a span of time touches."""
        tenant, now = self._tenants.get(request.tenant_id), self._clock.now()
        end = _seconds(request.end_time) if request.HasField("end_time") else now
        first = day_of(_seconds(request.start_time)) if request.HasField("start_time") else day_of(now)
        last = max(first, day_of(end))
        await self._store.flush()  # what has ended a moment ago is counted
        found = await self._store.usage_of(first, last)
        used = found.get(tenant.id, TenantUsage())
        usage = tenant_pb2.TenantUsage(
            tenant_id=tenant.id,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            jobs=used.jobs,
        )
        usage.start_time.FromSeconds(first * DAY_S)
        usage.end_time.FromNanoseconds(int(min((last + 1) * DAY_S, max(now, first * DAY_S)) * 1e9))
        return pb.TenantServiceGetUsageResponse(usage=usage)

    async def _keep(self, tenant: Tenant) -> None:
        if found := faults(tenant):
            raise errors.invalid(found, "tenant")
        self._store.check_writable()
        self._tenants.put(tenant)
        await self._store.flush()


def _tenant(message: tenant_pb2.Tenant) -> Tenant:
    quota = message.quota
    return Tenant(
        message.id,
        message.display_name,
        message.weight or 1.0,
        Quota(
            quota.max_concurrent_jobs if quota.HasField("max_concurrent_jobs") else None,
            quota.max_tokens_daily if quota.HasField("max_tokens_daily") else None,
            quota.max_vram_mb if quota.HasField("max_vram_mb") else None,
            tuple(quota.allowed_models),
        ),
    )


def _message(tenant: Tenant) -> tenant_pb2.Tenant:
    quota = tenant.quota
    message = tenant_pb2.Tenant(
        id=tenant.id,
        display_name=tenant.name,
        weight=tenant.weight,
        quota=tenant_pb2.Quota(
            max_concurrent_jobs=quota.max_concurrent_jobs,
            max_tokens_daily=quota.max_tokens_daily,
            max_vram_mb=quota.max_vram_mb,
            allowed_models=quota.allowed_models,
        ),
    )
    if tenant.create_time:
        message.create_time.FromNanoseconds(int(tenant.create_time * 1e9))
    return message


def _seconds(moment: Timestamp) -> float:
    return moment.ToNanoseconds() / 1e9
