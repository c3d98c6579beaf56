"""Reports and comparisons as tables of texts, for whoever prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from queen.simulation.comparison import Comparison, Treatment
from queen.simulation.report import GroupReport, Report, Spread

MOST_ROWS: Final = 40
"""Workers and devices that are listed; a last row says how many more there are."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: title, heads of the columns, and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def report_tables(report: Report) -> tuple[Table, ...]:
    """Returns a report as tables; those without rows are left out."""
    policy = f"{report.policy} {report.policy_version}".strip()
    tables = (
        Table(f"{policy} on {report.cluster}", ("what", "value"), _summary(report)),
        _group_table("By class", report.classes),
        _group_table("By tenant", report.tenants if len(report.tenants) > 1 else ()),
        Table(
            "Why jobs failed",
            ("reason", "jobs", "for example"),
            tuple((one.reason, f"{one.jobs:,}", one.message) for one in report.failures),
        ),
        _worker_table(report),
        _device_table(report),
    )
    return tuple(table for table in tables if table.rows)


def _summary(report: Report) -> tuple[tuple[str, str], ...]:
    contended = report.fairness_contended
    ended = f"{report.completed:,} completed, {report.failed:,} failed"
    states = f"{ended}, {report.waiting:,} waiting, {report.running:,} running"
    read = f"{report.prompt_tokens:,} read ({report.cached_prompt_tokens:,} from cache)"
    rows = [
        ("jobs", f"{report.jobs:,}: {states}"),
        ("makespan", _span(report.makespan_s)),
        ("tokens", f"{read}, {report.generated_tokens:,} generated, {report.tokens_per_s:,.0f} tok/s"),
        ("wait", _spread(report.wait)),
        ("first token", _spread(report.first_token)),
        ("queue", f"mean {report.queue_mean:,.1f}, most {report.queue_most:,}"),
        ("workers", f"{report.starts:,} started, {report.evictions:,} evicted"),
        ("GPU hours", f"{report.gpu_hours:,.2f}"),
        ("cost", f"{report.cost:,.2f}"),
        (
            "fairness",
            f"{report.fairness:.3f}" + ("" if contended is None else f", {contended:.3f} while tenants waited"),
        ),
        ("cycles", f"{report.cycles:,}"),
    ]
    if report.refused:
        rows.append(
            ("refused by the applier", ", ".join(f"{count:,} {what}" for what, count in report.refused.items()))
        )
    return tuple(rows)


def _group_table(title: str, groups: Sequence[GroupReport]) -> Table:
    columns = ("name", "jobs", "failed", "share", "wait p50", "p95", "p99", "first token p50", "p95", "p99")
    rows = tuple(
        (
            group.name or "(none)",
            f"{group.jobs:,}",
            f"{group.failed:,}",
            f"{group.share:.1%}",
            *(_span(value) for value in (group.wait.p50, group.wait.p95, group.wait.p99)),
            *(_span(value) for value in (group.first_token.p50, group.first_token.p95, group.first_token.p99)),
        )
        for group in groups
    )
    return Table(title, columns, rows)


def _worker_table(report: Report) -> Table:
    columns = ("worker", "model", "on", "jobs", "tokens", "busy", "slots", "loading", "ended because")
    rows = [
        (
            one.id,
            one.model,
            f"{one.hive} {one.device} ({one.kind})",
            f"{one.completed:,}",
            f"{one.generated_tokens:,}",
            f"{one.busy_s / one.alive_s if one.alive_s else 0:.0%}",
            f"{one.slot_use:.0%} of {one.slots}",
            _span(one.loading_s),
            one.end_reason,
        )
        for one in report.workers
    ]
    return Table("Workers", columns, _shortened(rows))


def _device_table(report: Report) -> Table:
    rows = [
        (f"{one.hive} {one.device}", one.kind, _span(one.held_s), _span(one.busy_s), f"{one.utilisation:.0%}")
        for one in report.devices
    ]
    return Table("Devices", ("device", "kind", "held", "busy", "utilisation"), _shortened(rows))


def comparison_tables(comparison: Comparison) -> tuple[Table, ...]:
    """Returns a comparison as tables: the figures side by side, and the jobs that differ most."""
    figures = tuple(
        (one.name, _figure(one.ours, one.unit), _figure(one.theirs, one.unit), _change(one.ours, one.theirs))
        for one in comparison.figures
    )
    jobs = tuple(
        (
            one.job,
            f"{one.model}, {one.priority}" + (f", {one.tenant}" if one.tenant else ""),
            f"{one.wait_difference_s:+,.2f} s",
            _treated(one.ours),
            _treated(one.theirs),
        )
        for one in comparison.jobs
    )
    counts = (
        f"Jobs treated differently: {comparison.outcome_differs:,} by outcome, {comparison.kind_differs:,} by kind of "
        f"device, {comparison.waited_longer:,} waited longer, {comparison.waited_shorter:,} shorter"
    )
    ours, theirs = comparison.ours, comparison.theirs
    if ours == theirs:
        ours, theirs = f"{ours} (1)", f"{theirs} (2)"
    tables = (
        Table(f"{ours} against {theirs}", ("what", ours, theirs, "change"), figures),
        Table(counts, ("job", "what", "wait", ours, theirs), jobs),
    )
    return tuple(table for table in tables if table.rows)


def _treated(treatment: Treatment) -> str:
    where = f" on {treatment.worker} ({treatment.kind})" if treatment.worker else ""
    wait = f" after {_span(treatment.wait_s)}" if treatment.wait_s is not None else ""
    return f"{treatment.outcome}{where}{wait}: {treatment.reason}"


def _figure(value: float, unit: str) -> str:
    if unit == "s":
        return _span(value)
    text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.3f}"
    return f"{text} {unit}".strip()


def _change(ours: float, theirs: float) -> str:
    return f"{ours / theirs - 1:+.1%}" if theirs else ""


def _spread(spread: Spread) -> str:
    return f"p50 {_span(spread.p50)}, p95 {_span(spread.p95)}, p99 {_span(spread.p99)}, most {_span(spread.most)}"


def _span(seconds: float) -> str:
    """Returns a span as people say it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 600:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 36000 else f"{seconds / 3600:,.1f} h"


def _shortened(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    if len(rows) <= MOST_ROWS:
        return tuple(rows)
    more = (f"and {len(rows) - MOST_ROWS:,} more", *("" for _ in rows[0][1:]))
    return (*rows[:MOST_ROWS], more)
