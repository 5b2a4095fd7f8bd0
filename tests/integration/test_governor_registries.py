"""The registries: put, get, list and delete of tenants, users, tools, models and policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fluxai import (
    Governor,
    InvalidRequest,
    Model,
    NotFound,
    Policy,
    Tenant,
    Tool,
    UnknownModel,
    User,
)
from fluxai.storage.memory import MemoryStorage
from tests.integration.stubs import ASK, daily, open_governor


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """An empty governor."""
    with open_governor(request.param, tmp_path) as governor:
        yield governor
        assert governor.verify().ok


def test_tenants(governor: Governor) -> None:
    """A tenant is put, replaced, found, listed and deleted by its id."""
    put = governor.tenants.put(Tenant(id="acme", name="Acme", hard_limit=Decimal("5.00")))
    assert governor.tenants.get("acme") == put
    governor.tenants.put(Tenant(id="acme", plan="pro"))
    governor.tenants.put(Tenant(id="globex", plan="free"))
    assert governor.tenants.get("acme").hard_limit is None
    assert [tenant.id for tenant in governor.tenants.list(plan="pro")] == ["acme"]
    governor.tenants.delete("acme")
    for verb in (governor.tenants.get, governor.tenants.delete):
        with pytest.raises(NotFound, match="acme"):
            verb("acme")
    assert [tenant.id for tenant in governor.tenants.list()] == ["globex"]


def test_users_belong_to_a_tenant(governor: Governor) -> None:
    """The same id in two tenants is two users."""
    for tenant in ("acme", "globex"):
        governor.users.put(User(id="alice", tenant_id=tenant, email=f"a@{tenant}.com"))
    assert governor.users.get("alice", tenant="globex").email == "a@globex.com"
    assert len(governor.users.list()) == 2
    assert len(governor.users.list(tenant="acme", role="member")) == 1
    assert governor.users.list(tenant="acme", role="admin") == []
    governor.users.delete("alice", tenant="acme")
    with pytest.raises(NotFound):
        governor.users.get("alice", tenant="acme")
    assert governor.users.get("alice", tenant="globex").id == "alice"


def test_tools(governor: Governor) -> None:
    """A tool's price is kept to the last digit."""
    price = Decimal("0.000000000123456")
    governor.tools.put(Tool(id="search", cost_per_unit=price, category="search"))
    assert governor.tools.get("search").cost_per_unit == price
    assert [tool.id for tool in governor.tools.list(category="search")] == ["search"]
    governor.tools.delete("search")
    with pytest.raises(NotFound):
        governor.reserve(tenant="acme", tool="search")


def test_models_of_one_s_own(governor: Governor) -> None:
    """A model can be added, replaced and deleted; a bundled one of that id comes back."""
    governor.models.put(
        Model(id="mine", provider="Custom", input_price=Decimal(1), output_price=Decimal(2))
    )
    assert governor.models.get("mine").output_price == 2
    reservation = governor.reserve(
        tenant="acme", model="mine", input_tokens=1_000_000, max_output_tokens=1_000_000
    )
    assert reservation.estimate.highest == 3
    bundled = governor.models.get("gpt-4o")
    governor.models.put(Model(id="gpt-4o", provider="openai", input_price=Decimal(99)))
    assert governor.models.get("gpt-4o").input_price == 99
    assert governor.reserve(**{**ASK, "max_output_tokens": 0}).estimate.highest > Decimal("0.001")
    governor.models.delete("gpt-4o")
    assert governor.models.get("gpt-4o") == bundled
    governor.models.delete("mine")
    with pytest.raises(NotFound):
        governor.models.get("mine")
    with pytest.raises(UnknownModel):
        governor.reserve(tenant="acme", model="mine", prompt="hi")
    with pytest.raises(NotFound):
        governor.models.delete("gpt-4o")


def test_models_are_found_by_any_spelling_and_filter(governor: Governor) -> None:
    """Provider prefixes and dated snapshots are the same model."""
    assert governor.models.get("openai/gpt-4o").id == governor.models.get("gpt-4o").id
    fast = governor.models.list(provider="anthropic", tier="fast", capability="text", enabled=True)
    assert fast
    assert {model.provider for model in fast} == {"anthropic"}


def test_policies(governor: Governor) -> None:
    """A policy without an id gets one; listing finds those of a tenant, and everybody's."""
    named = governor.policies.put(daily("5"))
    unnamed = governor.policies.put(Policy.model_validate({**daily("6").model_dump(), "id": None}))
    everybody = governor.policies.put(daily("7", id="all", tenant_id="*"))
    other = governor.policies.put(daily("8", id="other", tenant_id="globex"))
    assert unnamed.id
    assert governor.policies.get(unnamed.id) == unnamed
    assert {policy.id for policy in governor.policies.list(tenant="acme")} == {
        named.id,
        unnamed.id,
        everybody.id,
    }
    assert {policy.id for policy in governor.policies.list(tenant_id="acme")} == {
        named.id,
        unnamed.id,
    }
    assert governor.policies.list(limit_value=Decimal(8)) == [other]
    with pytest.raises(InvalidRequest, match="colour"):
        governor.policies.list(colour="red")
    for verb in (governor.policies.get, governor.policies.delete):
        with pytest.raises(NotFound, match="no-such"):
            verb("no-such")


@pytest.mark.parametrize(
    "fields",
    [
        {"limit_type": "rolling", "window": "24h"},
        {"limit_type": "rolling", "window": "90s"},
        {"measure": "tokens", "limit_value": "100"},
        {"alert_at": ("0.5", "0.9")},
        {"mode": "shadow", "priority": -7},
        {"scope": "label", "scope_id": "team=red"},
        {"limit_value": "0.000000001"},
    ],
    ids=["day", "seconds", "tokens", "alerts", "shadow", "label", "a nano-dollar"],
)
def test_a_policy_is_read_back_as_it_was_put(governor: Governor, fields: dict[str, str]) -> None:
    """Whatever its fields, and whatever the store: nothing is lost on the way."""
    put = governor.policies.put(daily("5", **fields))
    assert put.id is not None
    assert governor.policies.get(put.id) == put
    assert governor.reserve(tenant="globex", model="gpt-4o", input_tokens=1).allowed
    governor.check(**ASK)


def test_a_policy_may_move_to_another_tenant(governor: Governor) -> None:
    """A policy put again under another tenant leaves the first."""
    governor.policies.put(daily("0"))
    assert not governor.reserve(**ASK).allowed
    governor.policies.put(daily("0", tenant_id="globex"))
    assert governor.reserve(**ASK).allowed
    assert not governor.reserve(**{**ASK, "tenant": "globex"}).allowed


class _Meanwhile(MemoryStorage):
    """A store in which somebody is faster: once, between a look at the records and a change."""

    meanwhile: Callable[[], object] | None = None

    def apply(self, *args: Any, **options: Any) -> None:
        """Let the other go first."""
        first, self.meanwhile = self.meanwhile, None
        if first is not None:
            first()
        super().apply(*args, **options)


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_policy_that_may_not_move_takes_no_id_from_another(*, meanwhile: bool) -> None:
    """Not even from one who has come by it between the look and the put."""
    storage = _Meanwhile()
    with Governor(storage) as governor:

        def come_by_it() -> object:
            return governor.policies.put(daily("0", tenant_id="globex"), move=False)

        if meanwhile:
            storage.meanwhile = come_by_it
        else:
            come_by_it()
        with pytest.raises(InvalidRequest, match="is taken"):
            governor.policies.put(daily("9"), move=False)
        (kept,) = governor.policies.list()
        assert kept.tenant_id == "globex"
        governor.policies.put(daily("1", tenant_id="globex"), move=False)
        assert governor.policies.get("daily").limit_value == 1
        with pytest.raises(NotFound):
            governor.policies.delete("daily", tenant="acme")
        governor.policies.delete("daily", tenant="globex")
        governor.policies.put(daily("9"), move=False)
        assert governor.policies.get("daily").tenant_id == "acme"


def test_a_fallback_that_is_nothing_is_refused(governor: Governor) -> None:
    """It is said to be no model and no tool, since either was meant."""
    with pytest.raises(InvalidRequest, match="'gpt-99' is neither a model with a price nor a tool"):
        governor.policies.put(
            Policy(
                tenant_id="acme",
                limit_type="daily",
                limit_value=1,
                decision="downgrade",
                fallback_tool_id="gpt-99",
            )
        )


def test_fallbacks_may_not_go_in_circles(governor: Governor) -> None:
    """A → B → C → A is refused when the last one is put, under any spelling."""
    chain = [("gpt-4", "gpt-4o"), ("openai/gpt-4o", "gpt-4o-mini"), ("gpt-4o-mini", "gpt-4-0613")]
    rule = {
        "tenant_id": "acme",
        "scope": "tool",
        "limit_type": "per_request",
        "limit_value": 0,
        "decision": "downgrade",
    }
    for tool, fallback in chain[:2]:
        governor.policies.put(
            Policy.model_validate({**rule, "scope_id": tool, "fallback_tool_id": fallback})
        )
    tool, fallback = chain[2]
    with pytest.raises(InvalidRequest, match="circle"):
        governor.policies.put(
            Policy.model_validate({**rule, "scope_id": tool, "fallback_tool_id": fallback})
        )
    assert len(governor.policies.list()) == 2


def test_changes_are_seen_by_other_governors_at_once(tmp_path: Path) -> None:
    """Two governors on one file: what one puts, the other's next call obeys."""
    with open_governor("sqlite", tmp_path) as one, open_governor("sqlite", tmp_path) as two:
        assert two.reserve(**ASK).allowed
        one.policies.put(daily("0"))
        assert not two.check(**ASK).allowed
        assert not two.reserve(**ASK).allowed
        one.policies.delete("daily")
        assert two.reserve(**ASK).allowed
        one.tools.put(Tool(id="search", cost_per_unit=Decimal("0.01")))
        assert two.reserve(tenant="acme", tool="search").estimate.highest == Decimal("0.01")
        one.tools.put(Tool(id="search", cost_per_unit=Decimal("0.02")))
        assert two.reserve(tenant="acme", tool="search").estimate.highest == Decimal("0.02")
        one.models.put(Model(id="mine", input_price=Decimal(1)))
        assert two.models.get("mine").input_price == 1
        one.tools.put(Tool(id="lookup", cost_per_unit=Decimal("0.03")))
        assert two.record(tenant="acme", tool="lookup", units=2, id="x").cost == Decimal("0.06")
        one.tenants.put(Tenant(id="acme", hard_limit=Decimal(0)))
        assert two.budgets("acme")[0].limit == 0
        assert not two.reserve(**ASK).allowed
        one.tenants.delete("acme")
        one.users.put(User(id="alice", tenant_id="acme", personal_cap=Decimal(0)))
        assert not two.reserve(**ASK, user="alice").allowed


def test_what_a_store_refuses_does_not_stay_behind(tmp_path: Path) -> None:
    """A model that could not be stored is not known to the process either."""
    governor = open_governor("sqlite", tmp_path)
    governor.close()
    with pytest.raises(Exception, match=r"(?i)closed|could not"):
        governor.models.put(Model(id="mine", input_price=Decimal(1)))
    with pytest.raises(UnknownModel):
        governor.registry.get("mine")


def test_dictionaries_are_validated_like_records(governor: Governor) -> None:
    """What comes from a file is checked field by field."""
    governor.tenants.put({"id": "acme", "hard_limit": "5"})  # type: ignore[arg-type]
    assert governor.tenants.get("acme").hard_limit == 5
    with pytest.raises(ValidationError, match="hard_limit"):
        governor.tenants.put({"id": "acme", "hard_limit": 0.5})  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        governor.policies.put(Tenant(id="acme"))  # type: ignore[arg-type]


def test_registrations_are_seen_by_other_governors_at_once(tmp_path: Path) -> None:
    """A stranger that somebody registers elsewhere is no stranger at the next call."""
    with (
        open_governor("sqlite", tmp_path, subjects="registered") as one,
        open_governor("sqlite", tmp_path, subjects="registered") as two,
    ):
        with pytest.raises(NotFound, match="tenant"):
            two.reserve(**ASK)
        one.tenants.put(Tenant(id="acme"))
        assert two.reserve(**ASK).allowed
        with pytest.raises(NotFound, match="user"):
            two.reserve(**ASK, user="alice")
        one.users.put(User(id="alice", tenant_id="acme"))
        assert two.reserve(**ASK, user="alice").allowed
