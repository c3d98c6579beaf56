"""Who decides in a queen: the scheduler, the sandbox it runs policies in, and the policies that are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from queen.config import Settings
from queen.policy import platform
from queen.policy.failure import PolicyFailed, Source
from queen.policy.files import PolicyFiles
from queen.policy.rows import Rows
from queen.policy.sandbox.host import PolicyHost
from queen.policy.sandbox.record import FlightRecord
from queen.policy.versions import MODE_PLATFORM, Policies
from queen.registry.tenants import TenantTable
from queen.scheduler.policy import PolicyScheduler
from queen.scheduler.simple import SimpleScheduler
from queen.storage.store import SqlStore
from wire.clock import Clock

log = logging.getLogger(__name__)


class Deciders:
    """The scheduler of a queen and what belongs to it. `given`: the policy that --policy names, checked.

    `policy` is None where she runs without policies, `files` where no files are read.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        given: Source | None,
        store: SqlStore,
        tenants: TenantTable,
        clock: Clock,
        new_id: Callable[[str], str],
        group: asyncio.TaskGroup,
    ) -> None:
        self._given = given
        self._sandbox: PolicyHost | None = None
        self._record: FlightRecord | None = None
        self.policy: PolicyScheduler | None = None
        if settings.scheduler == "simple":
            self.scheduler: SimpleScheduler | PolicyScheduler = SimpleScheduler(new_id, tenants)
        else:
            self._record = FlightRecord(Path(settings.policy_record)) if settings.policy_record else None
            rows = Rows()
            rows.put("config", "", dict(settings.policy_config))
            self._sandbox = PolicyHost(platform=platform.source(), rows=rows, group=group, record=self._record)
            self.scheduler = self.policy = PolicyScheduler(
                self._sandbox, new_id, tenants=tenants, on_suspended=self._suspended
            )
        self.policies = Policies(store=store, scheduler=self.policy, clock=clock, mode=settings.mode)
        self.files = None if settings.mode == MODE_PLATFORM else PolicyFiles(settings.policy_folder, self.policies)

    def protections(self) -> Sequence[str]:
        """Returns what the sandbox says holds of it."""
        return () if self._sandbox is None else self._sandbox.protections

    async def start(self) -> None:
        """Starts the sandbox and loads the policy it is to run; one that cannot be leaves the platform policy."""
        if self._sandbox is not None and self.policy is not None:
            try:
                await self._sandbox.start()
                await self.policy.activate(None)
            except PolicyFailed as failure:
                log.error("jobs wait until a policy sandbox can be started: %s", failure)
            else:
                log.info("policies run in a sandbox: %s", ", ".join(self._sandbox.protections))
        await self.policies.resume()
        if self._given is None or self.policy is None:
            return
        try:
            await self.policy.activate(self._given)
        except PolicyFailed as error:
            log.error("policy %s cannot be used, the platform policy decides: %s", self._given.name, error)

    async def close(self) -> None:
        """Ends the sandbox; nothing is decided any more."""
        if self._sandbox is not None:
            await self._sandbox.close()
        if self._record is not None:
            await asyncio.to_thread(self._record.close)

    def _suspended(self, name: str, version: str, why: str) -> None:
        self.policies.suspended(name, version, why)
