"""`status`, `budgets`, `approvals` and `db`: what people look at, and little that they change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor, Policy, Tenant, Tool
from tests.integration.command_line import run, url


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """Return a ledger where money was spent, some is held, and a call waits."""
    with Governor(url(tmp_path)) as governor:
        governor.tenants.put(Tenant(id="acme", name="Acme Ltd"))
        governor.tools.put(Tool(id="search", cost_per_unit="0.10"))
        for policy in (
            Policy(id="day", tenant_id="acme", limit_type="daily", limit_value="10"),
            Policy(
                id="each-user",
                tenant_id="acme",
                scope="user",
                limit_type="daily",
                limit_value="1",
                decision="require_approval",
            ),
        ):
            governor.policies.put(policy)
        governor.settle(governor.reserve(tenant="acme", user="ana", tool="search", units=4))
        assert governor.reserve(tenant="acme", user="ana", tool="search", units=2).allowed
        waits = governor.reserve(tenant="acme", user="ana", tool="search", units=30)
        assert waits.decision == "pending_approval"
        governor.record(tenant="zen", tool="search", units=1, id="elsewhere")
    return url(tmp_path)


def test_budgets_show_settled_held_and_left(ledger: str) -> None:
    """Each limit is shown with its exact account, per tenant and user."""
    found = run("budgets", "acme", "--user", "ana", "--db", ledger, "--json").document["tenants"]
    assert [row["tenant"] for row in found] == ["acme"]
    by_policy = {row["policy_id"]: row for row in found[0]["budgets"]}
    assert Decimal(by_policy["day"]["settled"]) == Decimal("0.40")
    assert Decimal(by_policy["day"]["reserved"]) == Decimal("3.20")
    assert Decimal(by_policy["day"]["remaining"]) == Decimal("6.40")
    assert by_policy["each-user"]["scope_id"] == "ana"


def test_budgets_of_all_tenants_are_drawn_as_bars(ledger: str) -> None:
    """Without a tenant everybody's limits are shown, under their names."""
    shown = run("budgets", "--db", ledger)
    assert shown.code == 0
    assert shown.out.startswith("Acme Ltd (acme)\n")
    assert "#" in shown.out
    assert "+" in shown.out


def test_status_sums_up_on_one_screen(ledger: str) -> None:
    """Spend, holds, approvals, budgets and last calls are all there, and exact in JSON."""
    document = run("status", "--db", ledger, "--json").document
    assert {row["tenant"]: Decimal(row["today"]) for row in document["tenants"]} == {
        "acme": Decimal("0.40"),
        "zen": Decimal("0.10"),
    }
    assert document["open_reservations"] == 1
    assert Decimal(document["held"]) == Decimal("0.20")
    assert len(document["pending_approvals"]) == 1
    assert document["fullest_budgets"][0]["policy_id"] == "each-user"
    assert [event["tenant"] for event in document["last_events"]] == ["zen", "acme"]
    shown = run("status", "--db", ledger).out
    assert "1 call waits for an answer: fluxai approvals list" in shown
    assert len(shown.splitlines()) <= 40


def test_the_latest_events_are_found_among_many(tmp_path: Path) -> None:
    """The last calls are the last ones, however many came before."""
    from fluxai.cli.tenants import latest_events

    with Governor(url(tmp_path)) as governor:
        assert latest_events(governor, 3) == []
        for number in range(37):
            governor.record(tool="search", cost="0.01", id=f"call-{number}")
            last = [event.id for event in latest_events(governor, 3)]
            assert last == [f"call-{at}" for at in range(number, max(-1, number - 3), -1)]


def test_an_approval_is_listed_given_and_run_once(ledger: str) -> None:
    """What the command line approves, a program can run, once."""
    (waiting,) = run("approvals", "list", "--db", ledger, "--json").document["approvals"]
    assert (waiting["user"], waiting["amount"], waiting["state"]) == ("ana", "3.00", "pending")
    shown = run("approvals", "approve", waiting["id"], "--by", "boss", "--db", ledger)
    assert shown.code == 0
    assert "Approved: $3.00 on search" in shown.out
    call = {"tenant": "acme", "user": "ana", "tool": "search", "units": 30}
    with Governor(ledger) as governor:
        governor.settle(governor.reserve(**call, approval_id=waiting["id"]))
        assert not governor.reserve(**call, approval_id=waiting["id"]).allowed
    listed = run("approvals", "list", "--state", "used", "--db", ledger, "--json").document
    assert [approval["by"] for approval in listed["approvals"]] == ["boss"]


def test_a_rejection_frees_the_money_and_keeps_the_reason(ledger: str) -> None:
    """A rejected call holds nothing any more."""
    (waiting,) = run("approvals", "list", "--db", ledger, "--json").document["approvals"]
    said = ("--by", "boss", "--reason", "too dear")
    rejected = run("approvals", "reject", waiting["id"], *said, "--db", ledger, "--json").document
    assert rejected["approval"]["reason"] == "too dear"
    (tenant,) = run("budgets", "acme", "--db", ledger, "--json").document["tenants"]
    day = next(row for row in tenant["budgets"] if row["policy_id"] == "day")
    assert Decimal(day["reserved"]) == Decimal("0.20")
    again = run("approvals", "approve", waiting["id"], "--by", "boss", "--db", ledger)
    assert again.code == 1
    assert len(again.err.splitlines()) == 1


@pytest.mark.parametrize("wrong", ["nonsense", "01a20000-0000-7000-8000-000000000000"])
def test_an_unknown_approval_is_one_line(ledger: str, wrong: str) -> None:
    """A mistyped id is an error that names it."""
    shown = run("approvals", "approve", wrong, "--by", "boss", "--db", ledger)
    assert shown.code == 1
    assert wrong in shown.err


def test_who_answers_is_required(ledger: str) -> None:
    """Nobody decides anonymously."""
    assert run("approvals", "approve", "x", "--db", ledger).code == 2


def test_migrate_makes_a_ledger_and_again_changes_nothing(tmp_path: Path) -> None:
    """A new store is ready after one command, and stays as it is after two."""
    for _ in range(2):
        assert run("db", "migrate", "--db", url(tmp_path)).code == 0
    assert run("db", "verify", "--db", url(tmp_path), "--json").document["ok"] is True


def test_verify_exits_with_1_when_the_books_do_not_balance(ledger: str, tmp_path: Path) -> None:
    """A sum that was tampered with is found, named, and fails a script."""
    import sqlite3

    assert run("db", "verify", "--db", ledger).code == 0
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE counters SET settled = settled + 7 WHERE settled > 0")
    connection.close()
    shown = run("db", "verify", "--db", ledger, "--json")
    assert shown.code == 1
    assert shown.document["ok"] is False
    assert shown.document["differences"]


@pytest.mark.parametrize(("choice", "left"), [("release", "0.00"), ("settle", "0.20")])
def test_reap_ends_what_is_overdue(tmp_path: Path, choice: str, left: str) -> None:
    """Reservations of processes that died are released, or settled where that is wanted."""
    past = datetime.now(UTC) - timedelta(hours=2)
    with Governor(url(tmp_path), clock=lambda: past) as governor:
        governor.tools.put(Tool(id="search", cost_per_unit="0.10"))
        governor.reserve(tenant="acme", tool="search", units=2)
    done = run("db", "reap", "--on-expiry", choice, "--db", url(tmp_path), "--json").document
    assert done == {"released": int(choice == "release"), "settled": int(choice == "settle")}
    with Governor(url(tmp_path)) as governor:
        spent = governor.usage("acme", start=past - timedelta(days=1), end=datetime.now(UTC))
        assert spent.total_cost == Decimal(left)
