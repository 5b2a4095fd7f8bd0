"""`fluxai policies`: what limits whom."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fluxai.cli.commands import Commands
from fluxai.cli.figures import amount, decision_word, span
from fluxai.cli.screen import Block, Column, Section, Table, Text, Tone
from fluxai.cli.session import Answer, Session, command
from fluxai.cli.tenants import tenant_names, titled

if TYPE_CHECKING:
    from fluxai.cli.policy_file import Difference
    from fluxai.policy.records import Policy


@click.group(cls=Commands)
def policies() -> None:
    """List the limits, or apply a file of them."""


@command(policies, "list")
@click.option("--tenant", metavar="ID", help="Only what concerns this tenant.")
def list_policies(session: Session, *, tenant: str | None) -> Answer:
    """List the policies, those of one tenant or all."""
    with session.governor() as governor:
        found = governor.policies.list(tenant=tenant)
        names = tenant_names(governor)
    found.sort(key=lambda policy: (policy.tenant_id, -policy.priority, policy.id or ""))
    document = {"policies": [policy.model_dump(mode="json") for policy in found]}
    if not found:
        return Answer(
            document, [Section("", ["No policies. Add some: fluxai policies apply FILE"])]
        )
    sections = [
        Section(
            "Every tenant" if owner == "*" else titled(owner, names), [_table(list(policies_of))]
        )
        for owner, policies_of in groupby(found, key=lambda policy: policy.tenant_id)
    ]
    return Answer(document, sections)


def _table(found: Iterable[Policy]) -> Table:
    return Table(
        (
            Column("Id", fold=True),
            Column("Limit", fold=True),
            Column("", right=True),
            Column("When crossed", fold=True),
        ),
        [
            (policy.id or "", _limits_what(policy), _limit(policy), _when_crossed(policy))
            for policy in found
        ],
    )


def _limits_what(policy: Policy) -> str:
    window: str = policy.limit_type
    if isinstance(policy.window, timedelta):
        window = f"rolling {span(policy.window)}"
    if policy.scope == "tenant":
        return window
    whose = policy.scope_id if policy.scope_id is not None else f"each {policy.scope}"
    return f"{window}, {whose if policy.scope_id is None else f'{policy.scope} {whose}'}"


def _limit(policy: Policy) -> str:
    if policy.limit_value is None:
        return f"{policy.repeat_limit:,} of the same call"
    if policy.counts == "cost":
        return amount(policy.limit_value, "cost")
    return f"{int(policy.limit_value):,} {policy.counts}"


def _when_crossed(policy: Policy) -> str:
    said = decision_word(policy.decision, policy.mode)
    return said if policy.fallback_tool_id is None else f"{said} to {policy.fallback_tool_id}"


@command(policies, "apply")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check the file and show what would change.")
def apply(session: Session, *, file: Path, dry_run: bool) -> Answer:
    """Put the policies, tenants, users and tools of FILE, by id.

    FILE is TOML with [[policy]], [[tenant]], [[user]] and [[tool]] tables (or JSON with lists under
    these names). What has the same id is replaced, what the file does not name stays. The whole
    file is checked first: when anything in it is wrong, nothing changes.
    """
    from fluxai.cli.policy_file import compare, put_all, read_entries, rehearse

    entries = read_entries(file)
    with session.governor(missing="memory" if dry_run else "create") as governor:
        differences = compare(governor, entries)
        rehearse(governor, entries)
        if not dry_run:
            put_all(governor, [found.entry for found in differences if found.what != "unchanged"])
    counts = {
        what: sum(found.what == what for found in differences)
        for what in ("added", "changed", "unchanged")
    }
    document = {
        "file": str(file),
        "dry_run": dry_run,
        **counts,
        "entries": [_row(found) for found in differences],
    }
    sums = ", ".join(f"{number} {what}" for what, number in counts.items())
    said = f"{'Would be' if dry_run else 'Done'}: {sums}."
    return Answer(document, [Section(str(file), [*_changes(differences), Text(said, "strong")])])


_SIGNS: dict[str, tuple[str, Tone]] = {
    "added": ("+", "good"),
    "changed": ("~", "warn"),
    "unchanged": ("=", "dim"),
}


def _changes(differences: Iterable[Difference]) -> list[Block]:
    lines: list[Block] = []
    for found in differences:
        sign, tone = _SIGNS[found.what]
        fields = "; ".join(f"{name} {_said(old)} → {_said(new)}" for name, old, new in found.fields)
        line = f"{sign} {found.entry.kind} {found.entry.name}"
        lines.append(Text(f"{line}: {fields}" if fields else line, tone))
    return lines


def _said(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, timedelta):
        return span(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_said(part) for part in value)}]"
    return "none" if value is None else str(value)


def _row(found: Difference) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": found.entry.kind,
        "id": found.entry.record.id,
        "what": found.what,
        "fields": {
            name: {
                "old": None if old is None else _said(old),
                "new": None if new is None else _said(new),
            }
            for name, old, new in found.fields
        },
    }
    if found.entry.kind in ("user", "policy"):
        row["tenant_id"] = found.entry.record.tenant_id
    return row
