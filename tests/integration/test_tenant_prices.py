"""Prices and models of one tenant: planned, settled and recorded at them, by every process."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import (
    Governor,
    Model,
    ModelRegistry,
    NotFound,
    Policy,
    Reservation,
    UnknownModel,
    Usage,
)
from fluxai.core.errors import InvalidRequest
from tests.integration.stubs import completion, open_governor

CALL = {"model": "gpt-4o", "input_tokens": 1_000_000, "max_output_tokens": 0}
USAGE = Usage(input=1_000_000)


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor without records."""
    with open_governor(request.param, tmp_path) as governor:
        yield governor
        assert governor.verify().ok


def negotiated(price: str = "1", **fields: Any) -> Model:
    """Return gpt-4o at a price of one's own."""
    return Model.model_validate(
        {
            "id": "gpt-4o",
            "provider": "openai",
            "input_price": price,
            "output_price": price,
            **fields,
        }
    )


def costs(governor: Governor, tenant: str) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Return what a million input tokens are held, settled (as usage, as answer), recorded at."""
    held = governor.reserve(tenant=tenant, **CALL)
    settled = governor.settle(held, usage=USAGE)
    other = governor.reserve(tenant=tenant, **CALL)
    answered = governor.settle(other, completion(tokens_in=1_000_000, tokens_out=0))
    recorded = governor.record(
        completion("gpt-4o-2024-08-06", tokens_in=1_000_000, tokens_out=0),
        tenant=tenant,
        id=f"{tenant}-{held.id}",
    )
    return held.estimate.highest, settled.cost, answered.cost, recorded.cost


def test_a_tenants_price_is_planned_settled_and_recorded(governor: Governor) -> None:
    """The tenant's own price is used from the next call on; other tenants pay the list price."""
    assert costs(governor, "acme") == (Decimal("2.5"),) * 4
    governor.models.put(negotiated(), tenant="acme")
    assert costs(governor, "acme") == (1,) * 4
    assert costs(governor, "other") == (Decimal("2.5"),) * 4
    events = governor.events(tenant="acme")
    assert {event.price_version for event in events[3:]} == {"own"}
    assert {event.model for event in events} == {"gpt-4o"}
    governor.models.put(negotiated("3"), tenant="acme")
    assert costs(governor, "acme") == (3,) * 4
    governor.models.delete("gpt-4o", tenant="acme")
    assert costs(governor, "acme") == (Decimal("2.5"),) * 4


def test_everybodys_price_lies_below_the_tenants(governor: Governor) -> None:
    """A record for everybody holds where a tenant has none of its own."""
    governor.models.put(negotiated("4"))
    governor.models.put(negotiated("1"), tenant="acme")
    assert (costs(governor, "acme"), costs(governor, "other")) == ((1,) * 4, (4,) * 4)
    governor.models.delete("gpt-4o", tenant="acme")
    assert costs(governor, "acme") == (4,) * 4


def test_the_registry_shows_what_holds_for_a_tenant(governor: Governor) -> None:
    """Get and list take the tenant; what is not its own is everybody's."""
    governor.models.put(negotiated(), tenant="acme")
    governor.models.put(Model(id="house", input_price="1", output_price="1"), tenant="acme")
    assert governor.models.get("openai/gpt-4o", tenant="acme").input_price == 1
    assert governor.models.get("gpt-4o", tenant="other").input_price == Decimal("2.5")
    assert governor.models.get("gpt-4o").input_price == Decimal("2.5")
    assert [m.id for m in governor.models.list(tenant="acme", provider="custom")] == ["house"]
    assert governor.models.list(provider="custom") == []
    with pytest.raises(NotFound):
        governor.models.get("house", tenant="other")
    with pytest.raises(NotFound):
        governor.models.delete("house")
    with pytest.raises(NotFound):
        governor.models.delete("gpt-4o", tenant="other")
    with pytest.raises(InvalidRequest):
        governor.models.put(negotiated(), tenant="*")


def test_a_model_of_one_tenant_is_nobody_elses(governor: Governor) -> None:
    """Others are told that it has no price; the tenant's limits count it under its id."""
    governor.models.put(Model(id="house", input_price="1", output_price="1"), tenant="acme")
    governor.policies.put(
        Policy(
            id="cap",
            tenant_id="*",
            scope="tool",
            scope_id="custom/house",
            limit_type="daily",
            limit_value="1.5",
        )
    )
    call = {**CALL, "model": "house"}
    assert governor.reserve(tenant="acme", **call).allowed
    assert not governor.reserve(tenant="acme", **call).allowed
    with pytest.raises(UnknownModel):
        governor.reserve(tenant="other", **call)


def test_a_tenant_may_have_a_model_switched_off(governor: Governor) -> None:
    """A disabled record refuses the model for that tenant."""
    governor.models.put(negotiated(enabled=False), tenant="acme")
    with pytest.raises(UnknownModel, match="disabled"):
        governor.reserve(tenant="acme", **CALL)
    assert governor.reserve(tenant="other", **CALL).allowed


def test_a_downgrade_leads_to_the_tenants_own_model(governor: Governor) -> None:
    """The fallback of a tenant's policy may be a model that only it has."""
    house = Model(id="house", provider="openai", input_price="0.1", output_price="0.1")
    governor.models.put(house, tenant="acme")
    governor.policies.put(
        Policy(
            id="down",
            tenant_id="acme",
            limit_type="per_request",
            limit_value="1",
            decision="downgrade",
            fallback_tool_id="house",
        )
    )
    moved = governor.reserve(tenant="acme", **CALL)
    assert (moved.decision, moved.final_tool) == ("downgraded", "house")
    assert governor.settle(moved, usage=USAGE).cost == Decimal("0.1")


def test_another_process_sees_the_price(tmp_path: Path) -> None:
    """Governors on one file plan, settle and record at what any of them put, without a restart."""
    with open_governor("sqlite", tmp_path) as one, open_governor("sqlite", tmp_path) as two:
        assert costs(two, "acme") == (Decimal("2.5"),) * 4
        one.models.put(negotiated(), tenant="acme")
        recorded = two.record(
            completion(tokens_in=1_000_000, tokens_out=0), tenant="acme", id="first"
        )
        assert recorded.cost == 1
        assert costs(two, "acme") == (1,) * 4
        one.models.put(negotiated("2"), tenant="acme")
        assert two.check(tenant="acme", **CALL).estimate.highest == 2
        assert costs(two, "acme") == (2,) * 4
    with open_governor("sqlite", tmp_path) as three:
        assert costs(three, "acme") == (2,) * 4


def test_a_reservation_that_travels_is_settled_at_the_tenants_price(tmp_path: Path) -> None:
    """By its id, or as text, in a process that has planned nothing for that tenant yet."""
    with open_governor("sqlite", tmp_path) as one, open_governor("sqlite", tmp_path) as two:
        one.models.put(negotiated(), tenant="acme")
        first, second = (one.reserve(tenant="acme", **CALL) for _ in range(2))
        assert two.settle(first.id, usage=USAGE, tenant="acme").cost == 1
        again = Reservation.from_json(second.to_json())
        answer = completion(tokens_in=1_000_000, tokens_out=0)
        assert two.settle(again, answer).cost == 1


def test_a_registry_may_bring_a_tenants_prices_along() -> None:
    """Prices that a program puts into the registry's layer of a tenant hold as well."""
    registry = ModelRegistry()
    registry.for_tenant("acme").put(negotiated())
    with Governor(registry=registry) as governor:
        assert costs(governor, "acme") == (1,) * 4
        assert costs(governor, "other") == (Decimal("2.5"),) * 4
        assert governor.estimator_of("acme").cost(completion(tokens_in=10**6)).total < 2


def test_registered_tenants_only(tmp_path: Path) -> None:
    """Where tenants are registered, a price for an unknown one is a mistake."""
    with (
        open_governor("sqlite", tmp_path, subjects="registered") as governor,
        pytest.raises(NotFound),
    ):
        governor.models.put(negotiated(), tenant="acme")
