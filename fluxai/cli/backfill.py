"""`fluxai backfill`: what was spent before there was a ledger."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from fluxai.arguments import check_text
from fluxai.cli.figures import plural, stamp, usd
from fluxai.cli.importing import Group, Report, import_lines
from fluxai.cli.past_calls import Damaged, lines_of
from fluxai.cli.progress import progress
from fluxai.cli.screen import Block, Column, Section, Table, Text
from fluxai.cli.session import DONE, ERROR, Answer, Session, command
from fluxai.core.ledger import Subject
from fluxai.core.money import to_decimal

_MODELS_SHOWN = 25
_DETAILS_SHOWN = 4

_REASONS = {
    "no_usage": "states no usage",
    "error_status": "failed: an error is not charged",
    "unknown_model": "no price is known for the model",
    "no_model": "names no model",
    "token_count": "only counted tokens: free",
    "not_json": "not JSON",
    "not_a_response": "JSON, but no object",
    "future": "dated in the future",
    "conflict": "its id is taken by something else",
    "absurd": "names a model or a cost that can't be true",
    "too_long": "longer than 64 MB",
}
_FLAGS = {
    "provider_cost": "the provider stated the cost itself",
    "provider_guessed": "priced as at another provider",
    "local_model": "runs on your own machine: free",
    "free_model": "free of charge",
    "zero_usage": "nothing was used",
    "clamped": "odd counts were corrected",
    "iterations": "several passes, each priced on its own",
    "search_loop": "searched in a loop, priced per pass",
    "unpriced_fee": "a fee that has no known price is missing",
    "byok": "paid with your own key upstream",
    "undated": "without a time: counted now",
}


@command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option("--tenant", default="default", show_default=True, metavar="ID", help="Who spent it.")
@click.option("--user", metavar="ID", help="Which user of the tenant.")
@click.option("--dry-run", is_flag=True, help="Price everything and record nothing.")
@click.option("--all", "show_all", is_flag=True, help="Show every model, not only the dearest.")
def backfill(
    session: Session, *, file: Path, tenant: str, user: str | None, dry_run: bool, show_all: bool
) -> Answer:
    """Record past calls from FILE, each once, at its own time.

    FILE holds JSON lines, plain or gzip; - reads stdin. A line is a provider's response, a list of
    a stream's chunks, a line of a batch's results, or an object that holds one of these under
    `response`, `stream` or `usage`, beside `provider`, `model`, `timestamp`, `id` and `status`.

    Running it again adds nothing. A line that can't be priced is counted and skipped.
    """
    check_text("tenant", tenant)
    if user is not None:
        check_text("user", user)
    subject = Subject(tenant, user, ())
    started = time.monotonic()
    damage: Damaged | None = None
    with (
        session.governor(missing="memory" if dry_run else "create") as governor,
        _opened(file) as (stream, size),
    ):
        # Says early that a tenant is unknown, should the store be of registered ones.
        governor.planner.rule_set(tenant)
        with progress(f"Reading {file.name}", size) as advance:
            place = [0]

            def read_on(at: int) -> None:
                place[0] = at

            def lines() -> Iterator[tuple[int, bytes | None]]:
                nonlocal damage
                try:
                    yield from lines_of(stream, read_on)
                except Damaged as error:
                    damage = error

            report = import_lines(
                governor,
                lines(),
                subject,
                dry_run=dry_run,
                counted=lambda so_far: advance(place[0], plural(so_far.lines, "line")),
            )
    seconds = time.monotonic() - started
    document = _document(report, session, file, subject, seconds, dry_run=dry_run, damage=damage)
    sections = _sections(report, subject, file, seconds, dry_run=dry_run, show_all=show_all)
    if damage is not None:
        sections.append(Section("", [Text(f"{file}: {damage}", "bad")]))
    return Answer(document, sections, ERROR if damage is not None or _no_json(report) else DONE)


def _no_json(report: Report) -> bool:
    """Say whether this was another kind of file altogether."""
    skipped = report.skipped.get("not_json")
    return skipped is not None and skipped.count == report.lines


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    if str(file) == "-":
        yield sys.stdin.buffer, None
        return
    with file.open("rb") as stream:
        yield stream, file.stat().st_size


def _document(
    report: Report,
    session: Session,
    file: Path,
    subject: Subject,
    seconds: float,
    *,
    dry_run: bool,
    damage: Damaged | None,
) -> dict[str, Any]:
    return {
        "file": str(file),
        "db": session.shown_db,
        "tenant": subject.tenant,
        "user": subject.user,
        "dry_run": dry_run,
        "lines": report.lines,
        "recorded": report.added,
        "already_recorded": report.known,
        "not_priced": sum(skipped.count for skipped in report.skipped.values()),
        "reasons": {
            reason: {
                "count": skipped.count,
                "first_lines": skipped.lines,
                "details": dict(skipped.details.most_common()),
            }
            for reason, skipped in _by_count(report)
        },
        "models": [
            {"provider": provider, "model": model, **_row(group)}
            for (provider, model), group in _by_cost(report)
        ],
        "total": _row(_total(report)),
        "flags": dict(report.flags.most_common()),
        "first": None if report.first is None else report.first.isoformat(),
        "last": None if report.last is None else report.last.isoformat(),
        "damaged": None if damage is None else str(damage),
        "seconds": f"{seconds:.3f}",
    }


def _row(group: Group) -> dict[str, Any]:
    return {
        "calls": group.calls,
        "input_tokens": group.input_tokens,
        "cached_tokens": group.cached_tokens,
        "output_tokens": group.output_tokens,
        "cost": str(to_decimal(group.cost_nanousd)),
    }


def _by_cost(report: Report) -> list[tuple[tuple[str, str], Group]]:
    return sorted(report.groups.items(), key=lambda found: (-found[1].cost_nanousd, found[0]))


def _by_count(report: Report) -> list[tuple[str, Any]]:
    return sorted(report.skipped.items(), key=lambda found: -found[1].count)


def _total(report: Report) -> Group:
    total = Group()
    for group in report.groups.values():
        total.calls += group.calls
        total.input_tokens += group.input_tokens
        total.cached_tokens += group.cached_tokens
        total.output_tokens += group.output_tokens
        total.cost_nanousd += group.cost_nanousd
    return total


def _sections(
    report: Report, subject: Subject, file: Path, seconds: float, *, dry_run: bool, show_all: bool
) -> list[Section]:
    sections = [_summary(report, subject, file, seconds, dry_run=dry_run)]
    if report.groups:
        sections.append(_spend(report, show_all=show_all))
    if report.skipped:
        sections.append(_left_out(report))
    if report.flags:
        rows = [
            (flag, f"{count:,}", Text(_FLAGS.get(flag, ""), "dim"))
            for flag, count in report.flags.most_common()
        ]
        columns = (Column("Flag"), Column("Calls", right=True), Column("Meaning", fold=True))
        sections.append(Section("To know about these costs", [Table(columns, rows)]))
    return sections


def _summary(
    report: Report, subject: Subject, file: Path, seconds: float, *, dry_run: bool
) -> Section:
    who = subject.tenant if subject.user is None else f"{subject.tenant} / {subject.user}"
    skipped = sum(found.count for found in report.skipped.values())
    if dry_run:
        done = f"{plural(_total(report).calls, 'call')} priced, nothing recorded"
    else:
        done = f"{plural(report.added, 'call')} recorded, {report.known:,} were there already"
    blocks: list[Block] = [
        f"{plural(report.lines, 'line')} read in {seconds:.1f} s",
        Text(f"{done}; {skipped:,} without a price", "good" if report.groups else "warn"),
    ]
    if report.first is not None and report.last is not None:
        blocks.append(f"From {stamp(report.first)} to {stamp(report.last)}, for {who}")
    return Section(f"Backfill of {file.name}", blocks)


def _spend(report: Report, *, show_all: bool) -> Section:
    found = _by_cost(report)
    shown = found if show_all else found[:_MODELS_SHOWN]
    rows = [(provider, model, *_figures(group)) for (provider, model), group in shown]
    if len(found) > len(shown):
        rest = Group()
        for _, group in found[len(shown) :]:
            rest.calls += group.calls
            rest.input_tokens += group.input_tokens
            rest.cached_tokens += group.cached_tokens
            rest.output_tokens += group.output_tokens
            rest.cost_nanousd += group.cost_nanousd
        rows.append(("", f"{len(found) - len(shown):,} more (--all shows them)", *_figures(rest)))
    table = Table(
        (
            Column("Provider"),
            Column("Model", fold=True),
            Column("Calls", right=True),
            Column("Input", right=True),
            Column("Cached", right=True),
            Column("Output", right=True),
            Column("Cost", right=True),
        ),
        rows,
        ("Total", "", *_figures(_total(report))),
    )
    return Section("Spend by provider and model", [table])


def _figures(group: Group) -> tuple[str, str, str, str, str]:
    return (
        f"{group.calls:,}",
        f"{group.input_tokens:,}",
        f"{group.cached_tokens:,}",
        f"{group.output_tokens:,}",
        usd(to_decimal(group.cost_nanousd)),
    )


def _left_out(report: Report) -> Section:
    rows = []
    for reason, skipped in _by_count(report):
        details = [
            f"{count} of {detail}" if count > 1 else detail
            for detail, count in skipped.details.most_common(_DETAILS_SHOWN)
        ]
        more = len(skipped.details) - len(details)
        if more > 0:
            details.append(f"and {more:,} more")
        lines = ", ".join(str(line) for line in skipped.lines)
        rows.append(
            (
                f"{skipped.count:,}",
                _REASONS.get(reason, reason),
                f"{lines}…" if skipped.count > len(skipped.lines) else lines,
                Text("\n".join(details), "dim"),
            )
        )
    columns = (
        Column("Lines", right=True),
        Column("Why", fold=True),
        Column("Which", fold=True),
        Column("Details", fold=True),
    )
    return Section("Left out", [Table(columns, rows)])
