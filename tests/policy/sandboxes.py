"""Sandboxes for tests: real processes with the real platform policy, ended with the test."""

import asyncio
from contextlib import asynccontextmanager

from queen.policy import platform
from queen.policy.rows import Rows
from queen.policy.sandbox.host import PolicyHost
from queen.scheduler.policy import PolicyScheduler


@asynccontextmanager
async def hosting(record=None, platform_source=None):
    """Yields a host that is ready."""
    async with asyncio.TaskGroup() as group:
        host = PolicyHost(platform=platform_source or platform.source(), rows=Rows(), group=group, record=record)
        await host.start()
        try:
            yield host
        finally:
            await host.close()
            if record is not None:
                record.close()


@asynccontextmanager
async def scheduling(record=None):
    """Yields a policy scheduler over a sandbox, and its host."""
    async with hosting(record) as host:
        yield PolicyScheduler(host, lambda hive: f"{hive}-new"), host
