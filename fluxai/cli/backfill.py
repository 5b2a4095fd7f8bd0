"""`fluxai backfill`: what was spent before there was a ledger."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from fluxai.arguments import check_text
from fluxai.cli.backfill_report import details, document, summary
from fluxai.cli.figures import plural
from fluxai.cli.importing import Report, import_lines
from fluxai.cli.past_calls import Lines
from fluxai.cli.progress import progress
from fluxai.cli.screen import Section, Text
from fluxai.cli.session import DONE, ERROR, Answer, Session, command
from fluxai.core.ledger import Subject


def _moment(_ctx: click.Context, _option: click.Parameter, value: str | None) -> datetime | None:
    """Read a time that is not in the future; UTC where it names no zone."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no time; write it like 2026-01-31T12:00") from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise click.BadParameter(f"{value} is in the future")
    return moment


@command()
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option("--tenant", default="default", show_default=True, metavar="ID", help="Who spent it.")
@click.option("--user", metavar="ID", help="Which user of the tenant.")
@click.option(
    "--at",
    "undated",
    callback=_moment,
    metavar="TIME",
    help="When calls without a time of their own were made (ISO 8601). Default: now.",
)
@click.option("--dry-run", is_flag=True, help="Price everything and record nothing.")
@click.option("--all", "show_all", is_flag=True, help="Show every model, not only the dearest.")
def backfill(
    session: Session,
    *,
    file: Path,
    tenant: str,
    user: str | None,
    undated: datetime | None,
    dry_run: bool,
    show_all: bool,
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
    with (
        session.governor(missing="memory" if dry_run else "create") as governor,
        _opened(file) as (stream, size),
    ):
        # Says early that a tenant is unknown, should the store be of registered ones.
        governor.planner.rule_set(tenant)
        lines = Lines(stream)
        with progress(f"Reading {file.name}", size) as advance:
            report = import_lines(
                governor,
                lines,
                subject,
                undated=undated,
                dry_run=dry_run,
                counted=lambda so_far: advance(lines.bytes_read, plural(so_far.lines, "line")),
            )
    seconds = time.monotonic() - started
    found = {
        "file": str(file),
        "db": session.shown_db,
        "tenant": tenant,
        "user": user,
        "dry_run": dry_run,
        **document(report),
        "damaged": lines.damage,
        "seconds": f"{seconds:.3f}",
    }
    sections = [
        summary(report, subject, file, seconds, dry_run=dry_run, placed=undated is not None),
        *details(report, show_all=show_all),
    ]
    if lines.damage is not None:
        sections.append(Section("", [Text(f"{file}: {lines.damage}", "bad")]))
    failed = lines.damage is not None or _no_json(report)
    return Answer(found, sections, ERROR if failed else DONE)


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
