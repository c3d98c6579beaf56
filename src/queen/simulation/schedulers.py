"""The schedulers a simulation can be run with."""

from __future__ import annotations

from queen.core.ports import JobScheduler
from queen.policy.inprocess import ProgramScheduler
from queen.policy.language import Program
from queen.scheduler.simple import SimpleScheduler
from queen.simulation.rows import StageRows
from queen.simulation.stage import SchedulerMaker, Stage
from wire import errors
from wire.errors import FieldFault


def simple(stage: Stage) -> JobScheduler:
    """Makes the scheduler without a policy."""
    return SimpleScheduler(stage.new_id)


def lua(source: str, platform_source: str, *, name: str = "policy.lua", seed: int = 0) -> SchedulerMaker:
    """Returns what makes a scheduler that runs a Lua policy. "" as source is the platform policy itself.

    Raises `Invalid` when the policy does not load.
    """

    def make(stage: Stage) -> JobScheduler:
        program = Program(explains=False)
        faults = [program.load_platform(platform_source), program.load(source, name) if source else None]
        if bad := [FieldFault("source", fault.message) for fault in faults if fault is not None]:
            raise errors.invalid(bad, "policy")
        return ProgramScheduler(
            program,
            name=name if source else "platform",
            version="",
            changes=StageRows(stage),
            new_id=stage.new_id,
            seed=seed,
        )

    return make
