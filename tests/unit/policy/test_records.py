"""The records: what they accept, what they refuse, and that they are read back as written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fluxai import Grant, Policy, Tenant, Tool, User
from fluxai.policy.records import dump

BASE: dict[str, Any] = {"tenant_id": "acme", "limit_type": "daily", "limit_value": "5.00"}


def _policy(**fields: Any) -> Policy:
    return Policy.model_validate({**BASE, **fields})


RECORDS: list[BaseModel] = [
    Tenant(
        id="acme",
        name="Acme",
        plan="pro",
        soft_limit=Decimal("1.10"),
        hard_limit=Decimal("0.000000001"),
        limit_period="daily",
        timezone="Europe/Paris",
        week_start="sunday",
        fiscal_month_start=31,
    ),
    User(id="alice", tenant_id="acme", email="a@b.c", role="admin", personal_cap=Decimal(3)),
    Tool(id="t", cost_per_unit=Decimal("2.5E-7"), unit="tokens", category="llm", tier="premium"),
    _policy(id="p"),
    _policy(limit_type="rolling", window="24h"),
    _policy(limit_type="rolling", window=timedelta(seconds=90)),
    _policy(measure="tokens", limit_value=10**15),
    _policy(limit_type="concurrent", limit_value=3),
    _policy(alert_at=("0.5", Decimal("1.5")), mode="shadow", priority=-3),
    Grant(
        id="g",
        policy_id="p",
        tenant_id="acme",
        amount=Decimal("1.5"),
        until=datetime(2026, 1, 1, tzinfo=UTC),
        by="boss",
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=range(len(RECORDS)))
def test_what_is_stored_is_read_back(record: BaseModel) -> None:
    """The stored form is plain JSON, and makes the same record again."""
    stored = dump(record)
    assert type(record).model_validate(stored) == record
    assert type(record).model_validate_json(record.model_dump_json()) == record


@given(st.decimals(0, 10**9, places=9))
def test_amounts_keep_every_digit(amount: Decimal) -> None:
    """Up to a thousand million dollars, to the nano-dollar, through the stored form."""
    policy = _policy(limit_value=amount)
    again = Policy.model_validate(dump(policy))
    assert again.limit_units() == policy.limit_units() == int(amount.scaleb(9))


def test_a_tool_s_rate_does_not_depend_on_anybody_s_decimal_context() -> None:
    """Prices are rounded up once, whatever precision the program around works with."""
    tool = Tool(id="t", cost_per_unit=Decimal("0.0123456789012345678"))
    with localcontext() as context:
        context.prec = 3
        assert tool.unit_rate() == 12_345_678_901_235


@pytest.mark.parametrize("field", ["tenant_id", "limit_type", "limit_value"])
def test_what_a_policy_needs(field: str) -> None:
    """Whose, over what, and how much are never guessed."""
    fields = {name: value for name, value in BASE.items() if name != field}
    with pytest.raises(ValidationError, match=field):
        Policy.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"limit_value": 5.0}, r"Decimal\('5.0'\)"),
        ({"limit_value": "-1"}, "greater than or equal"),
        ({"limit_value": "1000000001"}, "1,000,000,000"),
        ({"limit_value": "0.0000000001"}, "nano"),
        ({"measure": "tokens", "limit_value": "0.5"}, "whole number"),
        ({"limit_type": "concurrent", "limit_value": "0.5"}, "whole number"),
        ({"measure": "tokens", "limit_value": 10**16}, "10"),
        ({"limit_type": "rolling"}, "24h"),
        ({"window": "1h"}, "rolling"),
        ({"limit_type": "rolling", "window": "1 hour"}, "window"),
        ({"limit_type": "rolling", "window": timedelta(0)}, "window"),
        ({"scope": "tenant", "scope_id": "globex"}, "tenant_id names the tenant"),
        ({"fallback_tool_id": "t"}, "downgrade"),
        (
            {
                "scope": "tool",
                "scope_id": "t",
                "decision": "downgrade",
                "fallback_tool_id": "t",
            },
            "itself",
        ),
        ({"alert_at": ("0",)}, "share"),
        ({"alert_at": ("11",)}, "share"),
        ({"alert_at": ("NaN",)}, "share|finite|number"),
        ({"priority": 10**7}, "priority"),
        ({"tenant_id": " acme"}, "spaces"),
        ({"tenant_id": "a\tb"}, "control"),
        ({"shrink_output": True, "decision": "downgrade"}, "shrink_output: goes with decision"),
        ({"shrink_output": True, "measure": "requests"}, "shrink_output: .* no limit of requests"),
        ({"shrink_output": True, "limit_type": "concurrent"}, "no limit of concurrent"),
        ({"limit_value": None}, "limit_value: is missing"),
        ({"repeat_limit": 0}, "repeat_limit"),
        ({"repeat_limit": 1.0}, "repeat_limit"),
        (
            {"repeat_limit": 3, "limit_type": "per_request"},
            "repeat_limit: a per_request limit has no",
        ),
        (
            {"repeat_limit": 3, "limit_type": "concurrent"},
            "repeat_limit: a concurrent limit has no",
        ),
        ({"repeat_limit": 3, "lease": "0.1"}, "lease: repeats are counted by the store"),
        (
            {"repeat_limit": 3, "limit_value": None, "shrink_output": True},
            "shrink_output: goes with a limit_value",
        ),
        ({"colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_contradictions_are_explained(fields: dict[str, Any], words: str) -> None:
    """A policy that can't mean anything says what would be right."""
    with pytest.raises(ValidationError, match=words):
        _policy(**fields)


def test_shares_are_sorted_and_single() -> None:
    """Alerts come in order, each once; floats are fine for shares, which are no money."""
    assert _policy(alert_at=(1.0, 0.5, "0.5")).alert_at == (Decimal("0.5"), Decimal("1.0"))
    assert _policy(alert_at=()).alert_at == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"timezone": "Mars/Olympus"},
        {"week_start": "Monday"},
        {"fiscal_month_start": 0},
        {"fiscal_month_start": 32},
        {"plan": "gold"},
        {"limit_period": "weekly"},
        {"hard_limit": 5.0},
        {"id": ""},
    ],
    ids=str,
)
def test_a_tenant_s_fields_are_checked(fields: dict[str, Any]) -> None:
    """A tenant with a calendar or a limit that does not exist can't be made."""
    with pytest.raises(ValidationError):
        Tenant.model_validate({"id": "acme", **fields})


def test_records_do_not_change() -> None:
    """A record that was put can't be changed behind the store's back."""
    with pytest.raises(ValidationError):
        Tenant(id="acme").id = "globex"
