"""Whatever a program asks by, it is one reservation, settled at what the answer says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest

from fluxai import BudgetExceeded, CostEstimator, Governor, Policy, Usage
from fluxai.core.decisions import UsageEvent
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import CHEAPER, MODELS, SURFACES, TEXT, Surface

#: Anthropic's SDK tells of models that are about to end.
pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
every_surface = pytest.mark.parametrize("surface", SURFACES, ids=str)
TOLD = {"input": 40, "cache_read": 10, "output": 7}


def wrapped(surface: Surface, governor: Governor, provider: FakeProvider, **options: Any) -> Any:
    """Return a governed client for a surface."""
    return governor.wrap(surface.client(provider, **options), tenant="acme", user="alice")


def only_event(governor: Governor) -> UsageEvent:
    """Return the one event, once nothing is open any more."""
    assert governor.reservations(state="reserved") == []
    (event,) = governor.events()
    return event


def sent(provider: FakeProvider) -> Mapping[str, Any]:
    """Return the JSON of the one request."""
    (request,) = provider.requests
    assert isinstance(request.json, Mapping)
    return request.json


def limit(governor: Governor, amount: str, **more: Any) -> None:
    """Give the tenant a budget for the day."""
    governor.policies.put(
        Policy(id="day", tenant_id="acme", limit_type="daily", limit_value=amount, **more)
    )


@every_surface
def test_settled_at_what_the_answer_says(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """One call is one request and one event, at the usage that the provider told."""
    told = {"input": 50, "output": 7} if surface.name == "completions" else TOLD
    provider.answer(TEXT, usage=told)
    surface.ask(wrapped(surface, governor, provider))
    event = only_event(governor)
    asked = sent(provider)["model"]
    usage = Usage(**told)
    expected = CostEstimator().cost_of(usage, governor.registry.rates(asked, event.at_us))
    assert event.cost == Decimal(expected) / 10**9
    assert (event.tenant, event.user, event.flags) == ("acme", "alice", ())
    assert event.usage is not None
    assert (event.usage.input_total, event.usage.output_total) == (50, 7)


@every_surface
def test_a_refusal_sends_nothing(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """What does not fit raises FluxAI's own error before any request."""
    limit(governor, "0.000001")
    with pytest.raises(BudgetExceeded) as refused:
        surface.ask(wrapped(surface, governor, provider))
    assert provider.requests == []
    assert not refused.value.decision.allowed
    assert governor.events() == []


@every_surface
def test_a_downgrade_reaches_the_wire(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """The cheaper model is what is sent, and what is paid for."""
    if surface.name == "completions":
        pytest.skip("no other model completes")
    limit(
        governor,
        "0.0001",
        decision="downgrade",
        fallback_tool_id=CHEAPER[surface.provider],
    )
    provider.answer(TEXT, usage={"input": 4, "output": 2})
    surface.ask(wrapped(surface, governor, provider))
    assert sent(provider)["model"] == CHEAPER[surface.provider]
    event = only_event(governor)
    assert event.decision == "downgraded"
    assert event.model is not None
    assert event.model.startswith(CHEAPER[surface.provider])


@every_surface
def test_retries_are_one_reservation(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """429, 500 and then an answer: three requests, one reservation, one event."""
    provider.fail(429, retry_after=0)
    provider.fail(500, retry_after=0)
    surface.ask(wrapped(surface, governor, provider, max_retries=2))
    assert len(provider.requests) == 3
    event = only_event(governor)
    assert event.flags == ()
    assert len(governor.reservations()) == 1


@every_surface
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 529])
def test_an_error_that_is_answered_releases(
    surface: Surface, status: int, governor: Governor, provider: FakeProvider
) -> None:
    """What the provider answered with an error was not charged."""
    provider.fail(status)
    client = wrapped(surface, governor, provider, max_retries=0)
    with pytest.raises(Exception, match=str(status)):
        surface.ask(client)
    assert governor.events() == []
    (held,) = governor.reservations()
    assert held.state == "released"


@every_surface
def test_a_time_out_is_settled_at_the_estimate(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """Nobody knows whether a call without an answer was charged: it counts as if it were."""
    provider.hang()
    client = wrapped(surface, governor, provider, max_retries=0, timeout=0.2)
    with pytest.raises(Exception, match="(?i)timed? ?out"):
        surface.ask(client)
    event = only_event(governor)
    assert "estimated" in event.flags
    assert event.cost > 0


@every_surface
def test_an_attempt_that_was_lost_counts_too(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """An answer at the second attempt: the first may have been charged as well."""
    provider.hang()
    surface.ask(wrapped(surface, governor, provider, max_retries=1, timeout=0.5))
    exact, lost = sorted(governor.events(), key=lambda event: "estimated" in event.flags)
    assert exact.flags == ()
    assert "estimated" in lost.flags
    assert lost.cost > 0


@pytest.mark.parametrize(
    "surface", [found for found in SURFACES if found.name in ("chat", "messages")], ids=str
)
@pytest.mark.parametrize("then", [[500], [400]], ids=["answered", "refused"])
def test_an_attempt_that_was_lost_counts_once(
    surface: Surface, then: list[int], governor: Governor, provider: FakeProvider
) -> None:
    """Also where an SDK tries again while it handles the time-out, so that errors hang together."""
    provider.hang()
    for status in then:
        provider.fail(status, retry_after=0)
    client = wrapped(surface, governor, provider, max_retries=2, timeout=0.5)
    with pytest.raises(Exception, match="400") if 400 in then else nullcontext():
        surface.ask(client)
    (held,) = governor.reservations()
    assert held.state == ("released" if 400 in then else "settled")
    events = governor.events()
    assert sum("estimated" in event.flags for event in events) == 1
    assert len(events) == (1 if 400 in then else 2)


@every_surface
def test_an_answer_that_is_cut_is_settled_once(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """A connection lost in mid-answer: once, at an estimate that covers what arrived."""
    provider.cut(after_chunks=2 if surface.streams else 0)
    client = wrapped(surface, governor, provider, max_retries=0)
    try:
        surface.ask(client)
    except Exception as error:  # noqa: BLE001 -- whichever the SDK raises, but not ours
        assert not isinstance(error, BudgetExceeded)
    event = only_event(governor)
    assert "estimated" in event.flags


@every_surface
def test_the_model_is_one_that_the_sdk_asked_for(surface: Surface) -> None:
    """The tests ask for models that the price table has."""
    assert (
        CostEstimator()
        .estimate(model=MODELS[surface.provider], input_tokens=1, max_output_tokens=1)
        .highest
        > 0
    )
