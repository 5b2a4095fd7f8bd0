"""What a request may cost besides its own tokens is held with them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

import fluxai
from fluxai import (
    ApprovalRequired,
    BudgetExceeded,
    Governor,
    Model,
    Policy,
    Tenant,
    UnknownModel,
)
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import CAP, MESSAGES

pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")


@pytest.fixture
def gpt(governor: Governor, provider: FakeProvider) -> Iterator[Any]:
    """A wrapped client of OpenAI's."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        yield governor.wrap(client, tenant="acme")


@pytest.fixture
def claude(governor: Governor, provider: FakeProvider) -> Iterator[Any]:
    """A wrapped client of Anthropic's."""
    with anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0) as client:
        yield governor.wrap(client, tenant="acme")


def held(governor: Governor) -> Decimal:
    """Return what the last call held at most."""
    return governor.reservations()[0].estimate.highest


def _respond(client: Any, **more: Any) -> None:
    client.responses.create(model="gpt-4o", input="Name a river.", max_output_tokens=CAP, **more)


def _message(client: Any, model: str = "claude-haiku-4-5", **more: Any) -> None:
    client.beta.messages.create(model=model, messages=MESSAGES, max_tokens=CAP, **more)


@pytest.mark.parametrize(
    ("tool", "more", "fees"),
    [
        ({"type": "web_search"}, {}, "0.03"),
        ({"type": "web_search_preview"}, {"max_tool_calls": 1}, "0.025"),
        ({"type": "file_search", "vector_store_ids": ["v"]}, {"max_tool_calls": 2}, "0.005"),
        (
            {"type": "image_generation", "quality": "high", "size": "1024x1024"},
            {},
            "0.167",
        ),
        ({"type": "image_generation", "model": "gpt-image-1-mini"}, {"max_tool_calls": 2}, "0.1"),
    ],
    ids=lambda shown: str(shown.get("type", "")) if isinstance(shown, dict) else str(shown),
)
def test_tools_that_run_at_openai_are_held(
    gpt: Any, governor: Governor, *, tool: dict[str, Any], more: dict[str, Any], fees: str
) -> None:
    """Each use has its price; where no limit is set, a few uses are held."""
    _respond(gpt, tools=[{"type": "local_shell"}])
    plain = held(governor)
    _respond(gpt, tools=[tool], **more)
    # The definitions differ by a few tokens.
    assert abs(held(governor) - plain - Decimal(fees)) < Decimal("0.0005")


def test_searches_of_claude_are_held(claude: Any, governor: Governor) -> None:
    """As many as the request allows."""
    search = {"type": "web_search_20250305", "name": "web_search"}
    _message(claude, tools=[{**search, "max_uses": 1}])
    once = held(governor)
    _message(claude, tools=[{**search, "max_uses": 6}])
    assert held(governor) - once == Decimal("0.05")


@pytest.mark.parametrize(("ttl", "times"), [("5m", "1.25"), ("1h", "2")])
def test_writing_into_the_cache_is_held(
    claude: Any, governor: Governor, ttl: str, times: str
) -> None:
    """A prompt that is written into the cache costs more than one that is read."""
    mark = {"cache_control": {"type": "ephemeral", "ttl": ttl}}
    ask = {"model": "claude-haiku-4-5", "max_tokens": 1}
    costs = []
    # Not the same words: what they were billed would be remembered.
    for word, more in (("river", {}), ("tower", mark)):
        block = {"type": "text", "text": f"a {word} " * 2_000, **more}
        claude.messages.create(messages=[{"role": "user", "content": [block]}], **ask)
        costs.append(held(governor))
    plain, written = costs
    # The answer's one token is no more than a rounding.
    assert abs(written - plain * Decimal(times)) < Decimal("0.0001")
    claude.messages.create(messages=MESSAGES, system=[block], **ask)
    assert held(governor) >= written


def test_a_faster_tier_is_held(gpt: Any, governor: Governor) -> None:
    """An answer at priority costs more than at the standard tier, and is held so."""
    for word, tier in (("river", "default"), ("tower", "priority")):
        said = [{"role": "user", "content": f"Name a {word}."}]
        gpt.chat.completions.create(
            model="gpt-5.5", messages=said, max_completion_tokens=1_000, service_tier=tier
        )
    priority, standard = (one.estimate.highest for one in governor.reservations()[:2])
    assert priority >= standard * Decimal("2.5")


@pytest.mark.parametrize(("kind", "bytes_per_s"), [("wav", 16_000), ("mp3", 4_000)])
def test_sound_that_is_heard_is_held(
    gpt: Any, governor: Governor, *, kind: str, bytes_per_s: int
) -> None:
    """Two minutes of speech are 1,200 tokens of sound, at $40 for a million."""
    recording = base64.b64encode(bytes(120 * bytes_per_s)).decode()
    sound = {"type": "input_audio", "input_audio": {"data": recording, "format": kind}}
    gpt.chat.completions.create(
        model="gpt-4o-audio-preview",
        messages=[{"role": "user", "content": [sound]}],
        max_completion_tokens=CAP,
    )
    assert Decimal("0.048") < held(governor) < Decimal("0.06")


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "fallbacks": ("claude-opus-4-1", {"extra_body": {"fallbacks": [{"model": "claude-opus-4-1"}]}}),
    "advisor": (
        "claude-opus-4-1",
        {
            "tools": [
                {
                    "type": "advisor_20260301",
                    "name": "advisor",
                    "model": "claude-opus-4-1",
                    "max_uses": 1,
                    "max_tokens": CAP,
                }
            ]
        },
    ),
}


@pytest.mark.parametrize(("other", "more"), OTHERS.values(), ids=OTHERS)
def test_another_model_that_may_answer_is_held(
    claude: Any, governor: Governor, *, other: str, more: dict[str, Any]
) -> None:
    """Whoever answers, or is asked for advice, may be the dearer one."""
    _message(claude, other)
    dear = held(governor)
    _message(claude, **more)
    assert held(governor) > dear


@pytest.mark.parametrize(("other", "more"), OTHERS.values(), ids=OTHERS)
def test_a_model_that_is_not_allowed_may_not_help(
    claude: Any, governor: Governor, provider: FakeProvider, *, other: str, more: dict[str, Any]
) -> None:
    """`allowed_models` holds for every model that a request names, and so does its budget."""
    governor.tenants.put(Tenant(id="acme", allowed_models=("claude-haiku-*",)))
    with pytest.raises(UnknownModel, match="not among the tenant's allowed_models"):
        _message(claude, **more)
    governor.tenants.put(Tenant(id="acme"))
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="tool",
            scope_id=other,
            limit_type="daily",
            limit_value="0.0000001",
        )
    )
    with pytest.raises(BudgetExceeded):
        _message(claude, **more)
    assert provider.requests == []
    assert governor.reservations() == []


@pytest.mark.parametrize("more", [more for _, more in OTHERS.values()], ids=OTHERS)
def test_a_human_is_asked_for_all_of_them_at_once(
    claude: Any, governor: Governor, more: dict[str, Any]
) -> None:
    """One approval of what is held lets the call run, with whatever may help it."""
    governor.policies.put(
        Policy(
            tenant_id="acme",
            limit_type="per_request",
            limit_value="0.0001",
            decision="require_approval",
        )
    )
    with pytest.raises(ApprovalRequired) as refused:
        _message(claude, **more)
    governor.approvals.approve(refused.value.approval_id, by="ann")
    with fluxai.subject(approval_id=refused.value.approval_id):
        _message(claude, **more)
    assert len(governor.events()) == 1


def test_models_that_a_router_may_take_instead(
    gpt: Any, governor: Governor, provider: FakeProvider
) -> None:
    """OpenRouter takes a list of models to try: all of them have to be allowed, and are held."""
    governor.tenants.put(Tenant(id="acme", allowed_models=("gpt-4o-mini",)))
    ask = {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": CAP}
    with pytest.raises(UnknownModel):
        gpt.chat.completions.create(**ask, extra_body={"models": ["gpt-4o-mini", "gpt-4o"]})
    assert provider.requests == []
    gpt.chat.completions.create(**ask, extra_body={"models": ["gpt-4o-mini"]})
    (own,) = governor.reservations()
    governor.tenants.put(Tenant(id="acme"))
    gpt.chat.completions.create(**ask, extra_body={"models": ["gpt-4o-mini", "gpt-4o"]})
    assert held(governor) > own.estimate.highest * 10


@pytest.mark.parametrize("named", [{}, {"model": "gpt-image-1"}], ids=["by default", "by name"])
def test_a_model_that_is_not_allowed_may_not_draw(
    gpt: Any, governor: Governor, provider: FakeProvider, *, named: dict[str, str]
) -> None:
    """The tool that makes pictures has another model make them."""
    governor.tenants.put(Tenant(id="acme", allowed_models=("gpt-4o",)))
    drawing = {"type": "image_generation", **named}
    with pytest.raises(UnknownModel, match="'gpt-image-1' is not among"):
        _respond(gpt, tools=[drawing])
    assert provider.requests == []
    governor.tenants.put(Tenant(id="acme", allowed_models=("gpt-4o", "gpt-image-*")))
    _respond(gpt, tools=[drawing])
    assert len(provider.requests) == 1


@pytest.mark.parametrize("tenant", ["acme", None], ids=["the tenant's", "everybody's"])
def test_another_model_is_held_at_its_own_price(
    gpt: Any, governor: Governor, tenant: str | None
) -> None:
    """Also where that was put for the tenant alone, or the model is no provider's of the table."""
    ask = {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": 1_000}
    for own, provider in (("gpt-4o", "openai"), ("house", "house")):
        governor.models.put(
            Model(id=own, provider=provider, input_price=1, output_price=1_000), tenant=tenant
        )
        gpt.chat.completions.create(**ask, extra_body={"models": [own]})
        assert 1 < held(governor) < Decimal("1.01")


def test_an_async_client_looks_at_the_others_too(
    governor: Governor, provider: FakeProvider
) -> None:
    """The same refusal, awaited."""
    governor.tenants.put(Tenant(id="acme", allowed_models=("claude-haiku-*",)))
    _, more = OTHERS["fallbacks"]

    async def once() -> None:
        async with anthropic.AsyncAnthropic(
            base_url=provider.anthropic_url, api_key="k", max_retries=0
        ) as client:
            wrapped: Any = governor.wrap(client, tenant="acme")
            with pytest.raises(UnknownModel):
                await wrapped.beta.messages.create(
                    model="claude-haiku-4-5", messages=MESSAGES, max_tokens=CAP, **more
                )

    asyncio.run(once())
    assert provider.requests == []
