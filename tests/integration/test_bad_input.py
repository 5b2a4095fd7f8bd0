"""Bad input: an error that names the field and what would be right, and nothing changed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import fluxai
from fluxai import (
    ApprovalConflict,
    ConfigurationError,
    FluxAIError,
    Governor,
    IdempotencyConflict,
    InvalidRequest,
    Model,
    NotFound,
    Policy,
    Reservation,
    ReservationNotFound,
    Tenant,
    Tool,
    UnknownModel,
    Usage,
    User,
)
from fluxai.testing import FakeClock
from tests.integration.stubs import ASK, completion, daily, open_governor, snapshot

MEGABYTES_10 = 10 * 1024 * 1024


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor with a policy, a tool, a settled and an open reservation."""
    with open_governor(request.param, tmp_path) as governor:
        governor.policies.put(daily("5"))
        governor.tools.put(Tool(id="search", cost_per_unit=Decimal("0.005")))
        governor.settle(governor.reserve(**ASK), completion())
        governor.record(tenant="acme", model="gpt-4o", cost="0.01", id="event")
        governor.reserve(**ASK)
        yield governor
        assert governor.verify().ok


def _open(governor: Governor) -> Reservation:
    (reservation,) = governor.reservations("reserved")
    return reservation


def _refuses(
    governor: Governor,
    verb: Callable[[], Any],
    field: str,
    error: type[Exception] = InvalidRequest,
) -> str:
    """Run a verb that has to fail; return the error's text, once nothing has changed."""
    before = snapshot(governor)
    with pytest.raises(error) as caught:
        verb()
    assert field in str(caught.value)
    assert len(str(caught.value)) < 1_000
    assert snapshot(governor) == before
    if isinstance(caught.value, InvalidRequest):
        assert caught.value.field.startswith(field.split(":", maxsplit=1)[0])
    return str(caught.value)


MONEY = [
    pytest.param(0.1, "pass Decimal", id="float"),
    pytest.param(math.nan, "pass Decimal", id="float nan"),
    pytest.param(Decimal("NaN"), "finite", id="nan"),
    pytest.param(Decimal("Infinity"), "finite", id="infinity"),
    pytest.param("NaN", "finite", id="text nan"),
    pytest.param("five", "'5.00'", id="words"),
    pytest.param("", "'5.00'", id="empty"),
    pytest.param("-1", "negative", id="negative"),
    pytest.param(-1, "negative", id="negative int"),
    pytest.param("1e12", "1,000,000,000", id="absurd"),
    pytest.param(Decimal("1e999999"), "1,000,000,000", id="astronomic"),
    pytest.param(True, "Decimal, str or int", id="bool"),
    pytest.param(b"5", "Decimal, str or int", id="bytes"),
    pytest.param("1" * 1_000, "too long", id="a thousand digits"),
]


@pytest.mark.parametrize(("amount", "remedy"), MONEY)
def test_costs_are_exact_amounts_of_dollars(governor: Governor, amount: Any, remedy: str) -> None:
    """No float, NaN, negative or absurd amount settles, records or limits anything."""
    reservation = _open(governor)
    for verb in (
        lambda: governor.settle(reservation, cost=amount),
        lambda: governor.settle(reservation.id, cost=amount),
        lambda: governor.record(tenant="acme", model="gpt-4o", cost=amount, id="new"),
    ):
        assert remedy in _refuses(governor, verb, "cost")

    def block() -> None:
        with governor.budget(amount, tenant="acme"):
            pytest.fail("the block ran")

    assert remedy in _refuses(governor, block, "limit")


@pytest.mark.parametrize(("amount", "remedy"), MONEY)
def test_corrections_are_exact_amounts_of_dollars(
    governor: Governor, amount: Any, remedy: str
) -> None:
    """A correction may be negative, and nothing else that a cost may not be."""

    def verb() -> None:
        governor.adjust("event", amount, reason="why", by="ops")

    if amount in {"-1", -1}:
        verb()
        assert governor.events()[-1].cost == -1
    else:
        assert remedy in _refuses(governor, verb, "amount")


@pytest.mark.parametrize(
    "record",
    [
        lambda amount: Policy(tenant_id="acme", limit_type="daily", limit_value=amount),
        lambda amount: Tenant(id="acme", hard_limit=amount),
        lambda amount: Tenant(id="acme", soft_limit=amount),
        lambda amount: User(id="u", tenant_id="acme", personal_cap=amount),
        lambda amount: Tool(id="t", cost_per_unit=amount),
        lambda amount: Model(id="m", input_price=amount),
    ],
    ids=["limit_value", "hard_limit", "soft_limit", "personal_cap", "cost_per_unit", "input_price"],
)
@pytest.mark.parametrize(
    "amount", [0.1, math.inf, Decimal("NaN"), "-1", "1e40", "five", None, True]
)
def test_records_refuse_amounts_that_are_none(record: Any, amount: Any) -> None:
    """A record with a wrong amount can't even be made; the error names the field."""
    if amount is None and not _requires_amount(record):
        return
    with pytest.raises(ValidationError) as caught:
        record(amount)
    (error, *_) = caught.value.errors()
    assert error["loc"] or "price" in error["msg"] or "limit_value" in error["msg"]


def _requires_amount(record: Any) -> bool:
    try:
        record(None)
    except ValidationError:
        return True
    return False


TOKENS = {
    "float": 1.5,
    "negative": -1,
    "text": "10",
    "bool": True,
    "absurd": 10**13,
    "astronomic": 10**400,
    "nan": math.nan,
}


@pytest.mark.parametrize("count", TOKENS.values(), ids=TOKENS.keys())
@pytest.mark.parametrize("field", ["input_tokens", "max_output_tokens"])
def test_token_counts_are_whole_numbers(governor: Governor, field: str, count: Any) -> None:
    """Token counts that no call can have are refused by name, in reserve, check and guard."""
    request = {"tenant": "acme", "model": "gpt-4o", "input_tokens": 1, field: count}
    _refuses(governor, lambda: governor.reserve(**request), field)
    _refuses(governor, lambda: governor.check(**request), field)

    def guarded() -> None:
        with governor.guard(**request):
            pytest.fail("the body ran")

    _refuses(governor, guarded, field)


@pytest.mark.parametrize("units", [0, -1, 1.5, "3", True, 10**13], ids=repr)
def test_units_are_at_least_one(governor: Governor, units: Any) -> None:
    """Units that make no call are refused by name."""
    _refuses(governor, lambda: governor.reserve(tenant="acme", tool="search", units=units), "units")
    _refuses(
        governor,
        lambda: governor.check_and_route("acme", None, "search", units),
        "estimated_units",
    )
    _refuses(
        governor,
        lambda: governor.record(tenant="acme", tool="search", units=units, id="new"),
        "units",
    )


def test_units_of_a_route_must_be_given(governor: Governor) -> None:
    """check_and_route never guesses how many units are meant."""
    _refuses(
        governor,
        lambda: governor.check_and_route("acme", None, "search", None),  # type: ignore[arg-type]
        "estimated_units",
    )


IDS = [
    pytest.param("", id="empty"),
    pytest.param("   ", id="blank"),
    pytest.param("x" * 257, id="257 characters"),
    pytest.param("x" * MEGABYTES_10, id="10 MB"),
    pytest.param("a\x00b", id="nul"),
    pytest.param("a\nb", id="newline"),
    pytest.param("half \ud800", id="half a character"),
    pytest.param(5, id="number"),
    pytest.param(["acme"], id="list"),
]


@pytest.mark.parametrize("bad", IDS)
@pytest.mark.parametrize("field", ["tenant", "user", "model", "tool", "idempotency_key"])
def test_ids_are_short_readable_texts(governor: Governor, field: str, bad: Any) -> None:
    """Empty, huge, unreadable and non-text ids are refused by name."""
    request: dict[str, Any] = {**ASK, field: bad}
    if field == "tool":
        request = {"tenant": "acme", "tool": bad}
    _refuses(governor, lambda: governor.reserve(**request), field)


@pytest.mark.parametrize("bad", IDS)
def test_ids_of_records_looks_and_corrections_are_checked(governor: Governor, bad: Any) -> None:
    """Every other verb that takes an id checks it as well."""
    spent = {"tenant": "acme", "model": "gpt-4o", "cost": "1"}
    _refuses(governor, lambda: governor.record(**spent, id=bad), "id")
    _refuses(governor, lambda: governor.record(**{**spent, "tenant": bad}, id="new"), "tenant")
    _refuses(governor, lambda: governor.record(**{**spent, "model": bad}, id="new"), "model")
    _refuses(governor, lambda: governor.adjust(bad, "1", reason="r", by="b"), "event_id")
    _refuses(governor, lambda: governor.adjust("event", "1", reason="r", by=bad), "by")
    _refuses(governor, lambda: governor.budgets(bad), "tenant")
    _refuses(governor, lambda: governor.usage(bad), "tenant")
    _refuses(governor, lambda: governor.usage("acme", user=bad), "user")
    _refuses(governor, lambda: governor.check_and_route(bad, None, "search", 1), "tenant")
    _refuses(governor, lambda: governor.check_and_route("acme", None, bad, 1), "tool_id")
    _refuses(governor, lambda: governor.budget("1", tenant=bad).__enter__(), "tenant")
    _refuses(governor, lambda: fluxai.subject(tenant=bad).__enter__(), "tenant")


@pytest.mark.parametrize("bad", IDS)
def test_records_have_proper_ids(bad: Any) -> None:
    """A record with an unreadable id can't be made."""
    for make in (
        lambda: Tenant(id=bad),
        lambda: User(id=bad, tenant_id="acme"),
        lambda: User(id="u", tenant_id=bad),
        lambda: Tool(id=bad, cost_per_unit=Decimal(1)),
        lambda: Policy(tenant_id=bad, limit_type="daily", limit_value=Decimal(1)),
    ):
        with pytest.raises(ValidationError):
            make()


def test_every_tenant_at_once_is_no_tenant(governor: Governor) -> None:
    """`"*"` stands for every tenant in policies; nobody can spend as that."""
    _refuses(governor, lambda: governor.reserve(**{**ASK, "tenant": "*"}), "tenant")
    _refuses(governor, lambda: governor.budgets("*"), "tenant")
    with pytest.raises(ValidationError, match="every tenant"):
        Tenant(id="*")


def test_prompts_are_texts_that_can_be_sent(governor: Governor) -> None:
    """No prompt, none that is no text, and none that no model takes; and that is said at once."""
    _refuses(governor, lambda: governor.reserve(**{**ASK, "prompt": ""}), "prompt")
    _refuses(governor, lambda: governor.check(**{**ASK, "prompt": ""}), "prompt")
    _refuses(governor, lambda: governor.reserve(**{**ASK, "prompt": 5}), "prompt")
    began = time.process_time()
    huge = "word " * (MEGABYTES_10 // 5)
    text = _refuses(governor, lambda: governor.reserve(**{**ASK, "prompt": huge}), "prompt")
    assert "128,000" in text
    messages = [{"role": "user", "content": huge}]
    request = {"tenant": "acme", "model": "gpt-4o", "messages": messages}
    _refuses(governor, lambda: governor.reserve(**request), "messages")
    assert time.process_time() - began < 30


def test_a_huge_prompt_for_a_huge_model_is_held_as_what_it_costs(governor: Governor) -> None:
    """Where the model may take it, its price decides: here it does not fit into $5."""
    huge = "word " * (MEGABYTES_10 // 5)
    reservation = governor.reserve(tenant="acme", model="gemini-1.5-pro", prompt=huge)
    assert reservation.decision == "denied"
    assert reservation.estimate.input_tokens > 1_000_000


def test_odd_prompts_are_counted_all_the_same(governor: Governor) -> None:
    """Text that is no clean Unicode, and messages of any shape, can be held."""
    for said in (
        {"prompt": "\ud800" * 100},
        {"messages": [{"role": "user", "content": None}, {"nonsense": 5}, 7, None]},
        {"messages": {"a": {"b": [1, 2, {3: 4}]}}},
    ):
        request = {"tenant": "acme", "model": "gpt-4o", "max_output_tokens": 5, **said}
        governor.release(governor.reserve(**request))


def test_messages_under_a_key_must_be_data(governor: Governor) -> None:
    """What can't be compared on a repeat is refused by name."""
    circular: list[Any] = []
    circular.append(circular)
    request = {"tenant": "acme", "model": "gpt-4o", "messages": circular}
    _refuses(governor, lambda: governor.reserve(**request, idempotency_key="k"), "messages")


def test_a_model_or_a_tool_is_named(governor: Governor) -> None:
    """Exactly one of both."""
    _refuses(governor, lambda: governor.reserve(tenant="acme"), "model")
    _refuses(governor, lambda: governor.check(tenant="acme"), "model")
    both = {"tenant": "acme", "model": "gpt-4o", "tool": "search"}
    _refuses(governor, lambda: governor.reserve(**both), "model")


def test_unknown_models_and_tools_are_never_free(governor: Governor) -> None:
    """What has no price is refused, with the remedy."""
    request = {"tenant": "acme", "model": "no-such-model-xyz", "prompt": "hi"}
    for verb in (governor.reserve, governor.check):
        _refuses(governor, lambda verb=verb: verb(**request), "no-such-model-xyz", UnknownModel)
        text = _refuses(
            governor, lambda verb=verb: verb(tenant="acme", tool="no-such-tool"), "tool", NotFound
        )
        assert "tools.put" in text
    _refuses(
        governor,
        lambda: governor.check_and_route("acme", None, "no-such-tool", 1),
        "no-such-tool",
        NotFound,
    )
    _refuses(
        governor,
        lambda: governor.record(completion("no-such-model-xyz"), tenant="acme", id="new"),
        "no-such-model-xyz",
        UnknownModel,
    )
    _refuses(
        governor,
        lambda: governor.record(usage=Usage(input=1), model="no-such-model-xyz", id="new"),
        "no-such-model-xyz",
        UnknownModel,
    )
    _refuses(
        governor,
        lambda: governor.record(tenant="acme", tool="no-such-tool", units=2, id="new"),
        "no-such-tool",
        NotFound,
    )


def test_a_model_without_a_price_can_not_be_put() -> None:
    """A model is priced, or says that it is free."""
    with pytest.raises(ValidationError, match="free=True"):
        Model(id="mine")


def test_a_model_that_is_disabled_is_refused(governor: Governor) -> None:
    """A disabled model is no model to ask for."""
    governor.models.put(Model(id="mine", input_price=Decimal(1), enabled=False))
    request = {"tenant": "acme", "model": "mine", "prompt": "hi"}
    _refuses(governor, lambda: governor.reserve(**request), "disabled", UnknownModel)


@pytest.fixture(params=["memory", "sqlite"])
def registered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor that knows its tenants and users."""
    with open_governor(request.param, tmp_path, subjects="registered") as governor:
        governor.tenants.put(Tenant(id="acme"))
        governor.users.put(User(id="alice", tenant_id="acme"))
        governor.policies.put(daily("5"))
        yield governor


def test_unknown_tenants_and_users_are_refused_where_they_are_registered(
    registered: Governor,
) -> None:
    """Strangers are refused in every verb that spends or looks, with the remedy."""
    governor = registered
    spent = {"model": "gpt-4o", "cost": "1"}
    for tenant, user, field in (("globex", None, "tenant"), ("acme", "bob", "user")):
        who = {"tenant": tenant, "user": user}
        for verb in (
            lambda who=who: governor.reserve(**{**ASK, **who}),
            lambda who=who: governor.check(**{**ASK, **who}),
            lambda who=who: governor.record(**who, **spent, id="new"),
        ):
            text = _refuses(governor, verb, field, NotFound)
            assert f"{field}s.put" in text
    _refuses(governor, lambda: governor.budgets("globex"), "tenant", NotFound)
    _refuses(governor, lambda: governor.usage("globex"), "tenant", NotFound)
    _refuses(
        governor,
        lambda: governor.users.put(User(id="bob", tenant_id="globex")),
        "globex",
        NotFound,
    )
    assert governor.reserve(**{**ASK, "user": "alice"}).allowed


def test_registered_subjects_leave_the_catalogue_open(registered: Governor) -> None:
    """Models, and policies for every tenant, need no tenant of the name `default`."""
    assert registered.models.get("gpt-4o").id == "gpt-4o"
    assert registered.models.list(provider="openai")
    registered.policies.put(
        Policy(
            tenant_id="*",
            scope="tool",
            scope_id="gpt-4",
            limit_type="per_request",
            limit_value=Decimal(0),
            decision="downgrade",
            fallback_tool_id="gpt-3.5-turbo",
        )
    )


def test_charged_money_is_recorded_for_who_was_registered_then(registered: Governor) -> None:
    """A tenant that is deleted while its call runs is still charged for it."""
    clock = registered.clock
    assert isinstance(clock, FakeClock)
    late = registered.reserve(**ASK, user="alice", ttl="1m")
    clock.advance("2m")
    registered.expire()
    registered.users.delete("alice", tenant="acme")
    registered.tenants.delete("acme")
    assert registered.settle(late, completion()).late
    assert registered.verify().ok


@pytest.mark.parametrize("currency", ["EUR", "usd", "", "USDT"])
def test_currencies_other_than_dollars_are_refused(currency: str) -> None:
    """Budgets are in USD; anything else is a configuration error that says so."""
    with pytest.raises(ConfigurationError, match="USD"):
        Tenant(id="acme", currency=currency)
    with pytest.raises(ConfigurationError, match="USD"):
        Policy(tenant_id="a", limit_type="daily", limit_value=Decimal(1), currency=currency)


TIMES = [
    pytest.param(datetime(2026, 1, 15), "time zone", id="naive"),  # noqa: DTZ001 -- the point
    pytest.param("2026-01-15", "aware datetime", id="text"),
    pytest.param(1_768_478_400, "aware datetime", id="number"),
    pytest.param(datetime(1, 1, 1, tzinfo=UTC), "years", id="before all years"),
]


@pytest.mark.parametrize(("moment", "remedy"), TIMES)
def test_times_are_aware(governor: Governor, moment: Any, remedy: str) -> None:
    """A time without a zone could mean any day: refused by name."""
    spent = {"tenant": "acme", "model": "gpt-4o", "cost": "1", "id": "new"}
    assert remedy in _refuses(governor, lambda: governor.record(**spent, at=moment), "at")
    assert remedy in _refuses(governor, lambda: governor.usage("acme", start=moment), "start")
    assert remedy in _refuses(governor, lambda: governor.usage("acme", end=moment), "end")
    before = snapshot(governor)
    with pytest.raises((ValidationError, InvalidRequest), match="until|timezone|years"):
        governor.policies.grant("daily", "1", moment, "boss")
    assert snapshot(governor) == before


def test_money_is_not_spent_in_the_future(governor: Governor) -> None:
    """A record's time may not lie ahead."""
    ahead = datetime(2026, 1, 16, tzinfo=UTC)
    spent = {"tenant": "acme", "model": "gpt-4o", "cost": "1", "id": "new", "at": ahead}
    assert "future" in _refuses(governor, lambda: governor.record(**spent), "at")


@pytest.mark.parametrize(
    "ttl",
    [0, -1, True, 1.5, "soon", "-5m", "", timedelta(0), timedelta(days=40_000), 10**30, [1]],
    ids=lambda ttl: repr(ttl) or "empty",
)
def test_a_time_to_live_is_a_duration(governor: Governor, ttl: Any) -> None:
    """How long a hold may live is a positive duration."""
    _refuses(governor, lambda: governor.reserve(**ASK, ttl=ttl), "ttl")
    reservation = _open(governor)
    _refuses(governor, lambda: governor.extend(reservation, ttl=ttl), "ttl")


LABELS = [
    pytest.param({"": "x"}, "labels", id="empty name"),
    pytest.param({"run": ""}, "labels", id="empty value"),
    pytest.param({"run": 42}, "labels", id="number"),
    pytest.param({"a=b": "x"}, "labels", id="equals sign"),
    pytest.param({"x" * 300: "x"}, "labels", id="long name"),
    pytest.param({"run": "x" * MEGABYTES_10}, "labels", id="10 MB"),
    pytest.param({"budget.1": "x"}, "labels", id="reserved"),
    pytest.param({f"l{n}": "x" for n in range(17)}, "labels", id="seventeen"),
]


@pytest.mark.parametrize(("labels", "field"), LABELS)
def test_labels_are_few_and_short(governor: Governor, labels: Any, field: str) -> None:
    """Labels are checked on calls and on blocks, before the block's body runs."""
    _refuses(governor, lambda: governor.reserve(**ASK, labels=labels), field)
    _refuses(
        governor,
        lambda: governor.record(tenant="acme", model="m", cost="1", id="new", labels=labels),
        field,
    )
    _refuses(governor, lambda: fluxai.subject(**labels).__enter__(), field)
    _refuses(governor, lambda: governor.budget("1", tenant="acme", **labels).__enter__(), field)


def test_labels_are_a_mapping(governor: Governor) -> None:
    """A list of labels is refused by name."""
    _refuses(governor, lambda: governor.reserve(**ASK, labels=["run"]), "labels")


def test_blocks_and_calls_share_sixteen_labels(governor: Governor) -> None:
    """The limit holds for all of a call's labels together."""
    ten = {f"a{n}": "x" for n in range(10)}
    more = {f"b{n}": "x" for n in range(7)}
    with fluxai.subject(**ten):
        _refuses(governor, lambda: governor.reserve(**ASK, labels=more), "labels")
        _refuses(governor, lambda: fluxai.subject(**more).__enter__(), "labels")


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"choices": []},
        {"usage": None},
        {"usage": "lots"},
        {"usage": {"prompt_tokens": "many"}},
        "just text",
        b"\x00\x01",
        "[]",
        [],
        5,
        pytest.param(object(), id="object"),
        {"nested": {"usage": {"prompt_tokens": 5}}},
    ],
    ids=repr,
)
def test_a_response_of_an_unknown_shape_settles_nothing(governor: Governor, response: Any) -> None:
    """Settling needs usage that is understood; else the error says what to pass."""
    reservation = _open(governor)
    text = _refuses(governor, lambda: governor.settle(reservation, response), "response")
    assert "usage=" in text
    with pytest.raises(FluxAIError, match="usage|model"):
        governor.record(response, tenant="acme", id="new")


def test_settling_takes_one_source_of_truth(governor: Governor) -> None:
    """Nothing at all, a usage that is none, or two sources, are refused."""
    reservation = _open(governor)
    assert "cost=" in _refuses(governor, lambda: governor.settle(reservation), "response")
    _refuses(governor, lambda: governor.settle(reservation, usage={"input": 5}), "usage")  # type: ignore[arg-type]
    both = _refuses(
        governor,
        lambda: governor.settle(reservation, completion(), usage=Usage(input=5)),
        "usage",
    )
    assert "not both" in both
    _refuses(
        governor,
        lambda: governor.record(usage={"input": 5}, model="gpt-4o", id="new"),  # type: ignore[arg-type]
        "usage",
    )
    _refuses(governor, lambda: governor.record(id="new"), "response")
    _refuses(governor, lambda: governor.record(cost="1", id="new"), "model")


@pytest.mark.parametrize("count", [-1, 1.5, True, 10**13, "5", math.nan], ids=repr)
def test_usage_counts_are_whole_numbers(count: Any) -> None:
    """A usage of one's own is checked field by field."""
    for field in ("input", "output", "cache_read", "audio_in"):
        with pytest.raises(InvalidRequest, match=f"^{field}: "):
            Usage(**{field: count})


@pytest.mark.parametrize(
    "named",
    [None, 5, "", "nonsense", "x" * MEGABYTES_10, b"id"],
    ids=["none", "number", "empty", "nonsense", "10 MB", "bytes"],
)
def test_reservations_are_named_by_object_or_id(governor: Governor, named: Any) -> None:
    """settle, release, extend and explain say what they take."""
    for verb in (
        lambda: governor.settle(named, cost="1"),
        lambda: governor.release(named),
        lambda: governor.extend(named, ttl="1h"),
        lambda: governor.release(named, tenant="acme"),
    ):
        _refuses(governor, verb, "reservation")
    _refuses(governor, lambda: governor.explain(named), "id")


def test_an_id_that_nobody_knows_is_not_found(governor: Governor) -> None:
    """A bare id that the store lacks is an error; so is another tenant's."""
    unknown = "019bc186-de00-73f1-9e22-e8a268274776"
    reservation = _open(governor)
    for verb in (
        lambda: governor.settle(unknown, cost="1"),
        lambda: governor.release(unknown),
        lambda: governor.extend(unknown, ttl="1h"),
        lambda: governor.settle(reservation.id, cost="1", tenant="globex"),
        lambda: governor.settle(reservation, cost="1", tenant="globex"),
        lambda: governor.release(reservation.id, tenant="globex"),
        lambda: governor.extend(reservation.id, ttl="1h", tenant="globex"),
    ):
        _refuses(governor, verb, "reservation", ReservationNotFound)
    _refuses(governor, lambda: governor.explain(unknown), "id", NotFound)
    _refuses(
        governor, lambda: governor.adjust(unknown, "1", reason="r", by="b"), "event_id", NotFound
    )
    _refuses(governor, lambda: governor.approvals.approve(unknown, by="b"), "approval", NotFound)
    _refuses(governor, lambda: governor.approvals.approve("x", by="b"), "approval", NotFound)
    _refuses(governor, lambda: governor.approvals.get(5), "id")  # type: ignore[arg-type]


def test_a_look_is_no_reservation(governor: Governor) -> None:
    """A decision of `check`, and a refusal, hold nothing that could be settled."""
    look = governor.check(**ASK)
    _refuses(governor, lambda: governor.settle(look, cost="1"), "reservation")  # type: ignore[arg-type]
    refused = governor.reserve(**{**ASK, "max_output_tokens": 10_000_000})
    assert not refused.allowed
    _refuses(governor, lambda: governor.settle(refused, cost="1"), "record()", ReservationNotFound)


def test_an_approval_id_is_one(governor: Governor) -> None:
    """Nonsense is refused by name, unknown ids are not found."""
    _refuses(governor, lambda: governor.reserve(**ASK, approval_id="nonsense"), "approval_id")
    unknown = "019bc186-de00-73f1-9e22-e8a268274776"
    _refuses(governor, lambda: governor.reserve(**ASK, approval_id=unknown), "approval", NotFound)


@pytest.mark.parametrize("name", ["period", "group_by", "state", "limit", "after"])
def test_looks_take_what_they_say(governor: Governor, name: str) -> None:
    """Arguments of looks are checked as well."""
    verbs: dict[str, Callable[[], Any]] = {
        "period": lambda: governor.usage("acme", period="week"),  # type: ignore[arg-type]
        "group_by": lambda: governor.usage("acme", group_by=("colour",)),
        "state": lambda: governor.approvals.list(state="lost"),
        "limit": lambda: governor.events(limit=0),
        "after": lambda: governor.events(after="yesterday"),
    }
    _refuses(governor, verbs[name], name)


def test_settings_are_checked_when_the_governor_is_made() -> None:
    """A wrong setting is a configuration error that lists what is right."""
    for setting in ("subjects", "on_storage_error", "on_expiry"):
        with pytest.raises(ConfigurationError, match=setting):
            Governor(**{setting: "sometimes"})
    with pytest.raises(ConfigurationError, match="memory://"):
        Governor("oracle://db")


def test_keys_and_ids_used_for_something_else_are_conflicts(governor: Governor) -> None:
    """A repeat with other arguments is a conflict, not a second charge."""
    first = governor.reserve(**ASK, idempotency_key="k")
    other = {**ASK, "max_output_tokens": 101}
    _refuses(
        governor, lambda: governor.reserve(**other, idempotency_key="k"), "k", IdempotencyConflict
    )
    governor.release(first)
    _refuses(
        governor,
        lambda: governor.record(tenant="acme", model="gpt-4o", cost="0.02", id="event"),
        "event",
        IdempotencyConflict,
    )
    (settled,) = governor.reservations("settled")
    _refuses(
        governor,
        lambda: governor.record(tenant="acme", model="gpt-4o", cost="9", id=settled.id),
        settled.id,
        IdempotencyConflict,
    )


def test_a_clock_that_runs_backwards_moves_no_window(
    governor: Governor, caplog: pytest.LogCaptureFixture
) -> None:
    """Time stands still until the clock has caught up; that is said once, not at every call."""
    clock = governor.clock
    assert isinstance(clock, FakeClock)
    before = governor.budgets("acme")[0].window_start
    clock.advance(timedelta(days=-2))
    reservations = [governor.reserve(**ASK) for _ in range(5)]
    assert governor.budgets("acme")[0].window_start == before
    assert len({found.counted_at for found in reservations}) == 1
    assert [record.message for record in caplog.records if "stepped back" in record.message] == [
        caplog.records[0].message
    ]
    for found in reservations:
        governor.settle(found, cost="0.001")


def test_a_clock_without_a_zone_is_refused() -> None:
    """A clock that returns naive times can't tell which day it is."""
    with pytest.raises(InvalidRequest, match="time zone"):
        Governor(clock=lambda: datetime(2026, 1, 15))  # noqa: DTZ001 -- the point


def test_grants_are_checked(governor: Governor) -> None:
    """A grant raises a known policy, by something, until a time ahead, by somebody."""
    until = datetime(2026, 1, 16, tzinfo=UTC)
    _refuses(governor, lambda: governor.policies.grant("no", "1", until, "boss"), "no", NotFound)
    past = datetime(2026, 1, 14, tzinfo=UTC)
    _refuses(governor, lambda: governor.policies.grant("daily", "1", past, "boss"), "until")
    for amount in (0.5, "-1", "NaN"):
        _refuses(
            governor, lambda a=amount: governor.policies.grant("daily", a, until, "boss"), "amount"
        )
    for amount, by in (("0", "boss"), ("1", "")):
        with pytest.raises(ValidationError):
            governor.policies.grant("daily", amount, until, by)
    governor.policies.put(daily("5", id="calls", measure="requests"))
    _refuses(
        governor,
        lambda: governor.policies.grant("calls", Decimal("1.5"), until, "boss"),
        "amount",
    )


def test_policies_that_make_no_sense_can_not_be_put(governor: Governor) -> None:
    """Contradictions are found when the policy is made, or put."""
    base = {"tenant_id": "acme", "limit_type": "daily", "limit_value": "1"}
    for wrong, words in (
        ({"limit_type": "rolling"}, "window"),
        ({"window": "24h"}, "rolling"),
        ({"limit_type": "rolling", "window": "soon"}, "window"),
        ({"measure": "requests", "limit_value": "1.5"}, "whole"),
        ({"fallback_tool_id": "gpt-4o"}, "downgrade"),
        ({"scope_id": "globex"}, "scope_id"),
        ({"alert_at": ("0",)}, "alert_at|share"),
        ({"unknown": 1}, "unknown"),
        ({"limit_type": "yearly"}, "limit_type"),
        ({"decision": "maybe"}, "decision"),
    ):
        with pytest.raises(ValidationError, match=words):
            Policy.model_validate({**base, **wrong})
    fallback = {
        **base,
        "scope": "tool",
        "scope_id": "gpt-4",
        "decision": "downgrade",
    }
    for wrong in ("no-such-model", "gpt-4"):
        before = snapshot(governor)
        with pytest.raises((InvalidRequest, ValidationError), match="fallback_tool_id"):
            governor.policies.put(Policy.model_validate({**fallback, "fallback_tool_id": wrong}))
        assert snapshot(governor) == before


def test_answers_to_approvals_name_somebody(governor: Governor) -> None:
    """An approval is given by someone, for a reason that can be read."""
    governor.policies.put(daily("0", decision="require_approval"))
    asked = governor.reserve(**ASK)
    assert asked.approval_id is not None
    approvals = governor.approvals
    for by in ("", "  ", 5, "x" * 300):
        _refuses(governor, lambda by=by: approvals.approve(asked.approval_id, by=by), "by")  # type: ignore[arg-type]
        _refuses(governor, lambda by=by: approvals.reject(asked.approval_id, by=by), "by")  # type: ignore[arg-type]
    _refuses(
        governor,
        lambda: approvals.reject(asked.approval_id or "", by="boss", reason="x" * 5_000),
        "reason",
    )
    approvals.reject(asked.approval_id, by="boss", reason="too dear\nask again tomorrow")
    _refuses(
        governor,
        lambda: approvals.approve(asked.approval_id or "", by="boss"),
        "rejected",
        ApprovalConflict,
    )


class _Hostile:
    """A response object that fails whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} without a connection")


class _LazyUsage:
    """A response whose usage would be fetched when it is asked for."""

    model = "gpt-4o"

    @property
    def usage(self) -> Any:
        raise OSError("the connection is closed")


class _FailingMapping(dict[str, Any]):
    """A mapping that fails when it is read."""

    def get(self, key: str, default: Any = None) -> Any:
        raise LookupError(key, default)


class _FailingUsage:
    """A response that has a usage, which fails in turn."""

    model = "gpt-4o"
    usage = _FailingMapping(prompt_tokens=1)


class _FailingList(list[Any]):
    """A list of chunks that can't be read."""

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("consumed already")


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (_Hostile, RuntimeError),
        (_LazyUsage, OSError),
        (_FailingMapping, LookupError),
        (_FailingUsage, LookupError),
        (lambda: _FailingList([completion()]), RuntimeError),
        (lambda: [_Hostile(), _Hostile()], None),
        (lambda: {"object": "chat.completion", "usage": _Hostile(), "model": "gpt-4o"}, None),
    ],
    ids=["attributes", "property", "mapping", "usage", "list", "chunks", "inside"],
)
def test_a_response_that_fails_by_itself_settles_nothing(
    governor: Governor, make: Callable[[], Any], cause: type[Exception] | None
) -> None:
    """An error of a foreign object never gets through; it is the cause of ours."""
    held = governor.reserve(**ASK)
    before = snapshot(governor)
    verbs: list[Callable[[], Any]] = [
        lambda: governor.settle(held, make()),
        lambda: governor.settle(held, make(), cost="0.01"),
        lambda: governor.record(make(), tenant="acme", model="gpt-4o", id="odd"),
    ]
    for verb in verbs:
        with pytest.raises(InvalidRequest, match=r"^response") as caught:
            verb()
        assert cause is None or isinstance(caught.value.__cause__, cause)
    assert snapshot(governor) == before
    assert held.state == "reserved"
    governor.settle(held, completion())
