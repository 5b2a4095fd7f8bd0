"""What a call costs whose model has no price: as a policy says, and never nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fluxai import (
    Governor,
    InvalidRequest,
    Model,
    Policy,
    PolicyEngine,
    Reservation,
    UnknownModel,
    Usage,
)
from tests.integration.command_line import run, url
from tests.integration.stubs import completion, open_governor

NEW = "brand-new-1"
CALL = {"tenant": "acme", "model": NEW, "prompt": "Say hi.", "max_output_tokens": 100}
CEILING = {"on_unpriced": "ceiling", "unpriced_ceiling": "0.07"}
WARN = {"on_unpriced": "warn"}


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor without records."""
    with open_governor(request.param, tmp_path) as governor:
        yield governor
        assert governor.verify().ok


def policy(policy_id: str = "p", **fields: Any) -> Policy:
    """Return a wide limit of acme's that says something of models without a price."""
    values = {"id": policy_id, "tenant_id": "acme", "limit_type": "daily", "limit_value": "1000"}
    return Policy.model_validate({**values, **fields})


def test_without_a_word_it_is_refused(governor: Governor) -> None:
    """Refusing is what happens where no policy says otherwise, also one that says so itself."""
    governor.policies.put(policy("a"))
    governor.policies.put(policy("b", on_unpriced="refuse"))
    governor.policies.put(policy("elsewhere", tenant_id="other", **CEILING))
    for verb in (governor.check, governor.reserve):
        with pytest.raises(UnknownModel, match="no price is known"):
            verb(**CALL)
    for given in ({"usage": Usage(input=1), "model": NEW}, {"response": completion(NEW)}):
        with pytest.raises(UnknownModel):
            governor.record(**given, tenant="acme", id="x")


def test_a_ceiling_is_held_and_charged_for_each_call(governor: Governor) -> None:
    """Whatever is settled, each call costs the ceiling; the event says that and why."""
    governor.policies.put(policy(**CEILING))
    assert governor.check(**CALL).estimate.highest == Decimal("0.07")
    answers: list[dict[str, Any]] = [
        {"response": completion(NEW)},
        {"response": completion("some-other-name")},
        {"usage": Usage(input=10**6, output=10**6)},
    ]
    for answer in answers:
        held = governor.reserve(**CALL)
        assert (held.decision, held.estimate.highest) == ("allowed", Decimal("0.07"))
        assert held.estimate.lines[-1].source == "unpriced_ceiling"
        settled = governor.settle(held, **answer)
        assert settled.cost == Decimal("0.07")
        assert settled.flags == ("unpriced_ceiling",)
        assert settled.price_version == "unpriced_ceiling"
        assert not settled.priced
    for number, given in enumerate(
        (
            {"response": completion(NEW)},
            {"usage": Usage(input=3), "model": NEW},
        )
    ):
        recorded = governor.record(**given, tenant="acme", id=f"r{number}")
        assert (recorded.cost, recorded.flags) == (Decimal("0.07"), ("unpriced_ceiling",))
    assert governor.budgets("acme")[0].settled == Decimal("0.35")


def test_a_warning_assumes_a_dear_model(governor: Governor) -> None:
    """Such a call is priced by its tokens, as a dear model of the provider that its id shows."""
    governor.policies.put(policy(**WARN))
    held = governor.reserve(**CALL)
    settled = governor.settle(held, completion(NEW, tokens_in=1_000_000, tokens_out=0))
    assert settled.cost == 15
    assert (settled.flags[0], settled.price_version) == ("unpriced_assumed", "unpriced_assumed")
    claude = {**CALL, "model": "claude-galaxy-9"}
    assert (
        governor.check(**claude).estimate.highest
        >= governor.check(**{**CALL, "model": "claude-opus-4-1"}).estimate.highest
    )


def test_a_response_that_names_an_unpriced_model_is_settled_by_the_policy(
    governor: Governor,
) -> None:
    """Where a policy says so; else at the price of the model that was asked for."""
    asked = {**CALL, "model": "gpt-4o"}
    before = governor.settle(governor.reserve(**asked), completion(NEW))
    assert (before.cost, before.flags) == (Decimal("0.00035"), ())
    governor.policies.put(policy(**CEILING))
    after = governor.settle(governor.reserve(**asked), completion(NEW))
    assert (after.cost, after.flags) == (Decimal("0.07"), ("unpriced_ceiling", "overrun"))
    # One's own price for what was asked for is one's word on what answers there.
    governor.models.put(Model(id="house", input_price="1", output_price="1"))
    own = governor.settle(governor.reserve(**{**CALL, "model": "house"}), completion(NEW))
    assert own.flags == ()


def test_expected_costs_and_estimates_carry_the_flag(governor: Governor) -> None:
    """A call that nobody settled exactly is charged as stated too, and says so."""
    governor.policies.put(policy(**CEILING))
    with governor.guard(**CALL) as call:
        pass
    assert call.settlement is not None
    assert call.settlement.cost == Decimal("0.07")
    assert set(call.settlement.flags) == {"estimated", "unpriced_ceiling"}

    @governor.govern(tenant="acme", model=NEW)
    def ask(prompt: str, *, model: str, max_tokens: int | None = None) -> str:
        return f"{prompt} {model} {max_tokens}"

    ask("hi")
    (event,) = governor.events(after=1)
    assert event.cost == Decimal("0.07")
    assert set(event.flags) == {"estimated", "unpriced_ceiling"}


@pytest.mark.parametrize(
    ("policies", "cost"),
    [
        # Higher priority first, then tool, label, user, tenant, then the id.
        ([("a", {}, "0.01"), ("b", {}, "0.02")], "0.01"),
        ([("a", {}, "0.01"), ("b", {"priority": 1}, "0.02")], "0.02"),
        ([("a", {}, "0.01"), ("b", {"scope": "user"}, "0.02")], "0.02"),
        ([("a", {"scope": "user"}, "0.01"), ("b", {"scope": "label"}, "0.02")], "0.02"),
        ([("a", {"scope": "label"}, "0.01"), ("b", {"scope": "tool"}, "0.02")], "0.02"),
        ([("a", {"scope": "tool", "scope_id": "x"}, "0.01"), ("b", {}, "0.02")], "0.02"),
        ([("a", {"tenant_id": "*"}, "0.01"), ("b", {}, "0.02")], "0.01"),
        ([("a", {"decision": "allow"}, "0.01"), ("b", {"decision": "deny"}, "0.02")], "0.01"),
        ([("a", {"mode": "shadow"}, "0.01"), ("b", {}, "0.02")], "0.02"),
        ([("a", {"scope": "user", "scope_id": "bob"}, "0.01"), ("b", {}, "0.02")], "0.02"),
    ],
)
def test_the_first_in_acting_order_decides(
    policies: list[tuple[str, dict[str, Any], str]], cost: str
) -> None:
    """Only policies that apply to the call count; the engine says the same as the governor."""
    call = {"tenant": "acme", "user": "ann", "labels": {"team": "red"}, "model": NEW}
    call |= {"input_tokens": 10, "max_output_tokens": 10}
    made = [
        policy(name, **{**fields, "on_unpriced": "ceiling", "unpriced_ceiling": ceiling})
        for name, fields, ceiling in policies
    ]
    with Governor() as governor:
        for one in made:
            governor.policies.put(one)
        governor.policies.put(policy("refusing", priority=9, on_unpriced="refuse"))
        assert governor.check(**call).estimate.highest == Decimal(cost)
    verdict = PolicyEngine(made).evaluate(call, at=datetime(2026, 1, 15, tzinfo=UTC))
    assert verdict.estimate.highest == Decimal(cost)


def test_a_limit_counts_what_a_policy_states(governor: Governor) -> None:
    """A model without a price can't spend more than the budget either."""
    governor.policies.put(policy(limit_value="0.20", **CEILING))
    decisions = [governor.reserve(**CALL).decision for _ in range(3)]
    assert decisions == ["allowed", "allowed", "denied"]


def test_a_disabled_model_stays_refused(governor: Governor) -> None:
    """It has a price: somebody switched it off."""
    governor.policies.put(policy(**WARN))
    off = Model(id=NEW, input_price="1", output_price="1", enabled=False)
    governor.models.put(off)
    with pytest.raises(UnknownModel, match="disabled"):
        governor.reserve(**CALL)


def test_a_price_that_comes_later_holds_from_then_on(governor: Governor) -> None:
    """Once the model has a price nothing is assumed any more."""
    governor.policies.put(policy(**CEILING))
    assert governor.reserve(**CALL).estimate.highest == Decimal("0.07")
    governor.models.put(Model(id=NEW, input_price="1", output_price="1"))
    held = governor.reserve(**CALL)
    assert held.estimate.highest < Decimal("0.001")
    assert governor.settle(held, completion(NEW)).flags == ()
    governor.policies.delete("p")
    governor.models.delete(NEW)
    with pytest.raises(UnknownModel):
        governor.reserve(**CALL)


def test_a_downgrade_of_an_unpriced_model(governor: Governor) -> None:
    """The fallback that a policy names is trusted; without a name there is none."""
    down = {"limit_type": "per_request", "limit_value": "0.05", "decision": "downgrade"}
    governor.policies.put(policy(**down, **CEILING, fallback_tool_id="gpt-4o-mini"))
    assert governor.reserve(**CALL).final_tool == "gpt-4o-mini"
    governor.policies.put(policy(**down, **CEILING))
    refused = governor.reserve(**CALL)
    assert (refused.decision, refused.counter_offer.models) == ("denied", ())  # type: ignore[union-attr]


def test_another_process_settles_by_the_policy(tmp_path: Path) -> None:
    """By an id, or as text, where nothing of the model is known; and it sees a new policy."""
    with open_governor("sqlite", tmp_path) as one, open_governor("sqlite", tmp_path) as two:
        with pytest.raises(UnknownModel):
            two.reserve(**CALL)
        one.policies.put(policy(**CEILING))
        first, second = one.reserve(**CALL), two.reserve(**CALL)
        assert two.settle(first.id, completion(NEW), tenant="acme").cost == Decimal("0.07")
        again = Reservation.from_json(second.to_json())
        assert one.settle(again, usage=Usage(input=9)).flags == ("unpriced_ceiling",)


def test_passes_of_one_call_pay_one_ceiling(governor: Governor) -> None:
    """A loop of searches is one call, however many passes its usage sums up."""
    governor.policies.put(policy(**CEILING))
    answer = {
        "type": "message",
        "model": NEW,
        "content": [],
        "usage": {
            "input_tokens": 401_468,
            "output_tokens": 500,
            "server_tool_use": {"web_search_requests": 10},
        },
    }
    settled = governor.settle(governor.reserve(**CALL), answer)
    assert settled.cost == Decimal("0.07")
    assert "unpriced_fee" in settled.flags


@pytest.mark.parametrize(
    "fields",
    [
        {"on_unpriced": "ceiling"},
        {"on_unpriced": "ceiling", "unpriced_ceiling": "0"},
        {"on_unpriced": "ceiling", "unpriced_ceiling": "-1"},
        {"on_unpriced": "ceiling", "unpriced_ceiling": 0.5},
        {"on_unpriced": "warn", "unpriced_ceiling": "1"},
        {"unpriced_ceiling": "1"},
    ],
)
def test_a_ceiling_has_to_be_a_sum_above_zero(fields: dict[str, Any]) -> None:
    """The error names the field; a ceiling without its policy is a mistake too."""
    with pytest.raises((ValidationError, InvalidRequest), match="unpriced_ceiling"):
        policy(**fields)


def test_rows_of_older_versions_still_validate() -> None:
    """A policy that was stored before these fields existed refuses, as it did."""
    row = policy().model_dump(mode="json")
    del row["on_unpriced"], row["unpriced_ceiling"]
    old = Policy.model_validate(row)
    assert (old.on_unpriced, old.unpriced_ceiling) == ("refuse", None)


def test_policy_files_know_the_fields(tmp_path: Path) -> None:
    """A file states it, `check` shows it, and a fault is told with its field."""
    file = tmp_path / "limits.toml"
    lines = [
        "[[policy]]",
        'id = "new"',
        'tenant_id = "acme"',
        'limit_type = "daily"',
        "limit_value = 5",
        'on_unpriced = "ceiling"',
    ]
    file.write_text("\n".join(lines))
    faulty = run("policies", "apply", "--db", url(tmp_path), file)
    assert (faulty.code, "unpriced_ceiling" in faulty.err) == (1, True)
    file.write_text("\n".join([*lines, "unpriced_ceiling = 0.07"]))
    assert run("policies", "apply", "--db", url(tmp_path), file).code == 0
    call = ("check", "--db", url(tmp_path), "--tenant", "acme", "--model", NEW)
    shown = run(*call, "--input-tokens", 5)
    assert shown.code == 0
    assert "No price is known for brand-new-1" in shown.out
    listed = run("policies", "list", "--db", url(tmp_path), "--json").document
    assert "0.07" in str(listed)
