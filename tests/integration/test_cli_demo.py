"""`fluxai demo`: it shows what is promised, and says so when it is not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor
from tests.integration.command_line import Ran, run, url


@pytest.fixture(scope="module")
def shown() -> Ran:
    """Return the demo's document, run once."""
    return run("demo", "--json")


def test_every_scene_goes_as_promised(shown: Ran) -> None:
    """All scenes are run, all come out right, and the books balance."""
    assert shown.code == 0
    document = shown.document
    assert {scene["id"]: scene["ok"] for scene in document["scenes"]} == dict.fromkeys(
        [
            "free-tier-downgrade",
            "budget-exhaustion",
            "pro-tier-success",
            "burst",
            "approval",
            "cached-bill",
            "crash-safety",
        ],
        True,
    )
    assert document["books_balance"] is True


def facts(shown: Ran, scene: str) -> dict[str, str]:
    """Return what a scene saw."""
    (found,) = [row["facts"] for row in shown.document["scenes"] if row["id"] == scene]
    return dict(found)


def test_the_three_scenarios_of_the_demo_tenants(shown: Ran) -> None:
    """The free tier is downgraded, the budget refuses, the pro tier succeeds, all priced."""
    downgrade = facts(shown, "free-tier-downgrade")
    assert downgrade["final_tool"] == "gpt-3.5-turbo"
    assert Decimal(downgrade["recorded"]) == Decimal("0.005")
    refusal = facts(shown, "budget-exhaustion")
    assert refusal["decision"] == "denied"
    assert "daily cost limit of $2.00" in refusal["message"]
    success = facts(shown, "pro-tier-success")
    assert (success["decision"], Decimal(success["cost"])) == ("allowed", Decimal("1.50"))


def test_the_burst_admits_ten_where_check_then_act_admits_more(shown: Ran) -> None:
    """64 callers of $0.10 on $1.00: exactly ten with FluxAI, more without."""
    burst = facts(shown, "burst")
    assert burst["admitted"] == 10
    assert Decimal(burst["spent"]) == 1
    assert burst["naive_admitted"] > 10


def test_budgets_before_and_after(shown: Ran) -> None:
    """What the scenes spent is what the budgets gained."""
    document = shown.document
    assert all(Decimal(row["settled"]) == 0 for row in document["budgets_before"])
    settled = {row["policy_id"]: Decimal(row["settled"]) for row in document["budgets_after"]}
    assert sum(value > 0 for value in settled.values()) >= 3


def test_people_see_every_scene_in_plain_text() -> None:
    """Without a terminal the demo is plain text, numbered scene by scene."""
    seen = run("demo")
    assert seen.code == 0
    for number in range(1, 8):
        assert f"\n{number}. " in seen.out
    assert "Budgets before" in seen.out
    assert "7 of 7 scenes as promised" in seen.out
    assert "─" not in seen.out


def test_the_demo_leaves_the_ledger_of_the_environment_alone(tmp_path: Path) -> None:
    """Nobody's real ledger gets demo tenants by accident."""
    assert run("demo", "--json", FLUXAI_DATABASE_URL=url(tmp_path)).code == 0
    assert list(tmp_path.iterdir()) == []


def test_the_demo_can_be_kept_in_a_new_store_only(tmp_path: Path) -> None:
    """With --db the demo's tenants stay to be looked at; a store in use is refused untouched."""
    assert run("demo", "--db", url(tmp_path)).code == 0
    shown = run("status", "--db", url(tmp_path))
    assert "FreeCo" in shown.out
    with Governor(url(tmp_path)) as governor:
        before = len(governor.events(limit=1_000))
    again = run("demo", "--db", url(tmp_path))
    assert again.code == 1
    assert "wants a store of its own" in again.err
    with Governor(url(tmp_path)) as governor:
        assert len(governor.events(limit=1_000)) == before
