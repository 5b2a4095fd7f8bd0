"""A tenant that may use some models only: asked for, picked, or run without a price."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fluxai import Governor, InvalidRequest, Model, Policy, Tenant, Tool, UnknownModel, Usage
from tests.integration.stubs import open_governor


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor without records."""
    with open_governor(request.param, tmp_path) as governor:
        yield governor
        assert governor.verify().ok


def allow(governor: Governor, *patterns: str) -> None:
    """Allow acme some models."""
    governor.tenants.put(Tenant(id="acme", allowed_models=patterns))


def ask(governor: Governor, model: str, tenant: str = "acme") -> str | None:
    """Reserve a call; return the model that it may run on."""
    held = governor.reserve(tenant=tenant, model=model, prompt="hi", max_output_tokens=100)
    assert held.allowed, held.message
    governor.release(held)
    return held.model


@pytest.mark.parametrize(
    ("pattern", "model", "allowed"),
    [
        ("gpt-4o-mini", "gpt-4o-mini", True),
        ("gpt-4o-mini", "openai/gpt-4o-mini", True),
        ("gpt-4o-mini", "gpt-4o", False),
        ("GPT-4o*", "gpt-4o", True),
        ("openai/*", "gpt-4o", True),
        ("openai/*", "claude-haiku-4-5", False),
        ("claude-haiku-*", "claude-haiku-4-5", True),
        ("*", "gpt-4o", True),
    ],
)
def test_patterns_are_matched_with_ids(
    governor: Governor, *, pattern: str, model: str, allowed: bool
) -> None:
    """Whatever spelling a caller uses, the model's own id counts; other tenants are free."""
    allow(governor, pattern)
    assert ask(governor, model, tenant="other") == model
    if allowed:
        assert ask(governor, model) == model
    else:
        with pytest.raises(UnknownModel, match=re.escape(f"allowed_models ({pattern})")):
            ask(governor, model)
        assert governor.reservations(tenant="acme") == []


@pytest.mark.parametrize(
    ("wrong", "remedy"), [("gpt-4o", r"such as \['gpt-4o'\]"), (("",), "at least 1 character")]
)
def test_what_is_no_list_of_patterns_is_refused(wrong: Any, remedy: str) -> None:
    """The field is named, and what to write instead."""
    with pytest.raises(ValidationError, match=remedy) as refused:
        Tenant(id="acme", allowed_models=wrong)
    assert "allowed_models" in str(refused.value)


def test_the_list_is_changed_and_taken_back(governor: Governor) -> None:
    """A change holds from the next call on."""
    assert ask(governor, "gpt-4o") == "gpt-4o"
    allow(governor)
    with pytest.raises(UnknownModel):
        ask(governor, "gpt-4o")
    allow(governor, "gpt-4o")
    assert ask(governor, "gpt-4o") == "gpt-4o"
    allow(governor, "gpt-5*")
    with pytest.raises(UnknownModel):
        ask(governor, "gpt-4o")
    governor.tenants.put(Tenant(id="acme"))
    assert ask(governor, "gpt-4o") == "gpt-4o"


def test_another_process_follows(tmp_path: Path) -> None:
    """The list is in the store."""
    with open_governor("sqlite", tmp_path) as one, open_governor("sqlite", tmp_path) as other:
        assert ask(other, "gpt-4o") == "gpt-4o"
        allow(one, "claude-*")
        with pytest.raises(UnknownModel):
            ask(other, "gpt-4o")


def test_a_downgrade_goes_to_an_allowed_model_only(governor: Governor) -> None:
    """Named or picked: where none is allowed, the call is refused as without a stand-in."""
    full = Policy(
        id="full", tenant_id="acme", limit_type="daily", limit_value="0.0001", decision="downgrade"
    )
    governor.policies.put(full)
    call = {"tenant": "acme", "model": "gpt-4o", "prompt": "hi", "max_output_tokens": 100}
    moved = governor.check(**call)
    assert moved.model not in (None, "gpt-4o", "gpt-4o-mini")
    allow(governor, "gpt-4o", "gpt-4o-mini")
    assert governor.check(**call).model == "gpt-4o-mini"
    allow(governor, "gpt-4o")
    assert governor.check(**call).decision == "denied"
    named = full.model_copy(update={"fallback_tool_id": "gpt-4o-mini"})
    with pytest.raises(InvalidRequest, match="fallback_tool_id.*allowed_models"):
        governor.policies.put(named)
    allow(governor, "gpt-4o", "gpt-4o-mini")
    governor.policies.put(named)
    allow(governor, "gpt-4o")
    assert governor.check(**call).decision == "denied"


def test_a_model_without_a_price_needs_to_be_allowed(governor: Governor) -> None:
    """A policy that says what an unpriced model costs does not let it through."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            limit_type="daily",
            limit_value="1",
            on_unpriced="ceiling",
            unpriced_ceiling="0.01",
        )
    )
    assert ask(governor, "brand-new-model") == "brand-new-model"
    allow(governor, "gpt-4o")
    with pytest.raises(UnknownModel, match="allowed_models"):
        ask(governor, "brand-new-model")
    allow(governor, "brand-*")
    assert ask(governor, "brand-new-model") == "brand-new-model"


def test_a_model_paid_by_the_unit_needs_to_be_allowed(governor: Governor) -> None:
    """A tool that is a model is one; other tools are not concerned."""
    governor.tools.put(Tool(id="house-model", category="llm", cost_per_unit="0.01"))
    governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.01"))
    allow(governor, "gpt-4o")
    for name in ("model", "tool"):
        with pytest.raises(UnknownModel, match="allowed_models"):
            governor.reserve(tenant="acme", **{name: "house-model"})
    assert governor.reserve(tenant="acme", tool="search").allowed
    allow(governor, "house-*")
    assert governor.reserve(tenant="acme", tool="house-model").allowed


def test_the_list_of_models_says_which_are_enabled(governor: Governor) -> None:
    """Own models of a tenant are concerned like any."""
    own = Model(id="own", provider="openai", input_price="1", output_price="1")
    governor.models.put(own, tenant="acme")
    allow(governor, "gpt-4o")
    enabled = governor.models.list(enabled=True, tenant="acme")
    assert {model.id for model in enabled} == {"gpt-4o"}
    assert not governor.models.get("own", tenant="acme").enabled
    assert governor.models.get("gpt-4o-mini").enabled


def test_what_was_held_before_settles(governor: Governor) -> None:
    """A list that comes between a call and its answer loses no cent."""
    held = governor.reserve(tenant="acme", model="gpt-4o", prompt="hi", max_output_tokens=100)
    allow(governor, "claude-*")
    settled = governor.settle(held, usage=Usage(input=1_000_000))
    assert settled.cost == Decimal("2.5")


def test_a_long_list_is_not_told_in_full(governor: Governor) -> None:
    """An error stays a line, however many patterns there are."""
    allow(governor, *(f"model-{number}" for number in range(100)))
    with pytest.raises(UnknownModel, match=r"\(model-0, .*model-7, …\)"):
        ask(governor, "gpt-4o")
