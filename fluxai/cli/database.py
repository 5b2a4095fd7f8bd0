"""`fluxai db`: the ledger's store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fluxai.cli.commands import Commands
from fluxai.cli.figures import plural
from fluxai.cli.progress import progress
from fluxai.cli.screen import Block, Column, Section, Table, Text
from fluxai.cli.session import DONE, ERROR, Answer, Session, command
from fluxai.core.errors import ConfigurationError, InvalidRequest
from fluxai.core.windows import DAY_US, parse_duration

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.storage.functions import Pruned

_REAPED_AT_ONCE = 1_000
_DIFFERENCES_SHOWN = 20
#: A window may last a month, which with 35 days is whole wherever it begins.
_KEPT_LEAST_US = 35 * DAY_US


@click.group(cls=Commands)
def db() -> None:
    """Create, prove and tidy up the ledger's store."""


@command(db, "migrate")
@click.option("--sql", is_flag=True, help="Print the SQL that is missing, and run nothing.")
def migrate(session: Session, *, sql: bool) -> Answer:
    """Create the store, or bring its tables up to date. Doing it twice changes nothing."""
    if sql:
        return _missing_sql(session)
    with session.governor(missing="create"):
        pass
    said = f"The ledger at {session.shown_db} is up to date."
    return Answer({"db": session.shown_db, "up_to_date": True}, [Section("", [Text(said, "good")])])


def _missing_sql(session: Session) -> Answer:
    from fluxai.storage.opening import open_storage
    from fluxai.storage.postgres import PostgresStorage

    storage = open_storage(session.db)
    try:
        if not isinstance(storage, PostgresStorage):
            raise ConfigurationError(
                "--sql is for postgresql://; a Supabase project runs schema.sql in its SQL editor, "
                "and other stores make their tables themselves"
            )
        script = storage.pending_sql()
    finally:
        storage.close()
    if not session.as_json:
        click.echo(script, nl=False)
    return Answer({"db": session.shown_db, "sql": script})


@command(db, "verify")
def verify(session: Session) -> Answer:
    """Prove that every balance equals its events and open reservations. Exits with 1 if not."""
    with session.governor() as governor:
        report = governor.verify()
    compared = (
        f"{plural(report.counters, 'counter')}, {plural(report.events, 'event')} and "
        f"{plural(report.reservations, 'open reservation')}"
    )
    document = {
        "ok": report.ok,
        "counters": report.counters,
        "events": report.events,
        "reservations": report.reservations,
        "differences": [
            {"what": found.what, "expected": found.expected, "found": found.found}
            for found in report.differences
        ],
    }
    if report.ok:
        said = Text(f"The books balance: {compared} compared.", "good")
        return Answer(document, [Section("", [said])])
    blocks: list[Block] = [
        Text(f"{plural(len(report.differences), 'sum')} of {compared} differ:", "bad"),
        Table(
            (
                Column("What", fold=True),
                Column("Expected", right=True),
                Column("Found", right=True),
            ),
            [
                (found.what, f"{found.expected:,}", f"{found.found:,}")
                for found in report.differences[:_DIFFERENCES_SHOWN]
            ],
        ),
        "Costs are in nano-USD. The events are the truth: keep the file, and report this.",
    ]
    return Answer(document, [Section("The books do not balance", blocks)], ERROR)


@command(db, "reap")
@click.option(
    "--on-expiry",
    type=click.Choice(["release", "settle"]),
    default="release",
    show_default=True,
    help="Give the money back, or charge what the call was expected to cost.",
)
@click.option(
    "--keep",
    metavar="TIME",
    help="Also drop the events of whole months that ended longer ago, such as 400d; their sums stay.",
)
def reap(session: Session, *, on_expiry: str, keep: str | None) -> Answer:
    """End reservations whose time is over, such as those of processes that died."""
    kept_us = None if keep is None else _kept_us(keep)
    released = settled = 0
    pruned: Pruned | None = None
    with session.governor(on_expiry=on_expiry) as governor:
        while True:
            done = governor.expire(_REAPED_AT_ONCE)
            released += done.released
            settled += done.settled
            if done.released + done.settled < _REAPED_AT_ONCE:
                break
        if kept_us is not None:
            pruned = _pruned(governor, governor.clock.now_us() - kept_us)
    said = f"{plural(released, 'reservation')} released, {settled:,} settled at the expected cost."
    document: dict[str, object] = {"released": released, "settled": settled}
    blocks: list[Block] = [Text(said)]
    if pruned is not None:
        document |= {
            "pruned": list(pruned.months),
            "stays": pruned.stays,
            "because": pruned.because,
        }
        if pruned.months:
            blocks.append(Text(f"Pruned, their sums stay: {', '.join(pruned.months)}."))
        elif pruned.stays is None:
            blocks.append(Text(f"Nothing that old is kept: no month ended over {keep} ago."))
        if pruned.stays is not None:
            blocks.append(Text(f"{pruned.stays} stays for now: {pruned.because}.", "bad"))
    return Answer(document, [Section("", blocks)], DONE)


def _kept_us(keep: str) -> int:
    try:
        kept_us = parse_duration(keep, "--keep")
    except InvalidRequest as error:
        raise click.UsageError(str(error)) from error
    if kept_us < _KEPT_LEAST_US:
        raise click.UsageError(
            "--keep: keep 35 days at least; a window may last a month, and counts what is in it"
        )
    return kept_us


def _pruned(governor: Governor, before_us: int) -> Pruned:
    from fluxai.storage.functions import FunctionStorage

    storage = governor.storage
    if not isinstance(storage, FunctionStorage):
        raise ConfigurationError(
            "--keep: this store keeps every event; only PostgreSQL and Supabase drop old months. "
            "Overdue reservations have been ended"
        )
    with progress("Pruning", None) as advance:
        return storage.prune(before_us, on_month=lambda month: advance(0, month))


@command(db, "rebuild")
def rebuild(session: Session) -> Answer:
    """Make every sum again from the events, which are the truth. Others wait meanwhile."""
    from fluxai.storage.functions import FunctionStorage

    with session.governor() as governor:
        if not isinstance(governor.storage, FunctionStorage):
            raise ConfigurationError(
                "only PostgreSQL and Supabase can be rebuilt; keep the file, and report this"
            )
        before = governor.verify()
        governor.storage.rebuild()
        after = governor.verify()
    said = f"{plural(len(before.differences), 'sum')} differed, {len(after.differences):,} do now."
    document = {"ok": after.ok, "before": len(before.differences), "after": len(after.differences)}
    shown = Text(said, "good" if after.ok else "bad")
    return Answer(document, [Section("", [shown])], DONE if after.ok else ERROR)
