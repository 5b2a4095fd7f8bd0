"""`guard`: money is held for a body, and settled or given back by how the body ends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import (
    ApprovalRequired,
    BudgetExceeded,
    Governor,
    IdempotencyConflict,
    InvalidRequest,
    Policy,
    PolicyDenied,
    SettlementConflict,
    StorageError,
    Tool,
    Usage,
    UsageEvent,
)
from fluxai.storage.memory import MemoryStorage
from fluxai.testing import FakeClock
from tests.integration.stubs import (
    ASK,
    BrokenStorage,
    Provider,
    completion,
    daily,
    open_governor,
    spent,
)


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor whose tenant acme has $5 a day."""
    with open_governor(request.param, tmp_path) as governor:
        governor.policies.put(daily("5"))
        yield governor
        assert governor.verify().ok


def _open(governor: Governor) -> list[Any]:
    return governor.reservations("reserved")


def test_a_settled_body_is_charged_exactly(governor: Governor) -> None:
    """What the provider reports is charged to the nano-dollar, and nothing stays held."""
    with governor.guard(**ASK) as call:
        assert (call.model, call.max_output_tokens, call.decision) == ("gpt-4o", 100, "allowed")
        settlement = call.settle(completion())
    # 20 tokens at $2.50 and 30 at $10 per million.
    assert settlement is not None
    assert settlement.cost == Decimal("0.00035")
    assert not settlement.estimated
    assert _open(governor) == []
    assert spent(governor) == Decimal("0.00035")


def test_a_body_that_forgets_to_settle_is_charged_what_was_expected(governor: Governor) -> None:
    """Money that may have been spent is never given back for want of a settle."""
    with governor.guard(**ASK) as call:
        expected = call.reservation.estimate.expected
    (event,) = governor.events()
    assert event.cost == expected
    assert event.estimated
    assert _open(governor) == []


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("read"),
        ConnectionResetError("peer"),
        KeyboardInterrupt(),
        SystemExit(1),
        type("APITimeoutError", (Exception,), {})("openai"),
        type("APIConnectionError", (Exception,), {})("anthropic"),
        type("ReadTimeout", (Exception,), {})("httpx"),
        type("RemoteProtocolError", (Exception,), {})("httpx"),
        type("DeadlineExceeded", (Exception,), {})("google"),
        type("ClientPayloadError", (Exception,), {})("aiohttp"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_end_that_leaves_the_charge_open_settles_at_the_estimate(
    governor: Governor, error: BaseException
) -> None:
    """After a time-out, a lost connection or an interrupt nobody knows: the estimate is charged."""
    with pytest.raises(type(error)), governor.guard(**ASK):
        raise error
    (event,) = governor.events()
    assert event.estimated
    assert _open(governor) == []


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the caller's own"),
        type("RateLimitError", (Exception,), {})("429"),
        type("AuthenticationError", (Exception,), {})("401"),
        type("ConnectError", (Exception,), {})("nothing was sent"),
        type("ClientConnectorError", (ConnectionError,), {})("nothing was sent"),
        type("ConnectTimeout", (Exception,), {})("nothing was sent"),
        ConnectionRefusedError("nothing was sent"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_says_no_charge_gives_the_money_back(
    governor: Governor, error: Exception
) -> None:
    """An answered error, or one of the caller's own, costs nothing."""
    with pytest.raises(type(error)), governor.guard(**ASK):
        raise error
    assert governor.events() == []
    assert _open(governor) == []


def test_a_connection_error_is_told_by_its_cause(governor: Governor) -> None:
    """An SDK's connection error is free where its cause says that nothing was sent."""
    sdk_error = type("APIConnectionError", (Exception,), {})
    connect_error = type("ConnectError", (Exception,), {})
    with pytest.raises(sdk_error), governor.guard(**ASK):
        raise sdk_error from connect_error()
    assert governor.events() == []


def test_an_earlier_error_says_nothing_of_this_call(governor: Governor) -> None:
    """A fallback call that times out in the handler of a failed connection is still charged."""
    connect_error = type("ConnectError", (Exception,), {})
    with pytest.raises(TimeoutError):
        try:
            raise connect_error
        except connect_error:
            with governor.guard(**ASK):
                raise TimeoutError  # noqa: B904 -- as code without `from` does
    (event,) = governor.events()
    assert event.estimated


def test_an_earlier_time_out_does_not_charge_a_refused_call(governor: Governor) -> None:
    """A retry that the provider refuses is free, though the first attempt had timed out."""
    with pytest.raises(ValueError, match="429"):
        try:
            raise TimeoutError
        except TimeoutError:
            with governor.guard(**ASK):
                raise ValueError("429")  # noqa: B904 -- as code without `from` does
    assert governor.events() == []


def test_charged_keeps_the_money_whatever_happens_next(governor: Governor) -> None:
    """Once the caller has said that it was charged, an error of its own gives nothing back."""
    with pytest.raises(ValueError, match="own"), governor.guard(**ASK) as call:
        call.charged()
        raise ValueError("own")
    (event,) = governor.events()
    assert event.estimated


@pytest.mark.parametrize("limit", ["deny", "require_approval"])
def test_a_refused_body_never_runs(governor: Governor, limit: str) -> None:
    """Whatever refuses raises before the body, with the decision and its remedy."""
    governor.policies.put(daily("0.0000001", decision=limit))
    ran = False
    error = BudgetExceeded if limit == "deny" else ApprovalRequired
    with pytest.raises(error) as caught, governor.guard(**ASK):
        ran = True
    assert not ran
    assert not caught.value.decision.allowed
    assert "daily" in str(caught.value)
    assert governor.events() == []
    if isinstance(caught.value, ApprovalRequired):
        assert caught.value.approval_id == caught.value.decision.approval_id


def test_a_rule_about_one_call_raises_policy_denied(governor: Governor) -> None:
    """A limit per request is a rule, not a budget that is used up."""
    rule = {"tenant_id": "acme", "limit_type": "per_request", "limit_value": "0"}
    governor.policies.put(Policy.model_validate(rule))
    with pytest.raises(PolicyDenied), governor.guard(**ASK):
        pass


def test_the_hold_counts_while_the_body_runs(governor: Governor) -> None:
    """Nobody else can spend what a body holds."""
    with governor.guard(**ASK) as call:
        (budget,) = governor.budgets("acme")
        assert budget.reserved == call.reservation.estimate.highest > 0
        call.release()
    (budget,) = governor.budgets("acme")
    assert (budget.reserved, budget.settled) == (0, 0)


def test_a_response_that_is_not_understood_is_estimated_and_not_lost(governor: Governor) -> None:
    """A changed wire format must not turn a paid answer into an error."""
    result = None
    with governor.guard(**ASK) as call:
        settlement = call.settle({"reply": "of a kind unknown", "text": "some words " * 40})
        result = "kept"
    assert result == "kept"
    assert settlement is not None
    assert settlement.estimated
    assert settlement.cost > 0
    assert governor.unread_responses == 1
    assert _open(governor) == []


def test_a_result_whose_fields_raise_is_estimated(governor: Governor) -> None:
    """Even an object that explodes when it is read is settled."""

    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    with governor.guard(**ASK) as call:
        call.settle(Hostile())
    (event,) = governor.events()
    assert event.estimated
    assert _open(governor) == []


def test_a_wrong_cost_is_an_error_that_still_charges(governor: Governor) -> None:
    """A float for money is refused by name, and the call counts as charged."""
    with pytest.raises(InvalidRequest, match="cost: floats"), governor.guard(**ASK) as call:
        call.settle(cost=0.01)  # type: ignore[arg-type]
    (event,) = governor.events()
    assert event.estimated


def test_settling_twice_at_another_cost_is_a_conflict(governor: Governor) -> None:
    """The first exact settlement stands."""
    with pytest.raises(SettlementConflict), governor.guard(**ASK) as call:
        call.settle(cost="0.001")
        call.settle(cost="0.002")
    assert spent(governor) == Decimal("0.001")


def test_settling_twice_alike_counts_once(governor: Governor) -> None:
    """A repeat is the same settlement."""
    with governor.guard(**ASK) as call:
        first = call.settle(usage=Usage(input=10, output=5))
        again = call.settle(usage=Usage(input=10, output=5))
    assert first is not None
    assert again is not None
    assert again.to_dict() == first.to_dict()
    assert len(governor.events()) == 1


def test_a_hold_that_expired_meanwhile_does_not_disturb_the_body(governor: Governor) -> None:
    """A slow body is charged late, and its own error is the one that is seen."""
    clock = governor.clock
    assert isinstance(clock, FakeClock)
    with governor.guard(**ASK, ttl="1m") as call:
        clock.advance("2m")
        governor.expire()
        settlement = call.settle(cost="0.001")
    assert settlement is not None
    assert settlement.late
    with pytest.raises(ValueError, match="own"), governor.guard(**ASK, ttl="1m"):
        clock.advance("2m")
        governor.expire()
        raise ValueError("own")


def test_an_error_outlives_a_reservation_that_expiry_has_charged(tmp_path: Path) -> None:
    """Where expiry settles, a failing body still fails with its own error."""
    with open_governor("memory", tmp_path, on_expiry="settle") as governor:
        clock = governor.clock
        assert isinstance(clock, FakeClock)
        with pytest.raises(ValueError, match="own"), governor.guard(**ASK, ttl="1m"):
            clock.advance("2m")
            governor.expire()
            raise ValueError("own")
        assert governor.settle_errors == 1


def test_a_key_that_has_run_does_not_run_again(governor: Governor) -> None:
    """An idempotency key stands for one run of a body."""
    with governor.guard(**ASK, idempotency_key="once") as call:
        call.settle(cost="0.001")
    with pytest.raises(IdempotencyConflict, match="run already"):  # noqa: SIM117
        with governor.guard(**ASK, idempotency_key="once"):
            pytest.fail("the body ran twice")


def test_a_store_that_fails_on_settle_does_not_lose_the_result(tmp_path: Path) -> None:
    """The body's result comes through; the settlement is spooled, counted, and replayed."""
    storage = BrokenStorage(spool_path=tmp_path / "spool")
    governor = Governor(storage, clock=FakeClock())
    with governor.guard(**ASK) as call:
        storage.down = True
        assert call.settle(completion()) is None
        result = "kept"
    assert result == "kept"
    assert governor.settle_errors == 1
    storage.down = False
    assert governor.replay_spool() == 1
    assert spent(governor) == Decimal("0.00035")


def test_a_call_let_through_without_a_store_ends_quietly(tmp_path: Path) -> None:
    """With on_storage_error="allow" a failing body shows its own error, not the store's."""
    storage = BrokenStorage(spool_path=tmp_path / "spool")
    governor = Governor(storage, clock=FakeClock(), on_storage_error="allow")
    storage.down = True
    with pytest.raises(ValueError, match="own"), governor.guard(**ASK):
        storage.down = False
        raise ValueError("own")
    assert governor.unheld_calls == 1


def test_fail_open_works_without_any_rule_read_before(tmp_path: Path) -> None:
    """A tenant's very first call is let through too, logged and counted, and recorded later."""
    storage = BrokenStorage(spool_path=tmp_path / "spool")
    governor = Governor(storage, clock=FakeClock(), on_storage_error="allow")
    governor.policies.put(daily("0"))
    storage.down = True
    provider = Provider()
    with governor.guard(**ASK) as call:
        storage.down = False
        call.settle(provider.answer(model=call.model))
    assert governor.unheld_calls == 1
    (event,) = governor.events()
    assert (event.cost, event.late) == (provider.charged, True)
    # The rules are read again as soon as the store answers.
    assert not governor.reserve(**ASK).allowed


def test_fail_open_knows_the_prices_of_tools(tmp_path: Path) -> None:
    """Tools are priced as they were on opening; one that nobody knows is an error of the store."""
    storage = BrokenStorage(spool_path=tmp_path / "spool")
    Governor(storage, clock=FakeClock()).tools.put(Tool(id="search", cost_per_unit="0.01"))
    governor = Governor(storage, clock=FakeClock(), on_storage_error="allow")
    storage.down = True
    held = governor.reserve(tenant="acme", tool="search", units=2)
    assert (held.allowed, held.estimate.highest) == (True, Decimal("0.02"))
    with pytest.raises(StorageError, match="out of reach"):
        governor.reserve(tenant="acme", tool="lookup")
    storage.down = False
    assert governor.settle(held).cost == Decimal("0.02")


def test_failing_closed_raises_before_the_body(tmp_path: Path) -> None:
    """By default nothing is called while its money can't be held."""
    storage = BrokenStorage(spool_path=tmp_path / "spool")
    governor = Governor(storage, clock=FakeClock())
    storage.down = True
    with pytest.raises(StorageError, match="out of reach") as caught:  # noqa: SIM117
        with governor.guard(**ASK):
            pytest.fail("the body ran")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_body_left_by_a_closed_generator_is_settled(governor: Governor) -> None:
    """A generator that is let go in the midst of a guard settles at the estimate."""

    def lines() -> Iterator[str]:
        with governor.guard(**ASK):
            yield "first"
            yield "second"

    generator = lines()
    next(generator)
    del generator
    gc.collect()
    (event,) = governor.events()
    assert event.estimated
    assert _open(governor) == []


def test_garbage_collection_inside_the_store_does_not_lock_up() -> None:
    """A body that the collector ends while the store holds its lock is settled right after."""
    abandoned: list[Any] = []

    class Collecting(MemoryStorage):
        def _append(self, event: UsageEvent) -> None:
            assert self._lock.locked()
            abandoned.clear()
            super()._append(event)

    governor = Governor(Collecting(), clock=FakeClock())

    def lines() -> Iterator[str]:
        with governor.guard(**ASK):
            yield "first"

    abandoned.append(lines())
    next(abandoned[0])
    with governor.guard(**ASK) as call:
        call.settle(cost="0.001")
    assert abandoned == []
    assert _open(governor) == []
    assert [event.estimated for event in governor.events()] == [False, True]
