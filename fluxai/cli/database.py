"""`fluxai db`: the ledger's store."""

from __future__ import annotations

import click

from fluxai.cli.figures import plural
from fluxai.cli.screen import Block, Column, Section, Table, Text
from fluxai.cli.session import DONE, ERROR, Answer, Session, command

_REAPED_AT_ONCE = 1_000
_DIFFERENCES_SHOWN = 20


@click.group()
def db() -> None:
    """Create, prove and tidy up the ledger's store."""


@command(db, "migrate")
def migrate(session: Session) -> Answer:
    """Create the store, or bring its tables up to date. Doing it twice changes nothing."""
    with session.governor(missing="create"):
        pass
    said = f"The ledger at {session.shown_db} is up to date."
    return Answer({"db": session.shown_db, "up_to_date": True}, [Section("", [Text(said, "good")])])


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
def reap(session: Session, *, on_expiry: str) -> Answer:
    """End reservations whose time is over, such as those of processes that died."""
    released = settled = 0
    with session.governor(on_expiry=on_expiry) as governor:
        while True:
            done = governor.expire(_REAPED_AT_ONCE)
            released += done.released
            settled += done.settled
            if done.released + done.settled < _REAPED_AT_ONCE:
                break
    said = f"{plural(released, 'reservation')} released, {settled:,} settled at the expected cost."
    document = {"released": released, "settled": settled}
    return Answer(document, [Section("", [Text(said)])], DONE)
