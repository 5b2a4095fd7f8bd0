"""`fluxai demo`: what FluxAI promises, shown offline in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fluxai.cli.figures import plural
from fluxai.cli.looking import budget_table
from fluxai.cli.screen import PlainScreen, Section, Text
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
    screen = None if session.as_json else session.screen()
    scenes: list[Scene] = []
    with Governor(session.given_db or "memory://", clock=lambda: now) as governor:
        _load(governor)
        before = _budgets(governor)
        if screen is not None:
            for section in _opening(before, governor, now):
                screen.show(section)
        for scene in _scenes(governor):
            scenes.append(scene)
            if screen is not None:
                screen.show(_section(scene, len(scenes)))
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
