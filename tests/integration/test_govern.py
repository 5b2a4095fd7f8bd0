"""`@governor.govern`: what a function's arguments become, and what its result is settled at."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import fluxai
from fluxai import BudgetExceeded, Governor, InvalidRequest, NotFound, Policy, Tool
from fluxai.testing import FakeClock
from tests.integration.stubs import (
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
        assert governor.reservations("reserved") == []
        assert governor.verify().ok


@pytest.fixture
def provider() -> Provider:
    """A provider that has answered nothing yet."""
    return Provider()


def _downgrade(governor: Governor) -> None:
    rule = {
        "tenant_id": "acme",
        "scope": "tool",
        "scope_id": "gpt-4",
        "limit_type": "per_request",
        "limit_value": "0",
        "decision": "downgrade",
        "fallback_tool_id": "gpt-3.5-turbo",
    }
    governor.policies.put(Policy.model_validate(rule))


def test_the_readme_function_is_governed(governor: Governor, provider: Provider) -> None:
    """Model and cap are filled in where the call leaves them out, and the bill is exact."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, *, model: str, max_tokens: int | None = None) -> dict[str, Any]:
        return provider.answer(model=model, max_tokens=max_tokens, prompt=prompt)

    answer = ask("Say hi.")  # type: ignore[call-arg]
    assert answer["model"] == "gpt-4o"
    (call,) = provider.calls
    assert call["model"] == "gpt-4o"
    assert call["max_tokens"] >= 256
    (event,) = governor.events()
    assert (event.cost, event.estimated) == (provider.charged, False)


def test_a_downgrade_replaces_the_model(governor: Governor, provider: Provider) -> None:
    """The function is called with the granted model, and that one is priced and recorded."""
    _downgrade(governor)

    @governor.govern(tenant="acme")
    def ask(prompt: str, model: str = "gpt-4", max_tokens: int = 50) -> dict[str, Any]:
        return provider.answer(model=model, max_tokens=max_tokens)

    ask("Say hi.")
    assert provider.calls == [{"model": "gpt-3.5-turbo", "max_tokens": 50}]
    (event,) = governor.events()
    assert (event.tool, event.decision) == ("gpt-3.5-turbo", "downgraded")
    assert event.cost == provider.charged


def test_a_model_passed_by_position_is_replaced_too(governor: Governor, provider: Provider) -> None:
    """It is the function's own parameter that counts, however it is passed."""
    _downgrade(governor)

    @governor.govern(tenant="acme")
    def ask(model: str, prompt: str, /) -> dict[str, Any]:
        return provider.answer(model=model, prompt=prompt)

    ask("gpt-4", "Say hi.")
    assert provider.calls == [{"model": "gpt-3.5-turbo", "prompt": "Say hi."}]


def test_a_function_without_a_model_is_never_downgraded(
    governor: Governor, provider: Provider
) -> None:
    """A function that can't be told another model is refused rather than mispriced."""
    _downgrade(governor)

    @governor.govern(model="gpt-4", tenant="acme")
    def ask(prompt: str) -> dict[str, Any]:
        return provider.answer(model="gpt-4", prompt=prompt)

    with pytest.raises(fluxai.Refused):
        ask("Say hi.")
    assert provider.calls == []


@pytest.mark.parametrize("cap", ["max_tokens", "max_output_tokens", "max_completion_tokens"])
def test_a_missing_cap_is_filled_and_a_given_one_kept(
    governor: Governor, provider: Provider, cap: str
) -> None:
    """Whatever the cap's parameter is called, the provider is sent the one that is held."""
    source = f"def ask(prompt, *, model='gpt-4o', {cap}=None): return send(model=model, cap={cap})"
    scope: dict[str, Any] = {"send": provider.answer}
    exec(source, scope)  # noqa: S102 -- the parameter's name is what varies
    ask = governor.govern(tenant="acme")(scope["ask"])
    ask("Say hi.")
    ask("Say hi.", **{cap: 77})
    filled, kept = (call["cap"] for call in provider.calls)
    assert 256 <= filled <= 4096
    assert kept == 77


def test_a_tool_s_arguments_tell_its_calls_apart(governor: Governor) -> None:
    """A loop guard counts calls with the same arguments, whichever object they go through."""
    governor.tools.put(Tool(id="search", cost_per_unit="0.01"))
    governor.policies.put(Policy(id="loop", tenant_id="acme", limit_type="hourly", repeat_limit=2))

    class Client:
        @governor.govern(tool="search", tenant="acme")
        def search(self, query: str, *, most: int = 10) -> str:
            return query

    for number in range(4):
        Client().search(f"question {number}")
    Client().search("cats")
    Client().search(query="cats", most=10)
    Client().search("cats", most=20)
    with pytest.raises(BudgetExceeded, match="the same call was made 2 times this hour"):
        Client().search("cats")


@pytest.mark.parametrize("passed", ["named", "as a keyword that is passed on"])
def test_a_cap_that_was_shrunk_is_sent(governor: Governor, provider: Provider, passed: str) -> None:
    """Where a policy grants less than the call's own cap, the provider is sent what is held."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            limit_type="per_request",
            measure="tokens",
            limit_value=600,
            shrink_output=True,
        )
    )
    if passed == "named":

        @governor.govern(model="gpt-4o", tenant="acme")
        def ask(prompt: str, *, model: str, max_tokens: int) -> dict[str, Any]:
            return provider.answer(model=model, max_tokens=max_tokens)
    else:

        @governor.govern(model="gpt-4o", tenant="acme")
        def ask(prompt: str, **options: Any) -> dict[str, Any]:
            return provider.answer(**options)

    ask("Say hi.", max_tokens=1_000)
    (call,) = provider.calls
    assert 500 < call["max_tokens"] < 600


def test_an_sdk_s_left_out_marker_counts_as_absent(governor: Governor, provider: Provider) -> None:
    """`max_tokens=NOT_GIVEN` is a cap that was not given."""
    from openai import NOT_GIVEN

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, max_tokens: Any = NOT_GIVEN) -> dict[str, Any]:
        return provider.answer(max_tokens=max_tokens, prompt=prompt)

    ask("Say hi.")
    assert 256 <= provider.calls[0]["max_tokens"] <= 4096


def test_keywords_that_are_passed_on_are_seen(governor: Governor, provider: Provider) -> None:
    """A function that only passes `**kwargs` on is priced by what it passes, and downgraded."""
    _downgrade(governor)

    @governor.govern(tenant="acme")
    def ask(**kwargs: Any) -> dict[str, Any]:
        return provider.answer(**kwargs)

    ask(model="gpt-4", messages=[{"role": "user", "content": "hi"}], max_tokens=40)
    assert provider.calls[0]["model"] == "gpt-3.5-turbo"
    assert provider.calls[0]["max_tokens"] == 40
    (reservation,) = governor.reservations()
    assert reservation.max_output_tokens == 40
    with pytest.raises(InvalidRequest, match="names no model"):
        ask(messages=[])


@pytest.mark.parametrize(
    "said",
    [
        {"prompt": "word " * 1000},
        {"messages": [{"role": "user", "content": "word " * 1000}]},
        {"input": "word " * 1000},
        {"input": ["word " * 500, "word " * 500]},
        {"contents": ["word " * 1000]},
        {"contents": [{"role": "user", "parts": [{"text": "word " * 1000}]}]},
        {"prompt": "", "messages": [{"role": "user", "content": "word " * 1000}]},
    ],
    ids=["prompt", "messages", "text", "texts", "contents", "parts", "an_empty_prompt"],
)
def test_the_prompt_is_found_where_providers_put_it(
    governor: Governor, said: dict[str, Any]
) -> None:
    """A thousand words are held as about a thousand tokens of input, wherever they stand."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(
        prompt: str | None = None,
        messages: Any = None,
        input: Any = None,  # noqa: A002 -- as the Responses API calls it
        contents: Any = None,
        *,
        max_tokens: int = 10,
    ) -> dict[str, Any]:
        return completion()

    ask(**said)
    (reservation,) = governor.reservations()
    assert 900 <= reservation.estimate.input_tokens <= 2_500


def test_defaults_count_as_arguments(governor: Governor, provider: Provider) -> None:
    """A default model and cap are what will be sent, so they are what is held."""

    @governor.govern(tenant="acme")
    def ask(prompt: str, model: str = "gpt-4o", max_tokens: int = 33) -> dict[str, Any]:
        return provider.answer(model=model, max_tokens=max_tokens)

    ask("Say hi.")
    (reservation,) = governor.reservations()
    assert (reservation.final_tool, reservation.max_output_tokens) == ("gpt-4o", 33)


def test_methods_keep_their_self(governor: Governor, provider: Provider) -> None:
    """Methods, class methods and static methods are governed alike."""

    class Agent:
        name = "agent"

        @governor.govern(model="gpt-4o", tenant="acme")
        def ask(self, prompt: str, *, model: str) -> tuple[str, dict[str, Any]]:
            """Ask."""
            return self.name, provider.answer(model=model, prompt=prompt)

        @classmethod
        @governor.govern(model="gpt-4o", tenant="acme")
        def ask_class(cls, prompt: str) -> tuple[str, dict[str, Any]]:
            return cls.name, provider.answer(prompt=prompt)

        @staticmethod
        @governor.govern(model="gpt-4o", tenant="acme")
        def ask_static(prompt: str) -> dict[str, Any]:
            return provider.answer(prompt=prompt)

    assert Agent().ask("hi")[0] == "agent"  # type: ignore[call-arg]
    assert Agent.ask_class("hi")[0] == "agent"
    Agent.ask_static("hi")
    assert Agent.ask.__name__ == "ask"
    assert Agent.ask.__doc__ == "Ask."
    assert len(governor.events()) == 3
    # The answer is one part of a result, so its usage is not seen: estimated, never free.
    assert spent(governor) > 0


def test_partials_and_callable_objects_are_governed(governor: Governor, provider: Provider) -> None:
    """Whatever can be called can be governed, with the arguments it has left."""

    def send(client: str, prompt: str, *, model: str) -> dict[str, Any]:
        return provider.answer(model=model, client=client, prompt=prompt)

    class Client:
        def __call__(self, prompt: str, model: str) -> dict[str, Any]:
            return provider.answer(model=model, prompt=prompt)

    decorate: Callable[[Any], Any] = governor.govern(model="gpt-4o", tenant="acme")
    decorate(functools.partial(send, "mine"))("hi")
    decorate(Client())("hi")
    assert [call["model"] for call in provider.calls] == ["gpt-4o", "gpt-4o"]
    assert spent(governor) == provider.charged


def test_arguments_that_do_not_fit_hold_nothing(governor: Governor) -> None:
    """A wrong call is Python's own TypeError, before anything is held."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, *, model: str, max_tokens: int) -> None:
        pytest.fail("it ran")

    for args, kwargs in (((), {}), (("hi", "more"), {}), (("hi",), {"unknown": 1})):
        with pytest.raises(TypeError):
            ask(*args, **kwargs)  # type: ignore[call-arg]
    assert governor.reservations() == []


def test_what_can_not_be_governed_is_said_when_it_is_decorated(governor: Governor) -> None:
    """A function that pays for nobody knows what is refused on the spot, by name."""

    def ask(prompt: str) -> None: ...

    with pytest.raises(InvalidRequest, match=r"ask has no parameter 'model'"):
        governor.govern()(ask)
    with pytest.raises(InvalidRequest, match="either model= or tool="):
        governor.govern(model="gpt-4o", tool="search")(ask)
    with pytest.raises(InvalidRequest, match="decorates functions"):
        governor.govern(model="gpt-4o")("ask")  # type: ignore[type-var]


def test_a_refused_function_never_runs(governor: Governor) -> None:
    """The refusal comes instead of the call."""
    governor.policies.put(daily("0"))

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str) -> None:
        pytest.fail("it ran")

    with pytest.raises(BudgetExceeded, match="daily cost limit"):
        ask("hi")


def test_a_tool_is_paid_by_the_unit(governor: Governor) -> None:
    """A tool's units are charged at its price, whatever the function returns."""
    governor.tools.put(Tool(id="search", cost_per_unit=Decimal("0.005")))

    @governor.govern(tool="search", tenant="acme", units=3)
    def search(query: str) -> list[str]:
        return [query]

    assert search("x") == ["x"]
    (event,) = governor.events()
    assert (event.cost, event.requests, event.estimated) == (Decimal("0.015"), 3, False)

    @governor.govern(tool="unknown", tenant="acme")
    def lookup(query: str) -> None:
        pytest.fail("it ran")

    with pytest.raises(NotFound, match="no price per unit"):
        lookup("x")
    with pytest.raises(NotFound, match="'gpt-4o' is a model, .* with model="):
        governor.reserve(tool="gpt-4o", tenant="acme", units=3)


@pytest.mark.parametrize(
    "result", ["a text of some length " * 20, None, 42, b"bytes", [1, 2], object(), {"a": "b"}]
)
def test_a_result_without_usage_is_settled_at_an_estimate(
    governor: Governor, result: object
) -> None:
    """What tells no usage is charged at the estimate of what it holds, and flagged."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, max_tokens: int = 500) -> Any:
        return result

    assert ask("Say hi.") is result
    (event,) = governor.events()
    assert event.estimated
    assert event.cost > 0


def test_the_estimate_of_a_text_follows_its_length(governor: Governor) -> None:
    """A short answer is charged less than the whole cap, a long one more than a short one."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, max_tokens: int = 4_000) -> str:
        return prompt

    ask("word " * 10)
    ask("word " * 1_000)
    short, long = governor.events()
    reservations = {found.id: found for found in governor.reservations()}
    assert short.cost * 10 < long.cost
    assert short.reservation_id is not None
    assert short.cost < reservations[short.reservation_id].estimate.highest / 10


def test_an_error_of_the_function_gives_the_money_back(governor: Governor) -> None:
    """A failed call costs nothing; one that may have been charged costs the estimate."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str, error: BaseException) -> None:
        raise error

    with pytest.raises(ValueError, match="bad"):
        ask("hi", ValueError("bad"))
    assert governor.events() == []
    with pytest.raises(TimeoutError):
        ask("hi", TimeoutError())
    assert [event.estimated for event in governor.events()] == [True]


def test_a_store_that_fails_on_settle_does_not_lose_the_result(
    tmp_path: Path, provider: Provider
) -> None:
    """The caller gets what was paid for; the settlement waits on disk, and is counted."""
    storage = BrokenStorage(spool_path=tmp_path / "spool")
    governor = Governor(storage, clock=FakeClock())

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(prompt: str) -> dict[str, Any]:
        storage.down = True
        return provider.answer(prompt=prompt)

    assert ask("hi")["model"] == "gpt-4o"
    assert governor.settle_errors == 1
    storage.down = False
    assert governor.replay_spool() == 1
    assert spent(governor) == provider.charged


def test_labels_and_user_are_those_of_the_decorator(governor: Governor, provider: Provider) -> None:
    """Each call of a governed function carries the decorator's subject."""

    @governor.govern(model="gpt-4o", tenant="acme", user="alice", labels={"team": "red"})
    def ask(prompt: str) -> dict[str, Any]:
        return provider.answer(prompt=prompt)

    with fluxai.subject(tenant="other", user="bob", run="7"):
        ask("hi")
    (event,) = governor.events()
    assert (event.tenant, event.user) == ("acme", "alice")
    assert event.labels == {"team": "red", "run": "7"}
