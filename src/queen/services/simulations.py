"""Simulations: each in a process of its own, below the queen's priority, gone when its caller is."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Final

import grpc

from queen.core.model import Job, JobState
from queen.core.ports import Store
from queen.policy import check, platform
from queen.policy.versions import Policies
from queen.registry.cluster import Cluster
from queen.registry.tenants import TenantTable
from queen.services.turns import Turns
from queen.simulation.workload import Request, recorded, write_trace
from rbee.v1 import policy_pb2, policy_service_pb2
from wire import errors
from wire.clock import Clock
from wire.errors import FieldFault

pb = policy_service_pb2
Context = grpc.aio.ServicerContext[Any, Any]

AT_ONCE: Final = 2
"""Each takes a processor and some gigabytes at worst."""
MOST_WAITING: Final = 16
RETRY_S: Final = 10.0
MOST_RECORDED: Final = 20_000
"""Jobs of the queen's own that are simulated, the newest: a longer past says little more, and is read for seconds."""
_PAGE: Final = 200
"""Jobs read in one go, some milliseconds."""
_LINE_BYTES: Final = 64 * 2**20

_LANGUAGES: Final = {policy_pb2.POLICY_LANGUAGE_LUA: check.LUA, policy_pb2.POLICY_LANGUAGE_YAML: check.YAML}
SIMPLE: Final = "simple"


class Past:
    """The jobs a queen has served, as a workload."""

    def __init__(self, store: Store, cluster: Cluster, tenants: TenantTable, clock: Clock) -> None:
        self._store = store
        self._cluster = cluster
        self._tenants = tenants
        self._clock = clock

    async def requests(self, within_s: float) -> list[Request]:
        """Returns what was asked within so many seconds before now, 0 for as long as jobs are kept; by arrival.

        At most the `MOST_RECORDED` newest that have completed. Raises `WrongState` NOTHING_RECORDED.
        """
        since = self._clock.now() - within_s if within_s else 0.0
        await self._store.flush()
        jobs: list[Job] = []
        while len(jobs) < MOST_RECORDED:
            page = await self._store.list_jobs(
                states=[JobState.COMPLETE],
                tenant_id="",
                model="",
                before_order=jobs[-1].order if jobs else None,
                limit=_PAGE,
            )
            jobs += (job for job in page if job.submit_time >= since)
            if len(page) < _PAGE or page[-1].submit_time < since:
                break
        if not (requests := recorded(replace(job, model=self._name_of(job)) for job in jobs)):
            raise errors.WrongState(
                "no job that completed in that time is kept; give a longer one, a trace, or traffic to draw one from",
                "NOTHING_RECORDED",
            )
        return requests

    def weights(self) -> dict[str, float]:
        """Returns the tenants' weights as they are now."""
        return {tenant.id: tenant.weight for tenant in self._tenants.list()}

    def _name_of(self, job: Job) -> str:
        """Returns the name its model has in the queen's list, by which a cluster file names it too."""
        name = self._cluster.models.name_of(job.model_ref)
        return job.model if name == job.model_ref else name


class Simulations:
    """Runs simulations for callers, so many at once, the others in turn. `past` has the jobs the queen has served."""

    def __init__(self, policies: Policies, past: Past) -> None:
        self._policies = policies
        self._past = past
        self._turns = Turns(
            "simulations", "SIMULATIONS_RUNNING", at_once=AT_ONCE, most_waiting=MOST_WAITING, retry_s=RETRY_S
        )

    async def run(self, request: pb.PolicyServiceSimulateRequest, context: Context) -> None:
        """Writes progress and the report of a simulation to its caller; ends it when the caller goes."""
        asked = await self._asked(request)
        if request.plot and find_spec("matplotlib") is None:
            raise errors.WrongState(
                "a picture needs matplotlib, which is not installed where the queen runs: pip install 'rbee[plot]'",
                "PLOT_MISSING",
            )
        async with self._turns.turn():
            result = await _simulated(asked, context)
            answer = pb.PolicyServiceSimulateResponse(report_json=json.dumps(result))
            if request.plot:
                answer.plot_png = await _picture(result["report"])
            await context.write(answer)

    async def _asked(self, request: pb.PolicyServiceSimulateRequest) -> dict[str, Any]:
        faults = check.size_faults(source=request.source, against_source=request.against_source)
        for field, language in (("language", request.language), ("against_language", request.against_language)):
            if language and language not in _LANGUAGES:
                faults.append(FieldFault(field, f"lua, yaml or unspecified, not {language}"))
        if not request.cluster_yaml:
            faults.append(FieldFault("cluster_yaml", "a cluster; see policies/clusters/README.md"))
        if request.trace_csv and request.HasField("recorded"):
            faults.append(FieldFault("recorded", "absent where there is a trace"))
        if not request.trace_csv and not request.traffic_yaml and not request.HasField("recorded"):
            faults.append(FieldFault("trace_csv", "a trace, traffic_yaml that draws one, or recorded jobs"))
        if faults:
            raise errors.invalid(faults)
        asked = {
            "cluster_yaml": request.cluster_yaml,
            "platform_source": platform.source(),
            "policy": await self._contestant(request.source, request.file_name, request.language),
            "trace_csv": request.trace_csv,
            "traffic_yaml": request.traffic_yaml,
            "seed": request.seed,
            "speed": request.speed or 1.0,
            "limit": request.limit,
            "horizon_s": request.horizon.ToNanoseconds() / 1e9,
        }
        if request.HasField("recorded"):
            requests = await self._past.requests(request.recorded.ToNanoseconds() / 1e9)
            asked |= {"trace_csv": await asyncio.to_thread(write_trace, requests), "weights": self._past.weights()}
        if request.against_source or request.against_name:
            other = await self._contestant(request.against_source, request.against_name, request.against_language)
            asked["against"] = other
        return asked

    async def _contestant(
        self, source: str, name: str, language: policy_pb2.PolicyLanguage.ValueType
    ) -> dict[str, str]:
        """Returns one of the policies as the simulation takes it."""
        if source:
            return {"name": name, "source": source, "language": _LANGUAGES.get(language, "")}
        if name == SIMPLE:
            return {"language": SIMPLE}
        if name in ("", "platform"):
            return {}
        saved = await self._policies.get(*name.partition("@")[::2])
        return {"name": f"{saved.name} {saved.version}", "source": saved.compiled_lua, "language": check.LUA}


async def _simulated(asked: dict[str, Any], context: Context) -> dict[str, Any]:
    """Returns the result of a simulation; tells its caller of the progress."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "queen.simulation"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    told = -1
    try:
        child.stdin.write(json.dumps(asked).encode() + b"\n")
        await child.stdin.drain()
        async for line in child.stdout:
            message = json.loads(line)
            if "requests_total" in message:
                percent = 100 * message["requests_done"] // max(1, message["requests_total"])
                if percent != told:
                    told = percent
                    await context.write(pb.PolicyServiceSimulateResponse(**message))
            elif "error" in message:
                raise _error(message["error"])
            else:
                return dict(message["result"])
        raise errors.Invalid(
            f"the simulation ended without a result (status {await child.wait()}): most likely a decision of the "
            "policy took more processor time or memory than a simulation has; see: rbee policy validate FILE",
            "POLICY_HANGS",
        )
    except ConnectionError as error:
        raise errors.Internal(f"the simulation's process ended before it was asked: {error}") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _picture(report: dict[str, Any]) -> bytes:
    """Returns a report as PNG, drawn by a process that has run no policy."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "queen.simulation.plot"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        drawn, _ = await child.communicate(json.dumps(report).encode())
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise errors.Internal(f"the picture could not be drawn (status {child.returncode}); see the queen's log")
    return drawn


def _error(told: dict[str, Any]) -> errors.RbeeError:
    kind: type[errors.RbeeError] = getattr(errors, told["kind"], errors.Internal)
    faults = [FieldFault(**fault) for fault in told["faults"]]
    return kind(told["message"], told["reason"], faults=faults)
