"""A simulation as one request and one result, both plain values: what goes through a pipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from queen.policy import yaml_compiler
from queen.policy.failure import Source
from queen.scheduler.cycle import WINDOW
from queen.simulation import schedulers
from queen.simulation.cluster_file import ClusterPlan, read_cluster
from queen.simulation.comparison import compare
from queen.simulation.records import Run
from queen.simulation.report import Report, report_on
from queen.simulation.run import JOB_TIMEOUT_S, simulate
from queen.simulation.stage import SchedulerMaker
from queen.simulation.tables import comparison_tables, report_tables
from queen.simulation.traffic import Chance, Traffic, drawn, owned, plain_traffic, read_traffic
from queen.simulation.workload import Request, paced, read_trace
from wire import errors
from wire.errors import FieldFault

SIMPLE: Final = "simple"
"""Language of the scheduler that has no policy."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy of a request. No source: the platform policy.

    `language` is "lua", "yaml", or "simple", the scheduler without a policy; "": Lua or YAML, told from the text.
    """

    name: str = ""
    source: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be simulated. Texts: `cluster_yaml`, and one or both of `trace_csv` and `traffic_yaml`.

    `speed` and `limit` apply to the requests of a trace; 0 as `limit`: all. `horizon_s` 0: to the end. `weights` are by
    tenant, in place of the traffic's.
    """

    cluster_yaml: str
    platform_source: str
    policy: Policy = Policy()
    against: Policy | None = None
    trace_csv: str = ""
    traffic_yaml: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    speed: float = 1.0
    limit: int = 0
    horizon_s: float = 0.0
    timeout_s: float = JOB_TIMEOUT_S
    queue_capacity: int = 0
    window: int = WINDOW


def asked(fields: Mapping[str, Any]) -> Asked:
    """Returns a request from what JSON has of it; raises `Invalid` naming every field that is not right."""
    faults: list[FieldFault] = []
    values = _fields(fields, Asked, "", faults)
    for name in ("policy", "against"):
        if name in values:
            values[name] = _policy(values[name], name, faults)
    needed = ("cluster_yaml", "platform_source")
    faults += [FieldFault(name, "a text; it is missing") for name in needed if not values.get(name)]
    if not values.get("trace_csv") and not values.get("traffic_yaml"):
        faults.append(FieldFault("trace_csv", "a trace, or traffic_yaml; both are missing"))
    for name, least in (("speed", 1e-6), ("limit", 0), ("horizon_s", 0), ("timeout_s", 0.001), ("window", 1)):
        if isinstance(number := values.get(name), int | float) and not least <= number < 1e12:
            faults.append(FieldFault(name, f"at least {least:g}, not {number:g}"))
    if faults:
        raise errors.invalid(faults, "simulation")
    return Asked(**values)


def _policy(given: Any, name: str, faults: list[FieldFault]) -> Policy | None:
    if given is None and name == "against":
        return None
    if not isinstance(given, dict):
        faults.append(FieldFault(name, "an object with name, source and language"))
        return None
    policy = Policy(**_fields(given, Policy, f"{name}.", faults))
    if policy.language not in ("", "lua", "yaml", SIMPLE):
        faults.append(FieldFault(f"{name}.language", f"lua, yaml or simple, not '{policy.language}'"))
    return policy


_TYPES: Final[dict[str, type | tuple[type, ...]]] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def _fields(given: Mapping[str, Any], shape: type, path: str, faults: list[FieldFault]) -> dict[str, Any]:
    """Returns the fields of a shape that are given; notes those that are unknown or of another type."""
    types = {name: field.type for name, field in shape.__dataclass_fields__.items()}  # type: ignore[attr-defined]
    values = {}
    for name, value in given.items():
        kind = _TYPES.get(types.get(name, ""))
        if name not in types:
            faults.append(FieldFault(f"{path}{name}", f"no such field; there are {', '.join(types)}"))
        elif kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            faults.append(FieldFault(f"{path}{name}", f"of type {types[name]}, not {value!r:.40}"))
        else:
            values[name] = value
    return values


def run(
    request: Asked,
    chance: Chance,
    progress: Callable[[int, int], None],
    before_decision: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Returns the result of a request: report, tables, and where asked for the other report and the comparison.

    Raises `Invalid` for texts that cannot be read. `chance` is drawn from with the request's seed; `before_decision` is
    called before each decision of a policy.
    """
    plan = read_cluster(request.cluster_yaml)
    traffic, requests = _workload(request, plan, chance)
    total = len(requests) * (2 if request.against else 1)

    def simulated(policy: Policy, before: int) -> tuple[Run, Report]:
        made = simulate(
            plan,
            requests,
            _scheduler(policy, request.platform_source, before_decision),
            weights=request.weights or {tenant.name: tenant.weight for tenant in traffic.tenants},
            horizon_s=request.horizon_s or None,
            timeout_s=request.timeout_s,
            queue_capacity=request.queue_capacity,
            window=request.window,
            progress=lambda done, _: progress(before + done, total),
        )
        return made, report_on(made)

    ours = simulated(request.policy, 0)
    tables = report_tables(ours[1])
    result: dict[str, Any] = {"report": asdict(ours[1])}
    if request.against:
        theirs = simulated(request.against, len(requests))
        comparison = compare(ours, theirs)
        tables = (*comparison_tables(comparison), *tables)
        result |= {"against": asdict(theirs[1]), "comparison": asdict(comparison)}
    result["tables"] = [asdict(table) for table in tables]
    return result


def rehearse() -> None:
    """Uses everything once, for a process that will not be able to read files afterwards: what is imported late."""
    cluster_yaml = """
        models: [{name: m, file_size: 1MB, speeds: {cpu: {prefill: 1, decode: 1}}}]
        machines: [{name: a, devices: [{kind: cpu, memory: 1GB}], workers: [{model: m}]}]
    """
    plan = read_cluster(cluster_yaml)
    requests = [Request(0.0, 1, 2, model="m")]
    policy = "function schedule(context) return dispatch(context.queue[1], context.workers[1]) end"
    runs = [simulate(plan, requests, maker) for maker in (schedulers.simple, schedulers.lua(policy))]
    ours, theirs = ((made, report_on(made)) for made in runs)
    comparison_tables(compare(ours, theirs))
    yaml_compiler.compile("rules: [{name: r, condition: always, action: {select: workers.first()}}]", "r.yaml")


def _workload(request: Asked, plan: ClusterPlan, chance: Chance) -> tuple[Traffic, list[Request]]:
    models = tuple(plan.models)
    traffic = read_traffic(request.traffic_yaml, models) if request.traffic_yaml else plain_traffic(models)
    requests = owned(read_trace(request.trace_csv), traffic, chance) if request.trace_csv else drawn(traffic, chance)
    if unknown := sorted({one.model for one in requests} - plan.models.keys()):
        has = f"the cluster has only {', '.join(models)}"
        raise errors.invalid([FieldFault("workload", f"names model '{name}', {has}") for name in unknown], "workload")
    return traffic, paced(requests, request.speed * traffic.speed, request.limit or traffic.limit)


def _scheduler(policy: Policy, platform_source: str, before_decision: Callable[[], None]) -> SchedulerMaker:
    if policy.language == SIMPLE:
        return schedulers.simple
    source = _lua(policy) if policy.source else None
    return schedulers.lua(platform_source, source, before_decision)


def _lua(policy: Policy) -> Source:
    """Returns a policy's Lua; raises `Invalid` with what is wrong with its YAML."""
    name = policy.name or "policy"
    if policy.language == "lua" or (not policy.language and not yaml_compiler.is_yaml(policy.source, policy.name)):
        return Source(name, policy.source)
    compiled = yaml_compiler.compile(policy.source, name)
    if not compiled.lua:
        fatal = [problem for problem in compiled.problems if problem.fatal]
        raise errors.invalid([FieldFault(f"{name}:{one.line}", one.message) for one in fatal], "policy")
    return Source(name, compiled.lua)
