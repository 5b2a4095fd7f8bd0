"""`fluxai demo`: what FluxAI promises, shown offline in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fluxai.cli.figures import amount, decision_word, plural, until
from fluxai.cli.screen import Column, Meter, Section, Table, Text
from fluxai.cli.session import DONE, ERROR, Answer, Session, command
from fluxai.core.errors import ConfigurationError

if TYPE_CHECKING:
    from fluxai.analytics import Budget
    from fluxai.cli.demo_scenes import Scene
    from fluxai.governor import Governor


@command()
def demo(session: Session) -> Answer:
    """Show what FluxAI does: offline, without a key, in a few seconds.

    Three tenants with their budgets live through a downgrade, an exhausted budget and a success;
    then come a burst of concurrent calls, an approval, a bill with cached tokens, and a crash. All
    of it really runs, in memory: with --db URL in that store, which must be new, so that
    you can look around in it afterwards. FLUXAI_DATABASE_URL is left alone.
    """
    from fluxai.governor import Governor

    started = time.monotonic()
    # One instant for all of it, so that no budget's day ends in the middle.
    now = datetime.now(UTC)
    scenes: list[Scene] = []
    with Governor(session.given_db or "memory://", clock=lambda: now) as governor:
        _load(governor)
        before = _budgets(governor)
        for section in _opening(before, governor, now):
            session.show(section)
        for scene in _scenes(governor):
            scenes.append(scene)
            session.show(_section(scene, len(scenes)))
        after = _budgets(governor)
        report = governor.verify()
        names = {tenant.id: tenant.name or tenant.id for tenant in governor.tenants.list()}
    seconds = time.monotonic() - started
    ok = report.ok and all(scene.ok for scene in scenes)
    document = {
        "ok": ok,
        "scenes": [
            {"id": scene.id, "title": scene.title, "ok": scene.ok, "facts": scene.facts}
            for scene in scenes
        ],
        "budgets_before": _rows(before),
        "budgets_after": _rows(after),
        "books_balance": report.ok,
        "seconds": f"{seconds:.3f}",
    }
    closing = _closing(after, names, now, scenes, seconds, books=report.ok)
    return Answer(document, closing, DONE if ok else ERROR)


def _load(governor: Governor) -> None:
    from fluxai.demo_data import load_demo

    if governor.tenants.list() or governor.policies.list() or governor.events(limit=1):
        raise ConfigurationError(
            "the demo wants a store of its own, and this one holds something already; name a file "
            "that does not exist yet, such as --db sqlite:///demo.db, or leave --db out"
        )
    load_demo(governor)


def _scenes(governor: Governor) -> Iterator[Scene]:
    from fluxai.cli import demo_scenes
    from fluxai.cli.demo_burst import burst
    from fluxai.cli.demo_crash import crash_safety, victim

    with victim() as doomed:  # it starts up while the first scenes run
        yield demo_scenes.free_tier_downgrade(governor)
        yield demo_scenes.budget_exhaustion(governor)
        yield demo_scenes.pro_tier_success(governor)
        yield burst(governor)
        yield demo_scenes.approval(governor)
        yield demo_scenes.cached_bill()
        yield crash_safety(doomed)


_Budgets = list[tuple[str, "Budget"]]


def _budgets(governor: Governor) -> _Budgets:
    """Return the limits that refuse or ask, tenant by tenant."""
    return [
        (tenant.id, budget)
        for tenant in governor.tenants.list()
        for budget in governor.budgets(tenant.id)
        if budget.decision != "allow"
    ]


def _rows(budgets: _Budgets) -> list[dict[str, object]]:
    return [{"tenant": tenant, **budget.to_dict()} for tenant, budget in budgets]


def _opening(before: _Budgets, governor: Governor, now: datetime) -> Iterator[Section]:
    names = {tenant.id: tenant.name or tenant.id for tenant in governor.tenants.list()}
    yield Section(
        "FluxAI demo",
        [
            "Every call reserves its highest cost before it is made, and settles what it cost.",
            Text("Offline, without a key; nothing leaves this machine.", "dim"),
        ],
    )
    yield Section("Budgets before", [_table(before, names, now)])


def _section(scene: Scene, number: int) -> Section:
    blocks = list(scene.blocks)
    if not scene.ok:
        blocks.append(Text("This did not go as promised: see `fluxai demo --json`.", "bad"))
    return Section(f"{number}. {scene.title}", blocks)


def _closing(
    after: _Budgets,
    names: dict[str, str],
    now: datetime,
    scenes: list[Scene],
    seconds: float,
    *,
    books: bool,
) -> Iterator[Section]:
    yield Section("Budgets after", [_table(after, names, now)])
    good = sum(scene.ok for scene in scenes)
    verdict = f"{good} of {plural(len(scenes), 'scene')} as promised, in {seconds:.1f} s"
    balance = "The books balance: every sum equals its events and open reservations."
    yield Section(
        "",
        [
            Text(f"{verdict}.", "good" if good == len(scenes) else "bad"),
            Text(balance, "good") if books else Text("The books do not balance.", "bad"),
            "Next: price what you have spent already, with fluxai backfill FILE",
        ],
    )


def _table(budgets: _Budgets, names: dict[str, str], now: datetime) -> Table:
    rows = [
        (
            names.get(tenant, tenant),
            budget.limit_type,
            decision_word(budget.decision),
            Meter(budget.settled, budget.reserved, budget.limit),
            amount(budget.settled, budget.measure),
            amount(budget.limit, budget.measure),
            until(budget.resets_at, now),
        )
        for tenant, budget in budgets
    ]
    return Table(
        (
            Column("Tenant"),
            Column("Budget"),
            Column("Else"),
            Column("Used"),
            Column("Settled", right=True),
            Column("Limit", right=True),
            Column("Resets", right=True),
        ),
        rows,
    )
