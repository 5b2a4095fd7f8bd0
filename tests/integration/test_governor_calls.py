"""One call through the public names: look, reserve, settle, release, extend, record, adjust."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import (
    Decision,
    Governor,
    InvalidRequest,
    Policy,
    Reservation,
    ReservationNotFound,
    SettlementConflict,
    Tool,
    Usage,
)
from fluxai.testing import FakeClock
from tests.integration.stubs import ASK, completion, daily, open_governor, snapshot, spent


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor whose tenant acme has $5 a day."""
    with open_governor(request.param, tmp_path) as governor:
        governor.policies.put(daily("5"))
        yield governor
        assert governor.verify().ok


def test_the_readme_s_first_lines(tmp_path: Path) -> None:
    """The first program of the README runs as written, on a file."""
    governor = Governor(f"sqlite:///{tmp_path}/fluxai.db")
    governor.policies.put(
        Policy(tenant_id="acme", limit_type="daily", limit_value="5.00", decision="deny")  # type: ignore[arg-type]
    )
    with governor.guard(tenant="acme", user="alice", model="gpt-4o", prompt="hi") as call:
        call.settle(completion())
    (budget,) = governor.budgets("acme")
    assert budget.settled == Decimal("0.00035")
    governor.close()


def test_a_decision_shows_all_that_the_contract_names(governor: Governor) -> None:
    """id, decision, tools, estimate, cap, remaining, message, reasons and the rest are there."""
    reservation = governor.reserve(**ASK)
    assert (reservation.decision, reservation.allowed) == ("allowed", True)
    assert (reservation.requested_tool, reservation.final_tool) == ("gpt-4o", "gpt-4o")
    assert (reservation.model, reservation.max_output_tokens) == ("gpt-4o", 100)
    estimate = reservation.estimate
    assert 0 < estimate.expected <= estimate.highest
    assert estimate.method in {"exact", "encoder", "heuristic"}
    assert reservation.remaining == 5 - estimate.highest
    assert reservation.reasons == ()
    assert reservation.counter_offer is None
    assert reservation.approval_id is None
    assert reservation.expires_at == datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
    assert "gpt-4o" in reservation.message


def test_a_refusal_says_why_and_what_would_fit(governor: Governor) -> None:
    """Numbers, the policy, and the largest cap with which the same call is granted."""
    governor.record(tenant="acme", model="gpt-4o", cost="4.99", id="before")
    refused = governor.reserve(**{**ASK, "max_output_tokens": 100_000})
    assert (refused.decision, refused.allowed) == ("denied", False)
    (reason,) = refused.reasons
    assert (reason.policy_id, reason.scope, reason.limit_type) == ("daily", "tenant", "daily")
    assert (reason.limit, reason.settled, reason.reserved) == (5, Decimal("4.99"), 0)
    assert reason.requested == refused.estimate.highest
    assert reason.resets_at == datetime(2026, 1, 16, tzinfo=UTC)
    offer = refused.counter_offer
    assert offer is not None
    assert offer.max_output_tokens is not None
    assert offer.resets_at == reason.resets_at
    fitting = {**ASK, "max_output_tokens": offer.max_output_tokens}
    assert not governor.check(
        **{**fitting, "max_output_tokens": offer.max_output_tokens + 1}
    ).allowed
    assert governor.reserve(**fitting).allowed
    for name in offer.models:
        assert governor.check(**{**ASK, "model": name, "max_output_tokens": 100_000}).allowed


def test_what_fits_after_waiting_is_told_of_the_last_limit_in_the_way(governor: Governor) -> None:
    """A day that ends is no remedy while the month is used up, or a limit in total."""
    month = {"tenant_id": "acme", "limit_type": "monthly", "limit_value": "5"}
    governor.policies.put(Policy(id="month", **month))  # type: ignore[arg-type]
    governor.record(tenant="acme", model="gpt-4o", cost="5", id="before")
    offer = governor.check(**ASK).counter_offer
    assert offer is not None
    assert offer.resets_at == datetime(2026, 2, 1, tzinfo=UTC)
    governor.policies.put(Policy(id="month", **{**month, "limit_type": "total"}))  # type: ignore[arg-type]
    governor.record(tenant="acme", model="gpt-4o", cost="5", id="more")
    offer = governor.check(**ASK).counter_offer
    assert offer is not None
    assert offer.resets_at is None


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"limit_type": "concurrent"}, "the limit of 1 open call at once for the tenant"),
        ({"limit_type": "daily", "measure": "requests"}, "the daily requests limit of 1 request"),
    ],
    ids=["concurrent", "requests"],
)
def test_no_other_call_is_offered_where_calls_are_counted(
    governor: Governor, limit: dict[str, Any], says: str
) -> None:
    """A cheaper model, or a shorter answer, would be refused by that limit as well."""
    governor.policies.put(Policy(id="calls", tenant_id="acme", limit_value=1, **limit))
    held = governor.reserve(**ASK)
    refused = governor.reserve(**{**ASK, "max_output_tokens": 1_000_000})
    assert refused.decision == "denied"
    assert {reason.policy_id for reason in refused.reasons} == {"calls", "daily"}
    assert any(says in str(reason) for reason in refused.reasons)
    offer = refused.counter_offer
    assert offer is not None
    assert (offer.models, offer.max_output_tokens) == ((), None)
    governor.release(held)


def test_no_approval_is_offered_where_a_deny_is_crossed_too(governor: Governor) -> None:
    """The refusal names the limit that no approval overrides, beside the one that asks for one."""
    governor.policies.put(
        Policy(
            id="ask",
            tenant_id="acme",
            scope="tool",
            scope_id="gpt-4o",
            limit_type="daily",
            measure="requests",
            limit_value=1,
            decision="require_approval",
        )
    )
    governor.record(tenant="acme", model="gpt-4o", cost="5", id="before")
    refused = governor.reserve(**ASK)
    assert (refused.decision, refused.reasons[0].policy_id) == ("denied", "ask")
    assert refused.counter_offer is not None
    assert refused.counter_offer.approvers is None
    assert "1 request settled" in refused.message
    assert "no approval helps, since the daily cost limit of $5.00" in refused.message


def test_a_look_holds_nothing_and_agrees_with_reserve(governor: Governor) -> None:
    """`check` says what `reserve` would, on every side of a limit, and changes nothing."""
    for limit in ("0", "0.0005", "0.00102", "0.002", "5"):
        governor.policies.put(daily(limit))
        before = snapshot(governor)
        look = governor.check(**ASK)
        assert snapshot(governor) == before
        held = governor.reserve(**ASK)
        assert (look.decision, look.remaining, look.estimate) == (
            held.decision,
            held.remaining,
            held.estimate,
        )
        assert look.expires_at is None
        if held.allowed:
            governor.release(held)


def test_without_a_cap_the_store_grants_a_fair_one(governor: Governor) -> None:
    """At least 256 tokens, at most 4,096, and a quarter of the headroom beyond the minimum."""
    free = governor.reserve(tenant="globex", model="gpt-4o", input_tokens=0)
    assert free.max_output_tokens == 4_096
    governor.policies.put(daily("0.01256"))
    fair = governor.reserve(tenant="acme", model="gpt-4o", input_tokens=0)
    assert fair.max_output_tokens == 256 + (1256 - 256) // 4
    governor.policies.put(daily("0.001"))
    assert not governor.reserve(tenant="acme", model="gpt-4o", input_tokens=0).allowed


@pytest.mark.parametrize(
    "how",
    [
        {"response": completion()},
        {"response": json.dumps(completion())},
        {"response": json.dumps(completion()).encode()},
        {"usage": Usage(input=20, output=30)},
        {"cost": "0.00035"},
        {"cost": Decimal("0.00035")},
    ],
    ids=["dict", "text", "bytes", "usage", "cost", "decimal"],
)
def test_settling_takes_what_a_provider_gives(governor: Governor, how: dict[str, Any]) -> None:
    """Any form of the same bill is the same charge."""
    settlement = governor.settle(governor.reserve(**ASK), **how)
    assert settlement.cost == Decimal("0.00035")
    assert (settlement.model, settlement.tool) == ("gpt-4o", "gpt-4o")
    assert (settlement.overrun, settlement.late, settlement.estimated) == (False, False, False)
    assert settlement.priced
    assert spent(governor) == Decimal("0.00035")


def test_the_model_that_answered_is_priced(governor: Governor) -> None:
    """Where the provider answered with another model, its price counts, on the call's account."""
    settlement = governor.settle(governor.reserve(**ASK), completion("gpt-4o-mini"))
    assert settlement.cost == Decimal("0.000021")
    assert (settlement.model, settlement.tool) == ("gpt-4o-mini", "gpt-4o")


def test_a_deployment_s_own_name_is_the_model_that_was_asked_for(governor: Governor) -> None:
    """An answer under a name that has no price is priced as what was reserved."""
    settlement = governor.settle(governor.reserve(**ASK), completion("our-deployment-7"))
    assert settlement.cost == Decimal("0.00035")


def test_an_overrun_is_recorded_and_shown(governor: Governor) -> None:
    """More than was held is charged all the same, never refused and never hidden."""
    governor.policies.put(daily("0.01"))
    settlement = governor.settle(governor.reserve(**ASK), cost="3")
    assert (settlement.cost, settlement.overrun) == (3, True)
    (budget,) = governor.budgets("acme")
    assert (budget.settled, budget.remaining) == (3, 0)
    assert not governor.check(**ASK).allowed


def test_settling_again(governor: Governor) -> None:
    """The same outcome is the same settlement, another is a conflict, an estimate gives way once."""
    reservation = governor.reserve(**ASK)
    first = governor.settle(reservation, completion())
    assert governor.settle(reservation, completion()).event_id == first.event_id
    assert governor.settle(reservation.id, completion()).event_id == first.event_id
    with pytest.raises(SettlementConflict, match="adjust"):
        governor.settle(reservation, cost="1")
    estimated = governor.reserve(**ASK)
    assert governor.settle_expected(estimated).estimated
    exact = governor.settle(estimated, completion())
    assert (exact.cost, exact.estimated) == (Decimal("0.00035"), False)
    assert governor.settle(estimated, completion()).cost == exact.cost
    with pytest.raises(SettlementConflict):
        governor.settle(estimated, cost="1")
    assert spent(governor) == Decimal("0.0007")


def test_release_and_extend(governor: Governor) -> None:
    """What is released is free again, once; what is extended lives longer, never shorter."""
    reservation = governor.reserve(**ASK)
    governor.extend(reservation, ttl="2h")
    later = governor.extend(reservation.id, ttl="1m")
    assert later.expires_at == datetime(2026, 1, 15, 14, 0, tzinfo=UTC)
    assert governor.release(reservation).state == "released"
    assert governor.release(reservation.id).state == "released"
    with pytest.raises(ReservationNotFound, match="released"):
        governor.extend(reservation, ttl="2h")
    settled = governor.reserve(**ASK)
    governor.settle(settled, cost="1")
    with pytest.raises(SettlementConflict, match="adjust"):
        governor.release(settled)


def test_a_reservation_crosses_processes(governor: Governor) -> None:
    """As JSON it can be settled elsewhere: by object also where the store has lost it."""
    reservation = governor.reserve(**ASK, user="alice", labels={"run": "42"})
    copy = Reservation.from_json(reservation.to_json())
    assert copy.to_dict() == reservation.to_dict()
    assert governor.settle(copy, completion()).cost == Decimal("0.00035")
    with Governor(clock=governor.clock) as other:
        with pytest.raises(ReservationNotFound):
            other.settle(copy.id, completion())
        settlement = other.settle(copy, completion())
        assert settlement.late
        assert (settlement.tenant, settlement.user) == ("acme", "alice")
        assert settlement.labels == {"run": "42"}


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "x", '{"hold": {}}', '{"id": 5}'])
def test_what_is_no_reservation_is_refused(text: str) -> None:
    """A text that `to_json` did not write is refused by name."""
    with pytest.raises(InvalidRequest, match="text"):
        Reservation.from_json(text)


def test_a_decision_crosses_processes_too(governor: Governor) -> None:
    """A look, written and read again, shows the same."""
    for decision in (governor.check(**ASK), governor.check(**{**ASK, "max_output_tokens": 10**8})):
        copy = Decision.from_json(decision.to_json())
        assert copy.to_dict() == decision.to_dict()
        assert copy.allowed == decision.allowed


def test_explain_shows_every_policy_that_was_looked_at(governor: Governor) -> None:
    """Reservations from the store, refusals from this process, each with all its limits."""
    governor.policies.put(daily("9", id="monthly", limit_type="monthly"))
    governor.policies.put(daily("0", id="shadow", mode="shadow"))
    reservation = governor.reserve(**ASK)
    found = governor.explain(reservation.id)
    assert [reason.policy_id for reason in found.looked_at] == ["daily", "monthly", "shadow"]
    assert [reason.policy_id for reason in found.reasons] == ["shadow"]
    assert not any(reason.acted for reason in found.reasons)
    refused = governor.reserve(**{**ASK, "max_output_tokens": 10**8})
    assert governor.explain(refused.id).message == refused.message
    assert governor.explain(refused) is refused


def test_recorded_money_is_never_refused(governor: Governor) -> None:
    """Past spending counts in its own day, over any limit, once per id."""
    yesterday = datetime(2026, 1, 14, 20, tzinfo=UTC)
    past = governor.record(completion(), tenant="acme", id="1", at=yesterday)
    assert (past.cost, past.counted_at) == (Decimal("0.00035"), yesterday)
    today = governor.record(tenant="acme", model="gpt-4o", cost="100", id="2")
    assert today.decision == "allowed"
    (budget,) = governor.budgets("acme")
    assert (budget.settled, budget.remaining) == (100, 0)
    again = governor.record(tenant="acme", model="gpt-4o", cost="100", id="2")
    assert again.event_id == "2"
    assert len(governor.events()) == 2
    governor.record(tenant="globex", model="gpt-4o", cost="1", id="2")
    assert len(governor.events()) == 3


def test_records_of_every_kind(governor: Governor) -> None:
    """A response, a usage, units of a tool, and a plain cost."""
    governor.tools.put(Tool(id="search", cost_per_unit=Decimal("0.005")))
    who: dict[str, Any] = {"tenant": "acme", "user": "alice", "labels": {"run": "1"}}
    assert governor.record(completion(), id="a", **who).cost == Decimal("0.00035")
    usage = Usage(input=20, output=30)
    assert governor.record(usage=usage, model="gpt-4o", id="b", **who).cost == Decimal("0.00035")
    units = governor.record(tool="search", units=3, id="c", **who)
    assert (units.cost, units.requests) == (Decimal("0.015"), 3)
    assert governor.record(tool="search", cost="1", id="d", **who).cost == 1
    assert {event.user for event in governor.events()} == {"alice"}


def test_a_record_may_name_its_provider(governor: Governor) -> None:
    """The same model costs what it costs where it ran."""
    llama = {"tenant": "acme", "model": "llama-3.3-70b-versatile", "usage": Usage(input=10**6)}
    assert governor.record(**llama, provider="groq", id="0").cost == Decimal("0.59")
    response = completion("gpt-4o")
    assert governor.record(response, tenant="acme", provider="azure", id="1").cost > 0
    with pytest.raises(InvalidRequest, match="provider"):
        governor.record(response, tenant="acme", provider="", id="2")


def test_corrections_are_signed_and_idempotent(governor: Governor) -> None:
    """A credit is an event of its own in the same window; its id makes a repeat safe."""
    settlement = governor.settle(governor.reserve(**ASK), cost="1")
    credit = governor.adjust(settlement.event_id, "-0.4", reason="credit note", by="ops", id="cn-1")
    assert (credit.cost, credit.flags) == (Decimal("-0.4"), ("correction",))
    assert credit.to_dict()["corrects"] == settlement.event_id
    assert "credit note (by ops)" in str(credit.to_dict()["note"])
    again = governor.adjust(settlement.event_id, "-0.4", reason="credit note", by="ops", id="cn-1")
    assert again.event_id == credit.event_id
    (budget,) = governor.budgets("acme")
    assert budget.settled == Decimal("0.6")
    assert governor.events()[0].cost == 1
    unnamed = [
        governor.adjust(settlement.event_id, "0.1", reason="r", by="ops").event_id for _ in "ab"
    ]
    assert len(set(unnamed)) == 2


def test_an_event_id_of_two_tenants_has_to_say_whose(governor: Governor) -> None:
    """Record ids are each tenant's own, so a correction never moves another tenant's money."""
    for tenant in ("acme", "globex"):
        governor.record(tenant=tenant, model="gpt-4o", cost="1", id="invoice-1")
    with pytest.raises(InvalidRequest, match="tenant="):
        governor.adjust("invoice-1", "-1", reason="r", by="ops")
    governor.adjust("invoice-1", "-1", reason="r", by="ops", tenant="globex")
    assert (spent(governor), spent(governor, "globex")) == (1, 0)


def test_a_uuid_may_be_a_record_s_id(governor: Governor) -> None:
    """An id that looks like one of ours is found again as it was given."""
    name = "8d8ac610-566d-4ef0-9c22-186b2a5ed793"
    governor.record(tenant="acme", model="gpt-4o", cost="1", id=name)
    assert governor.record(tenant="acme", model="gpt-4o", cost="1", id=name).event_id == name
    governor.adjust(name, "-1", reason="r", by="ops")
    assert spent(governor) == 0


def test_expiry_gives_back_or_charges(tmp_path: Path) -> None:
    """What nobody resolved in time is released, or settled where that was chosen."""
    for on_expiry, counts in (("release", (1, 0)), ("settle", (0, 1))):
        with open_governor("memory", tmp_path, on_expiry=on_expiry) as governor:
            clock = governor.clock
            assert isinstance(clock, FakeClock)
            reservation = governor.reserve(**ASK)
            clock.advance("31m")
            assert governor.expire() == counts
            (found,) = governor.reservations()
            assert found.state == ("expired" if counts[0] else "settled")
            late = governor.settle(reservation, completion())
            assert late.cost == Decimal("0.00035")
            assert spent(governor) == Decimal("0.00035")


def test_events_are_read_page_by_page(governor: Governor) -> None:
    """From a sequence number on, in order, nothing twice."""
    for n in range(7):
        governor.record(tenant="acme", model="gpt-4o", cost="1", id=f"e{n}")
    seen: list[str] = []
    after: int | None = None
    while page := governor.events(after=after, limit=3):
        seen.extend(event.id for event in page)
        after = page[-1].seq
    assert seen == [f"e{n}" for n in range(7)]
    assert governor.events(after=str(after or 0)) == []


def test_a_sink_hears_of_each_share_once_and_may_fail(tmp_path: Path) -> None:
    """80 % and 100 % are announced once per day; a sink that raises costs nothing."""
    heard: list[Any] = []

    def broken(alert: Any) -> None:
        raise RuntimeError(alert)

    with open_governor("memory", tmp_path, sinks=(broken, heard.append)) as governor:
        governor.policies.put(daily("1"))
        for n in range(12):
            governor.record(tenant="acme", model="gpt-4o", cost="0.1", id=str(n))
        assert [(alert.policy_id, alert.share) for alert in heard] == [
            ("daily", "0.8"),
            ("daily", "1.0"),
        ]
        assert governor.sink_errors == 2


def test_a_governor_closes_with_its_block(tmp_path: Path) -> None:
    """As a context manager it lets go of its file, which can be opened again."""
    url = f"sqlite:///{tmp_path}/a.db"
    with Governor(url) as governor:
        governor.record(tenant="acme", model="gpt-4o", cost="1", id="x")
    with Governor(url) as governor:
        assert spent(governor) == 1


@pytest.mark.parametrize("shown", [{"tokens": "many"}, {"input_tokens": None}])
def test_a_usage_without_any_number_is_not_a_usage_of_zero(
    governor: Governor, shown: dict[str, Any]
) -> None:
    """What states no number at all is refused and changes nothing: it never settles at $0."""
    held = governor.reserve(**ASK)
    with pytest.raises(InvalidRequest, match="no usage"):
        governor.settle(held, {"model": "gpt-4o", "usage": shown})
    assert held.state == "reserved"
    assert not governor.events()


def test_a_tool_moves_to_the_fallback_that_its_record_declares(governor: Governor) -> None:
    """A policy that says downgrade need not name it; a dearer one is no fallback."""
    governor.tools.put(Tool(id="quick", cost_per_unit="0.01"))
    governor.tools.put(Tool(id="dear", cost_per_unit="9"))
    governor.tools.put(Tool(id="deep", cost_per_unit="0.10", fallback_tool_id="quick"))
    governor.policies.put(daily("0.15", scope="tool", scope_id="deep", decision="downgrade"))
    calls = [governor.reserve(tenant="acme", tool="deep") for _ in range(2)]
    assert [call.final_tool for call in calls] == ["deep", "quick"]
    governor.tools.put(Tool(id="deep", cost_per_unit="0.10", fallback_tool_id="dear"))
    assert not governor.reserve(tenant="acme", tool="deep").allowed
