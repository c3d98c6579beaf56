"""The calls about tenants for programs without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from client.loop import Loop
from client.tenants import Tenants
from rbee.v1 import tenant_pb2


class SyncTenants:
    """A queen's tenants. Each method is that of `Tenants`, but blocks."""

    def __init__(self, calls: Tenants, loop: Loop) -> None:
        self._calls = calls
        self._loop = loop

    def list(self) -> Iterator[tenant_pb2.Tenant]:
        """Yields the tenants by id."""
        return self._loop.each(self._calls.list())

    def get(self, tenant_id: str) -> tenant_pb2.Tenant:
        """Returns a tenant; raises `NotFound` TENANT_NOT_FOUND with the nearest ids."""
        return self._loop.wait(self._calls.get(tenant_id))

    def create(self, tenant: tenant_pb2.Tenant) -> tenant_pb2.Tenant:
        """Creates a tenant and returns it; raises `AlreadyExists` TENANT_EXISTS."""
        return self._loop.wait(self._calls.create(tenant))

    def change(self, tenant_id: str, change: Callable[[tenant_pb2.Tenant], None]) -> tenant_pb2.Tenant:
        """Returns a tenant after `change` was made to its name, weight and quota."""
        return self._loop.wait(self._calls.change(tenant_id, change))

    def usage(
        self, tenant_id: str, start: datetime | None = None, end: datetime | None = None
    ) -> tenant_pb2.TenantUsage:
        """Returns what a tenant used on the days (UTC) that a span touches; today's without one."""
        return self._loop.wait(self._calls.usage(tenant_id, start, end))
