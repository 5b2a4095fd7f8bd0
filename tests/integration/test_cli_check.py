"""`fluxai check`: a dry run that says what a call would be told."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from fluxai import Governor, Policy, Tool
from tests.integration.command_line import run, url


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """Return a ledger with a daily limit, an approval, a downgrade and a tool."""
    with Governor(url(tmp_path)) as governor:
        governor.tools.put(Tool(id="search", cost_per_unit="0.001"))
        for policy in (
            Policy(id="day", tenant_id="acme", limit_type="daily", limit_value="1"),
            Policy(
                id="ask",
                tenant_id="acme",
                limit_type="per_request",
                limit_value="0.50",
                decision="require_approval",
            ),
            Policy(
                id="down",
                tenant_id="acme",
                scope="tool",
                scope_id="gpt-4",
                limit_type="per_request",
                limit_value="0",
                decision="downgrade",
                fallback_tool_id="gpt-4o-mini",
            ),
        ):
            governor.policies.put(policy)
    return url(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "decision", "code"),
    [
        (("--model", "gpt-4o", "--max-output-tokens", 100), "allowed", 0),
        (("--model", "gpt-4", "--max-output-tokens", 100), "downgraded", 0),
        (("--model", "gpt-4o", "--max-output-tokens", 60_000), "pending_approval", 3),
        (("--model", "gpt-4o", "--max-output-tokens", 200_000), "denied", 3),
        (("--tool", "search", "--units", 3), "allowed", 0),
        (("--tool", "search", "--units", 2_000), "denied", 3),
    ],
)
def test_the_exit_code_says_whether_the_call_would_run(
    ledger: str, arguments: tuple[object, ...], decision: str, code: int
) -> None:
    """A script can branch on 0 and 3, and finds the decision in the document."""
    shown = run("check", "--db", ledger, "--tenant", "acme", *arguments, "--json")
    assert (shown.document["decision"], shown.code) == (decision, code)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "gpt-4o", "--prompt", "What is the capital of France?"),
        ("--model", "claude-sonnet-4-5", "--input-tokens", 12_345, "--max-output-tokens", 77),
        ("--model", "text-embedding-3-small", "--input-tokens", 12_345),
        ("--tool", "search", "--units", 7),
    ],
)
def test_the_lines_of_the_estimate_add_up(ledger: str, arguments: tuple[object, ...]) -> None:
    """The estimate has a line per kind, and their sum is what would be held."""
    estimate = run("check", "--db", ledger, *arguments, "--json").document["estimate"]
    total = sum(Decimal(line["amount"]) for line in estimate["lines"])
    highest = Decimal(estimate["highest"])
    assert total <= highest < total + Decimal("0.000000001")
    assert {line["found"] for line in estimate["lines"]} <= {"exact", "heuristic", "granted", "cap"}
    assert all(line["source"] for line in estimate["lines"])
    for line in estimate["lines"]:
        assert Decimal(line["unit_price"]) * line["quantity"] == Decimal(line["amount"])


def test_the_prompt_may_come_from_stdin(ledger: str) -> None:
    """`--prompt -` reads the text from a pipe."""
    told = run("check", "--db", ledger, "--model", "gpt-4o", "--prompt", "Hello there", "--json")
    piped = run(
        "check", "--db", ledger, "--model", "gpt-4o", "--prompt", "-", "--json", stdin="Hello there"
    )
    assert piped.document["estimate"] == told.document["estimate"]


def test_a_refusal_says_why_and_what_would_fit(ledger: str) -> None:
    """People see the limit, its numbers, and the largest call that would be granted."""
    call = ("check", "--db", ledger, "--tenant", "acme", "--model", "gpt-4o", "--max-output-tokens")
    shown = run(*call, 200_000)
    assert "DENIED  gpt-4o" in shown.out
    assert "daily cost limit of $1.00" in shown.out
    assert "What would fit" in shown.out
    offer = run(*call, 200_000, "--json").document["counter_offer"]
    assert run(*call, offer["max_output_tokens"]).code in (0, 3)
    assert run(*call, offer["max_output_tokens"], "--json").document["decision"] != "denied"


def test_nothing_is_held_and_nothing_is_promised(ledger: str) -> None:
    """A dry run leaves no reservation, and no approval id that nobody could approve."""
    shown = run(
        "check", "--db", ledger, "--tenant", "acme", "--model", "gpt-4o",
        "--max-output-tokens", 60_000, "--json",
    )  # fmt: skip
    assert "approval_id" not in shown.document
    assert "Approve with id" not in shown.document["message"]
    with Governor(ledger) as governor:
        assert governor.reservations() == []
        assert governor.approvals.list() == []


def test_an_unknown_model_is_an_error_not_a_price_of_zero(ledger: str) -> None:
    """What has no price is refused with its name."""
    shown = run("check", "--db", ledger, "--model", "gpt-17-ultra")
    assert shown.code == 1
    assert "no price is known for model 'gpt-17-ultra'" in shown.err


def test_labels_are_read_and_checked(ledger: str) -> None:
    """Labels come as KEY=VALUE; anything else is wrong usage."""
    call = ("check", "--db", ledger, "--model", "gpt-4o")
    shown = run(*call, "--label", "run=42", "--label", "team=red", "--json")
    assert shown.document["labels"] == {"run": "42", "team": "red"}
    assert run(*call, "--label", "run").code == 2
