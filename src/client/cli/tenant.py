"""`rbee tenant`: who shares the cluster."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from client.cli.call import collected, with_queen
from client.render import words
from client.render.table import as_dict, print_facts, print_json, print_json_messages, print_table

if TYPE_CHECKING:
    from client.client import Client
    from rbee.v1 import tenant_pb2

app = typer.Typer(help="Create, list, change and show tenants: their weights, quotas and usage.")

_NO_LIMIT: Final = "none"
_UNITS: Final = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
_MEGABYTES: Final = {"": 1, "MB": 1, "GB": 1024, "TB": 1024 * 1024}

_Limit = Literal["max_concurrent_jobs", "max_tokens_daily", "max_vram_mb"]

TenantArgument = Annotated[str, typer.Argument(help="The tenant's id; see: rbee tenant list.")]
NewTenantArgument = Annotated[str, typer.Argument(help='Its id: lower-case letters, digits and "-".')]
Name = Annotated[str | None, typer.Option("--name", help="Its name for people.")]
Weight = Annotated[
    float | None, typer.Option("--weight", help="Its share relative to others, 0.001 to 1,000,000. Default: 1.")
]
MaxJobs = Annotated[
    str | None,
    typer.Option("--max-jobs", metavar="N|none", help="Jobs of its that run at once. Default: none, no limit."),
]
MaxTokens = Annotated[
    str | None,
    typer.Option(
        "--max-tokens-daily", metavar="N|none", help="Tokens in and out a day (UTC), such as 2M. Default: none."
    ),
]
MaxVram = Annotated[
    str | None,
    typer.Option(
        "--max-vram", metavar="SIZE|none", help="Memory of workers it makes busy, such as 24GB. Default: none."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help='A model it may use, by name or reference; may be repeated. "none": all. Default: all.'
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    ctx: typer.Context,
    tenant_id: NewTenantArgument,
    *,
    name: Name = None,
    weight: Weight = None,
    max_jobs: MaxJobs = None,
    max_tokens_daily: MaxTokens = None,
    max_vram: MaxVram = None,
    model: Models = None,
    as_json: AsJson = False,
) -> None:
    """Creates a tenant."""
    from rbee.v1 import tenant_pb2

    tenant = tenant_pb2.Tenant(id=tenant_id)
    _change(tenant, name, weight, max_jobs, max_tokens_daily, max_vram, model)

    async def ask(queen: Client) -> tenant_pb2.Tenant:
        return await queen.tenants.create(tenant)

    _print(with_queen(ctx, ask), None, as_json=as_json)


@app.command("set")
def set_tenant(
    ctx: typer.Context,
    tenant_id: TenantArgument,
    *,
    name: Name = None,
    weight: Weight = None,
    max_jobs: MaxJobs = None,
    max_tokens_daily: MaxTokens = None,
    max_vram: MaxVram = None,
    model: Models = None,
    as_json: AsJson = False,
) -> None:
    """Changes what is given of a tenant; the rest stays. What runs goes on."""

    async def ask(queen: Client) -> tenant_pb2.Tenant:
        return await queen.tenants.change(
            tenant_id, lambda tenant: _change(tenant, name, weight, max_jobs, max_tokens_daily, max_vram, model)
        )

    _print(with_queen(ctx, ask), None, as_json=as_json)


@app.command("list")
def list_tenants(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """Lists tenants by id."""

    async def ask(queen: Client) -> list[tenant_pb2.Tenant]:
        return await collected(queen.tenants.list())

    tenants = with_queen(ctx, ask)
    if as_json:
        print_json_messages(tenants)
        return
    print_table(
        ["id", "weight", "jobs at once", "tokens a day", "memory", "models", "name"],
        [
            [
                tenant.id,
                f"{tenant.weight:g}",
                words.optional(tenant.quota, "max_concurrent_jobs"),
                f"{tenant.quota.max_tokens_daily:,}" if tenant.quota.HasField("max_tokens_daily") else words.NOTHING,
                words.memory(tenant.quota.max_vram_mb) if tenant.quota.HasField("max_vram_mb") else words.NOTHING,
                ", ".join(tenant.quota.allowed_models) or "all",
                tenant.display_name or words.NOTHING,
            ]
            for tenant in tenants
        ],
        "no tenants",
    )


@app.command()
def show(ctx: typer.Context, tenant_id: TenantArgument, *, as_json: AsJson = False) -> None:
    """Shows a tenant, its quotas and what it used today (UTC)."""

    async def ask(queen: Client) -> tuple[tenant_pb2.Tenant, tenant_pb2.TenantUsage]:
        return await queen.tenants.get(tenant_id), await queen.tenants.usage(tenant_id)

    tenant, usage = with_queen(ctx, ask)
    _print(tenant, usage, as_json=as_json)


def _change(
    tenant: tenant_pb2.Tenant,
    name: str | None,
    weight: float | None,
    max_jobs: str | None,
    max_tokens_daily: str | None,
    max_vram: str | None,
    models: Iterable[str] | None,
) -> None:
    if name is not None:
        tenant.display_name = name
    if weight is not None:
        tenant.weight = weight
    limits: tuple[tuple[_Limit, str | None, str, dict[str, int]], ...] = (
        ("max_concurrent_jobs", max_jobs, "--max-jobs", {"": 1}),
        ("max_tokens_daily", max_tokens_daily, "--max-tokens-daily", _UNITS),
        ("max_vram_mb", max_vram, "--max-vram", _MEGABYTES),
    )
    for field, text, option, units in limits:
        if text is None:
            continue
        tenant.quota.ClearField(field)
        if text != _NO_LIMIT:
            _set_limit(tenant.quota, field, _amount(text, option, units), option)
    if models is not None:
        del tenant.quota.allowed_models[:]
        tenant.quota.allowed_models.extend(one for one in models if one != _NO_LIMIT)


def _set_limit(quota: tenant_pb2.Quota, field: str, amount: int, option: str) -> None:
    try:
        setattr(quota, field, amount)
    except ValueError as error:
        raise typer.BadParameter(f"{amount:,} is too many; none is no limit", param_hint=option) from error


def _amount(text: str, option: str, units: dict[str, int]) -> int:
    """Returns the number a text such as "24GB" or "1.5M" stands for."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Z]*)", text.upper())
    if found is None or found[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        hint = f", maybe with {known}" if known else ""
        raise typer.BadParameter(f"a number{hint}, or none for no limit; not {text}", param_hint=option)
    return round(float(found[1]) * units[found[2]])


def _print(tenant: tenant_pb2.Tenant, usage: tenant_pb2.TenantUsage | None, *, as_json: bool) -> None:
    if as_json:
        print_json({**as_dict(tenant), **({} if usage is None else {"usage_today": as_dict(usage)})})
    else:
        print_facts(_facts(tenant, usage))


def _facts(tenant: tenant_pb2.Tenant, usage: tenant_pb2.TenantUsage | None) -> Iterator[tuple[str, str]]:
    quota = tenant.quota
    yield "tenant", tenant.id
    yield "name", tenant.display_name
    yield "weight", f"{tenant.weight:g}"
    yield "jobs at once", f"{quota.max_concurrent_jobs:,}" if quota.HasField("max_concurrent_jobs") else "no limit"
    yield "tokens a day", f"{quota.max_tokens_daily:,}" if quota.HasField("max_tokens_daily") else "no limit"
    yield "memory", words.memory(quota.max_vram_mb) if quota.HasField("max_vram_mb") else "no limit"
    yield "models", ", ".join(quota.allowed_models) or "all"
    yield "created", words.clock_time(tenant.create_time)
    if usage is not None:
        yield "used today", f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
        yield "jobs today", f"{usage.jobs:,}"
