"""Who asks for what and how often: a traffic file gives the requests of a trace their owners, or draws requests.

Everything drawn comes from the random source that is passed in: the same seed gives the same requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from queen.core.model import Priority
from queen.simulation.documents import Document, Section
from queen.simulation.workload import DEFAULT_MAX_TOKENS, Request
from wire import errors

MAX_REQUESTS: Final = 5_000_000


class Chance(Protocol):
    """A random source; `random.Random` is one."""

    def random(self) -> float:
        """Returns a number from 0 up to but not 1."""
        ...

    def expovariate(self, lambd: float) -> float:
        """Returns the time to the next of events that come at a rate."""
        ...

    def lognormvariate(self, mu: float, sigma: float) -> float:
        """Returns a number whose logarithm is normally distributed."""
        ...


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal distribution of token counts: half lie below the median."""

    median: float
    sigma: float
    most: int


PROMPT: Final = Lengths(1020, 1.0, 8000)
GENERATED: Final = Lengths(130, 1.0, 1000)
"""Lengths where the file says nothing: medians as in the conversations of the Azure trace of 2023."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Poisson arrivals: `rate` a second for `duration_s`, and `burst_factor` times that during bursts."""

    rate: float
    duration_s: float
    burst_every_s: float
    burst_length_s: float
    burst_factor: float

    def rate_at(self, time_s: float) -> float:
        """Returns the rate so many seconds after the beginning; each period ends with its burst."""
        bursts = self.burst_every_s > 0 and time_s % self.burst_every_s >= self.burst_every_s - self.burst_length_s
        return self.rate * (self.burst_factor if bursts else 1.0)


@dataclass(frozen=True, slots=True)
class TenantPlan:
    """A tenant: its weight in fair shares, its share of the requests, what it asks for. No models: the traffic's."""

    name: str
    weight: float = 1.0
    share: float = 1.0
    batch: float = 0.0
    models: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """Everything a traffic file says. `models` by share; `arrivals` None: they come from a trace."""

    models: Mapping[str, float]
    tenants: tuple[TenantPlan, ...]
    session_share: float = 0.0
    session_turns: int = 1
    speed: float = 1.0
    limit: int | None = None
    arrivals: Arrivals | None = None
    prompt: Lengths = PROMPT
    generated: Lengths = GENERATED


def plain_traffic(models: Sequence[str]) -> Traffic:
    """Returns traffic of one tenant that asks for all models alike."""
    return Traffic(dict.fromkeys(models, 1.0), (TenantPlan(""),))


def read_traffic(source: str, models: Sequence[str]) -> Traffic:
    """Returns the traffic a YAML text describes; raises `Invalid` naming every fault with its line."""
    document = Document(source, "traffic file")
    shares = _shares(document, models) or dict.fromkeys(models, 1.0)
    batch = document.number("batch", 0.0, most=1.0)
    tenants = tuple(_tenant(section, models, batch) for section in document.sections("tenants"))
    names = [tenant.name for tenant in tenants]
    if len(set(names)) < len(names):
        document.fault("tenants with different names", "tenants")
    traffic = Traffic(
        models=shares,
        tenants=tenants or (TenantPlan("", batch=batch),),
        speed=document.number("speed", 1.0, least=1e-6, most=1e6),
        limit=document.whole("limit", least=1) if document.has("limit") else None,
        prompt=_lengths(document, "prompt_tokens", PROMPT),
        generated=_lengths(document, "generated_tokens", GENERATED),
    )
    if sessions := document.section("sessions"):
        share, turns = sessions.number("share", 0.5, most=1.0), sessions.whole("turns", 4, least=1)
        traffic = replace(traffic, session_share=share, session_turns=turns)
        sessions.close()
    if arrivals := document.section("arrivals"):
        traffic = replace(traffic, arrivals=_arrivals(arrivals))
    document.close()
    document.finish()
    return traffic


def _shares(section: Section, known: Sequence[str]) -> dict[str, float]:
    below = section.section("models")
    if below is None:
        return {}
    shares = {name: below.number(name) for name in below.names()}
    for name in shares:
        if name not in known:
            below.unknown(name, name, tuple(known), "model")
    if not any(shares.values()):
        below.fault("a share above 0")
    return shares


def _tenant(section: Section, models: Sequence[str], batch: float) -> TenantPlan:
    tenant = TenantPlan(
        name=section.text("name"),
        weight=section.number("weight", 1.0, least=0.001),
        share=section.number("share", 1.0, least=0.001),
        batch=section.number("batch", batch, most=1.0),
        models=_shares(section, models) or None,
    )
    section.close()
    return tenant


def _lengths(document: Document, name: str, default: Lengths) -> Lengths:
    section = document.section(name)
    if section is None:
        return default
    lengths = Lengths(
        section.number("median", default.median, least=1),
        section.number("sigma", default.sigma, most=5),
        section.whole("most", default.most, least=1, most=1_000_000),
    )
    section.close()
    return lengths


def _arrivals(section: Section) -> Arrivals:
    bursts = section.section("bursts")
    every_s = length_s = 0.0
    factor = 1.0
    if bursts is not None:
        every_s, length_s = bursts.span_s("every", least=0.001), bursts.span_s("length", least=0.001)
        factor = bursts.number("factor", 10.0, most=1e6)
        if length_s > every_s:
            bursts.fault("a burst shorter than the time between bursts", "length")
        bursts.close()
    arrivals = Arrivals(
        section.number("rate", least=1e-6), section.span_s("duration", least=0.001), every_s, length_s, factor
    )
    if arrivals.rate * arrivals.duration_s * max(1.0, factor) > MAX_REQUESTS:
        section.fault(f"fewer than {MAX_REQUESTS:,} requests in all", "duration")
    section.close()
    return arrivals


def drawn(traffic: Traffic, chance: Chance) -> list[Request]:
    """Returns requests as the traffic describes them, from second 0 on; raises `Invalid` when it has no arrivals."""
    if traffic.arrivals is None:
        raise errors.Invalid("a traffic file without 'arrivals' needs a trace beside it", "NO_ARRIVALS")
    requests = [
        Request(
            arrival=time_s,
            prompt_tokens=_length(traffic.prompt, chance),
            generated_tokens=(generated := _length(traffic.generated, chance)),
            max_tokens=max(DEFAULT_MAX_TOKENS, generated),
        )
        for time_s in _times(traffic.arrivals, chance)
    ]
    return owned(requests, traffic, chance, growing=True)


def _times(arrivals: Arrivals, chance: Chance) -> Iterator[float]:
    """Yields arrival times by thinning: as often as in bursts, each kept with the rate's share of that."""
    most = arrivals.rate * max(1.0, arrivals.burst_factor)
    time_s = chance.expovariate(most)
    while time_s < arrivals.duration_s:
        if chance.random() * most < arrivals.rate_at(time_s):
            yield time_s
        time_s += chance.expovariate(most)


def _length(lengths: Lengths, chance: Chance) -> int:
    drawn_length = chance.lognormvariate(math.log(lengths.median), lengths.sigma)
    return min(lengths.most, max(1, round(drawn_length)))


def owned(requests: Sequence[Request], traffic: Traffic, chance: Chance, *, growing: bool = False) -> list[Request]:
    """Returns requests with tenant, model, priority and session where they have none yet.

    `growing`: a turn's prompt has all that was said before in its session. A trace has its prompts as they were.
    """
    tenants = {tenant.name: tenant for tenant in traffic.tenants}
    shares = {tenant.name: tenant.share for tenant in traffic.tenants}
    sessions = _Sessions(traffic, growing)
    result = []
    for one in requests:
        tenant = tenants.get(one.tenant_id) if one.tenant_id else tenants[_pick(shares, chance)]
        name = one.tenant_id or (tenant.name if tenant else "")
        models = tenant.models if tenant and tenant.models else traffic.models
        batch = chance.random() < (tenant.batch if tenant else 0.0)
        request = replace(
            one,
            tenant_id=name,
            model=one.model or _pick(models, chance),
            priority=one.priority or (Priority.BATCH if batch else Priority.INTERACTIVE),
        )
        result.append(request if one.session_id else sessions.placed(request, chance))
    return result


def _pick(shares: Mapping[str, float], chance: Chance) -> str:
    left = chance.random() * sum(shares.values())
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return list(shares)[-1]  # the sum was rounded


@dataclass(slots=True)
class _Session:
    id: str
    turns: int = 0
    tokens: int = 0


class _Sessions:
    """The open conversations of each tenant and model."""

    def __init__(self, traffic: Traffic, growing: bool) -> None:
        self._traffic = traffic
        self._growing = growing
        self._open: dict[tuple[str, str], list[_Session]] = {}
        self._count = 0

    def placed(self, request: Request, chance: Chance) -> Request:
        """Returns a request as a turn of an open session, of a new one, or of none."""
        if chance.random() >= self._traffic.session_share:
            return request
        running = self._open.setdefault((request.tenant_id, request.model), [])
        # A new one as often as a session ends, so that about as many stay open.
        if not running or chance.random() * self._traffic.session_turns < 1:
            self._count += 1
            running.append(_Session(f"session-{self._count}"))
        index = int(chance.random() * len(running))
        session = running[index]
        prompt = request.prompt_tokens + (session.tokens if self._growing else 0)
        session.tokens = prompt + request.generated_tokens
        session.turns += 1
        if session.turns >= self._traffic.session_turns:
            del running[index]
        return replace(request, session_id=session.id, prompt_tokens=prompt)
