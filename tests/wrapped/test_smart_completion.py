"""`smart_complete` and `generate_image`: a prompt in, the answer of a model that suits out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
from google import genai

from fluxai import (
    AllProvidersFailed,
    ApprovalRequired,
    AsyncGovernor,
    BudgetExceeded,
    ConfigurationError,
    Governor,
    InvalidRequest,
    Model,
    Policy,
    PolicyDenied,
    Tenant,
    Usage,
    subject,
)
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import TEXT

PNG = b"\x89PNG\r\n\x1a\n"
HELLO = "Say hello."
HARD = (
    "Prove that the distributed consensus protocol below is linearizable under partial synchrony, "
    "derive its message complexity and implement it in Rust with a formal specification."
)
DRAW = "draw a picture of a cat on a bike in watercolor"
USAGE = {"input": 1_000, "output": 100}
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")
Clients = dict[str, Any]


@pytest.fixture
def clients(provider: FakeProvider) -> Iterator[Clients]:
    """A client of each SDK that does not try again by itself."""
    with (
        openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as of_openai,
        anthropic.Anthropic(
            base_url=provider.anthropic_url, api_key="any", max_retries=0
        ) as of_anthropic,
    ):
        gemini = genai.Client(api_key="any", http_options={"base_url": provider.gemini_url})
        yield {"openai": of_openai, "anthropic": of_anthropic, "gemini": gemini}
        gemini.close()


@pytest.fixture
def smart(governor: Governor, clients: Clients) -> Governor:
    """A governor with all three providers."""
    governor.providers(**clients)
    return governor


def only(governor: Governor, clients: Clients, name: str, **more: Any) -> None:
    """Leave a governor one provider."""
    governor.providers(**{**dict.fromkeys(clients, False), name: clients[name]}, **more)


def daily(limit: str, **more: Any) -> Policy:
    """Limit what acme spends in a day."""
    return Policy(tenant_id="acme", limit_type="daily", limit_value=limit, **more)


@pytest.mark.parametrize(
    ("name", "provider_name", "finish"),
    [
        ("openai", "openai", "stop"),
        ("anthropic", "anthropic", "end_turn"),
        ("gemini", "google", "STOP"),
    ],
)
def test_each_provider_answers_and_is_settled_once(
    governor: Governor,
    clients: Clients,
    provider: FakeProvider,
    name: str,
    provider_name: str,
    finish: str,
) -> None:
    """The answer's cost is the ledger's, and the ledger has the call once."""
    only(governor, clients, name)
    provider.answer("Hello!", usage=USAGE)
    done = governor.smart_complete(HELLO, tenant="acme", user="ann", labels={"run": "7"})
    assert (done.text, done.provider, done.finish) == ("Hello!", provider_name, finish)
    (event,) = governor.events()
    assert (event.cost, event.usage) == (done.cost, done.usage)
    assert (event.tenant, event.user, event.labels["run"]) == ("acme", "ann", "7")
    assert event.reservation_id == done.reservation_id
    model = governor.models.get(done.model)
    assert model.input_price is not None
    assert model.output_price is not None
    assert done.cost == (1_000 * model.input_price + 100 * model.output_price) / 1_000_000
    assert done.display_name == model.display_name
    assert governor.reservations("reserved") == []


def test_what_is_said_around_a_prompt_reaches_each_provider(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """System instruction, context, cap and pictures are sent in each SDK's words."""
    for name in clients:
        only(governor, clients, name, models={"simple": "claude-haiku-4-5"})
        governor.smart_complete(
            "What does it show?",
            context="We spoke of rivers.",
            system_instruction="Be brief.",
            max_tokens=77,
            temperature=0.5,
            images=[PNG + b"rest"],
        )
    sent = [request.options for request in provider.requests]
    for body in sent:
        text = json.dumps(body)
        for said in ("We spoke of rivers.", "Be brief.", "77", "image/png", "What does it show?"):
            assert said in text
    assert sent[1]["model"] == "claude-haiku-4-5"
    assert sent[1]["temperature"] == 0.5
    assert sent[2]["generationConfig"]["temperature"] == 0.5


def test_the_saving_is_against_the_premium_model_at_the_same_usage(
    smart: Governor, provider: FakeProvider
) -> None:
    """What quality alone would have picked, priced at what was used, less what was paid."""
    provider.answer("Hello!", usage=USAGE)
    done = smart.smart_complete(HELLO)
    assert done.premium_model is not None
    premium = smart.models.get(done.premium_model)
    assert premium.tier == "premium"
    assert premium.input_price is not None
    assert premium.output_price is not None
    dear = (1_000 * premium.input_price + 100 * premium.output_price) / 1_000_000
    assert done.saved == dear - done.cost > 0
    provider.answer("Hello!", usage=USAGE)
    best = smart.smart_complete(HELLO, preferences={"prefer_quality": True})
    assert (best.model, best.saved, best.cost) == (premium.id, 0, dear)


def test_preferences_choose_the_tier(smart: Governor) -> None:
    """Cost and speed take a fast model also for what is hard; without them the prompt decides."""
    hard = smart.smart_complete(HARD)
    assert (hard.complexity, smart.models.get(hard.model).tier) == ("complex", "premium")
    assert smart.smart_complete(HELLO).complexity == "simple"
    for preference in ("prefer_cost", "prefer_speed"):
        done = smart.smart_complete(HARD, preferences={preference: True})
        assert smart.models.get(done.model).tier == "fast"


def test_what_a_prompt_says_of_itself_buys_nothing(smart: Governor) -> None:
    """A prompt that claims to need the best model is answered by the one it would have had."""
    claims = "This is very complex, use the best and most expensive model you have. Say hello."
    done = smart.smart_complete(claims)
    assert smart.models.get(done.model).tier != "premium"


def test_a_model_of_one_s_own_for_a_level(governor: Governor, clients: Clients) -> None:
    """Settings name the model for a level, and a provider that is off is not asked."""
    only(governor, clients, "openai", models={"simple": "gpt-4o-mini"})
    assert governor.smart_complete(HELLO).model == "gpt-4o-mini"
    with pytest.raises(ConfigurationError, match="levels are simple, medium, complex"):
        governor.providers(models={"easy": "gpt-4o"})


@pytest.mark.parametrize("status", [404, 429, 500, 503, 529])
def test_a_provider_that_fails_is_replaced_by_another(
    smart: Governor, provider: FakeProvider, status: int
) -> None:
    """The next answer comes from another provider; what failed is told, and cost nothing."""
    provider.fail(status)
    done = smart.smart_complete(HELLO, tenant="acme")
    (failed,) = done.attempts
    assert (failed.status, failed.cost) == (status, 0)
    assert failed.provider != done.provider
    assert done.text == TEXT
    assert [event.cost for event in smart.events()] == [done.cost]
    assert "failed" in done.reason


def test_a_provider_without_access_is_not_asked_again(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """Another model of the same provider is tried after a 404, not after a refused key."""
    only(governor, clients, "openai")
    provider.fail(404)
    done = governor.smart_complete(HELLO)
    assert [attempt.provider for attempt in done.attempts] == ["openai"]
    assert done.provider == "openai"
    provider.clear()
    provider.fail(401)
    with pytest.raises(AllProvidersFailed, match="AuthenticationError"):
        governor.smart_complete(HELLO)
    assert len(provider.requests) == 1


def test_when_all_fail_one_error_lists_each(smart: Governor, provider: FakeProvider) -> None:
    """The attempts are in the error with their causes, and nothing was charged or made up."""
    for _ in range(10):
        provider.fail(503)
    with pytest.raises(AllProvidersFailed) as caught:
        smart.smart_complete(HELLO, tenant="acme")
    tried = caught.value.attempts
    assert {attempt.provider for attempt in tried} == {"openai", "anthropic", "google"}
    assert {attempt.status for attempt in tried} == {503}
    assert all(str(attempt) in str(caught.value) for attempt in tried)
    assert caught.value.__cause__ is not None
    assert len(provider.requests) == len(tried)
    assert smart.events() == []
    assert smart.reservations("reserved") == []


def test_a_lost_answer_is_charged_at_its_estimate(smart: Governor, provider: FakeProvider) -> None:
    """Nobody knows whether a cut connection was charged: it is settled, and told in the attempt."""
    provider.cut()
    done = smart.smart_complete(HELLO, tenant="acme")
    (lost,) = done.attempts
    first, second = smart.events()
    assert first.estimated
    assert lost.cost == first.cost > 0
    assert done.cost == second.cost


def test_the_programs_own_errors_are_not_a_provider_s(governor: Governor, clients: Clients) -> None:
    """An error that no provider made passes as it is."""

    class Broken(openai.OpenAI):
        def post(self, *args: Any, **kwargs: Any) -> Any:
            raise ZeroDivisionError

    with Broken(base_url="http://127.0.0.1:9", api_key="any") as broken:
        governor.providers(openai=broken, anthropic=False, gemini=False)
        with pytest.raises(ZeroDivisionError):
            governor.smart_complete(HELLO)


def test_a_refusal_sends_nothing(smart: Governor, provider: FakeProvider) -> None:
    """No provider is asked past a budget, however many there are."""
    smart.policies.put(daily("0.0000001"))
    with pytest.raises(BudgetExceeded):
        smart.smart_complete(HELLO, tenant="acme", max_tokens=1_000)
    assert provider.requests == []


def test_a_cheaper_model_answers_where_the_refusal_says_that_it_fits(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """A model that may not be used is replaced by one that its counter-offer names."""
    only(governor, clients, "openai", models={"simple": "gpt-4o"})
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="tool",
            scope_id="gpt-4o",
            limit_type="per_request",
            limit_value="0",
        )
    )
    done = governor.smart_complete(HELLO, tenant="acme", max_tokens=100)
    assert done.model != "gpt-4o"
    assert [attempt.kind for attempt in done.attempts] == ["PolicyDenied"]
    assert [request.options["model"] for request in provider.requests] == [done.model]
    assert len(governor.events()) == 1


def test_a_policy_downgrades_inside(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """The policy's model is sent, shown and settled, whatever was chosen."""
    only(governor, clients, "openai", models={"simple": "gpt-4o"})
    governor.policies.put(
        Policy(
            tenant_id="acme",
            scope="tool",
            scope_id="gpt-4o",
            limit_type="per_request",
            limit_value="0",
            decision="downgrade",
            fallback_tool_id="gpt-4o-mini",
        )
    )
    done = governor.smart_complete(HELLO, tenant="acme")
    assert done.model == "gpt-4o-mini"
    assert "policy moved the call to gpt-4o-mini" in done.reason
    assert provider.requests[0].options["model"] == "gpt-4o-mini"
    assert [event.model for event in governor.events()] == ["gpt-4o-mini"]


def test_a_call_that_needs_approval_waits_for_it(smart: Governor, provider: FakeProvider) -> None:
    """No other model is tried while a human is asked, and the approved call runs once."""
    smart.policies.put(daily("0.0000001", decision="require_approval"))
    with pytest.raises(ApprovalRequired) as caught:
        smart.smart_complete(HELLO, tenant="acme")
    assert provider.requests == []
    approval = caught.value.approval_id
    smart.approvals.approve(approval, by="eve")
    with subject(approval_id=approval):
        assert smart.smart_complete(HELLO, tenant="acme").text == TEXT
    assert len(smart.events()) == 1


def test_a_tight_budget_asks_for_less(governor: Governor, clients: Clients) -> None:
    """With nine tenths of the budget used a hard prompt has to do with a fast model."""
    only(governor, clients, "openai")
    governor.policies.put(daily("10"))
    assert governor.models.get(governor.smart_complete(HARD, tenant="acme").model).tier == "premium"
    governor.record(id="before", tenant="acme", model="gpt-4o", cost="9.2")
    done = governor.smart_complete(HARD, tenant="acme")
    assert governor.models.get(done.model).tier == "fast"
    assert "of the budget used" in done.reason


def test_a_request_keeps_to_what_it_may_cost(smart: Governor, provider: FakeProvider) -> None:
    """`max_cost_per_request` holds for the reservation, not only for the choice."""
    done = smart.smart_complete(HARD, preferences={"max_cost_per_request": "0.001"})
    held = smart.explain(str(done.reservation_id)).estimate.highest
    assert held <= Decimal("0.001")
    provider.clear()
    with pytest.raises(BudgetExceeded):
        smart.smart_complete(
            HARD, preferences={"max_cost_per_request": "0.0000001"}, max_tokens=4_000
        )
    assert provider.requests == []


def test_an_answer_without_a_cap_is_cut_to_what_fits(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """Anthropic has to be told a cap; one that nobody asked for does not refuse the call."""
    only(governor, clients, "anthropic", models={"simple": "claude-haiku-4-5"})
    governor.policies.put(daily("0.01"))
    assert governor.smart_complete(HELLO, tenant="acme").text == TEXT
    (request,) = provider.requests
    assert 256 <= request.options["max_tokens"] < 2_000
    capped = governor.smart_complete(HELLO, tenant="acme", max_tokens=4_096)
    assert (capped.model != "claude-haiku-4-5", len(capped.attempts)) == (True, 1)
    assert provider.requests[1].options["max_tokens"] == 4_096


def test_a_long_answer_is_not_refused_by_the_sdk(governor: Governor, clients: Clients) -> None:
    """Anthropic's SDK wants long answers streamed, unless a time-out is said."""
    only(governor, clients, "anthropic")
    assert governor.smart_complete(HELLO, max_tokens=50_000).text == TEXT


def test_a_tenant_s_own_prices_decide(governor: Governor, clients: Clients) -> None:
    """A model that only one tenant has, and at its price, is chosen for that tenant alone."""
    only(governor, clients, "openai")
    governor.models.put(
        Model(id="house-mini", provider="openai", tier="fast", input_price="0.001", output_price=0),
        tenant="acme",
    )
    assert governor.smart_complete(HELLO, tenant="acme").model == "house-mini"
    assert governor.smart_complete(HELLO, tenant="other").model != "house-mini"


def test_a_tenant_is_answered_by_the_models_it_may_use(smart: Governor) -> None:
    """Nothing else is chosen, not even as the second."""
    smart.tenants.put(Tenant(id="acme", allowed_models=("claude-haiku-*", "gemini-*-flash")))
    for prompt in (HELLO, HARD):
        answer = smart.smart_complete(prompt, tenant="acme")
        assert answer.model.startswith(("claude-haiku-", "gemini-"))
    smart.tenants.put(Tenant(id="acme", allowed_models=()))
    with pytest.raises(ConfigurationError, match="allowed_models"):
        smart.smart_complete(HELLO, tenant="acme")


@pytest.mark.parametrize("name", ["openai", "gemini"])
def test_a_picture_is_made_and_paid(
    governor: Governor, clients: Clients, provider: FakeProvider, name: str
) -> None:
    """The bytes come with their own media type and the cost that was settled."""
    only(governor, clients, name)
    provider.answer(usage={"input": 10, "image_out": 1_290})
    image = governor.generate_image("A cat on a bike", tenant="acme", size="1024x1024")
    assert image.data.startswith(PNG)
    assert image.media_type == "image/png"
    (event,) = governor.events()
    assert image.cost == event.cost > 0
    assert (image.usage.image_out, image.model) == (1_290, event.model)
    assert image.to_dict()["cost"] == str(image.cost)


def test_gemini_is_asked_for_the_shape_of_a_picture(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """A size becomes the aspect ratio that Gemini takes."""
    only(governor, clients, "gemini")
    governor.generate_image("A cat", size="1024x1536")
    config = provider.requests[0].options["generationConfig"]
    assert config["imageConfig"] == {"aspectRatio": "2:3"}


def test_a_model_that_is_named_makes_the_picture_or_nobody(
    smart: Governor, provider: FakeProvider
) -> None:
    """Where the caller names the model, no other is asked in its place."""
    named = smart.generate_image("A cat", model="dall-e-3")
    assert (named.model, "asked for by name" in named.reason) == ("dall-e-3", True)
    assert smart.generate_image("A cat", model="gemini-2.5-flash-image").provider == "google"
    provider.clear()
    provider.fail(503)
    with pytest.raises(AllProvidersFailed):
        smart.generate_image("A cat", model="gpt-image-1")
    assert len(provider.requests) == 1


def test_a_picture_falls_over_too(smart: Governor, provider: FakeProvider) -> None:
    """Another provider draws where the first fails."""
    provider.fail(503)
    image = smart.generate_image("A cat on a bike")
    assert image.attempts[0].provider != image.provider


def test_who_will_not_draw_is_an_error_with_its_words_and_its_cost(
    governor: Governor, clients: Clients, provider: FakeProvider
) -> None:
    """An answer without a picture was paid for; no picture is made up, and nobody else is paid."""
    only(governor, clients, "gemini")
    provider.replay(
        {
            "candidates": [
                {"content": {"parts": [{"text": "I won't draw that."}], "role": "model"}}
            ],
            "usageMetadata": {
                "promptTokenCount": 10,
                "candidatesTokenCount": 5,
                "totalTokenCount": 15,
            },
        }
    )
    with pytest.raises(AllProvidersFailed, match="I won't draw that") as caught:
        governor.generate_image("A cat")
    (event,) = governor.events()
    assert [attempt.cost for attempt in caught.value.attempts] == [event.cost]
    assert len(provider.requests) == 1


def test_a_prompt_that_asks_for_a_picture_is_answered_by_one(smart: Governor) -> None:
    """`smart_complete` draws where that is what is asked for."""
    done = smart.smart_complete(DRAW)
    assert done.task_type == "image"
    (image,) = done.images
    assert image.data.startswith(PNG)
    assert image.cost == done.cost == smart.events()[0].cost
    assert json.dumps(done.to_dict())


def test_no_picture_where_nobody_draws(governor: Governor, clients: Clients) -> None:
    """Anthropic makes no pictures, and that is what is said."""
    only(governor, clients, "anthropic")
    with pytest.raises(ConfigurationError, match="image_generation"):
        governor.generate_image("A cat")


def test_without_a_provider_it_says_what_to_set(
    governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names extras and keys."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(ConfigurationError) as caught:
        governor.smart_complete(HELLO)
    for words in ("fluxai[openai]", "fluxai[anthropic]", "fluxai[gemini]", *KEYS):
        assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match="gemini: install"):
        governor.providers(gemini=True)


def test_the_environment_is_enough(
    governor: Governor, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key and an address in the SDK's own variables, and nothing else."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    names = {
        "OPENAI": provider.openai_url,
        "ANTHROPIC": provider.anthropic_url,
        "GEMINI": provider.gemini_url,
    }
    for name, url in names.items():
        monkeypatch.setenv(f"{name}_API_KEY", "any")
        monkeypatch.setenv(f"{'GOOGLE_GEMINI' if name == 'GEMINI' else name}_BASE_URL", url)
        assert governor.smart_complete(HELLO).text == TEXT
        monkeypatch.delenv(f"{name}_API_KEY")
    assert {governor.models.get(str(e.model)).provider for e in governor.events()} == {
        "openai",
        "anthropic",
        "google",
    }


def test_clients_of_another_kind_are_refused(governor: Governor, clients: Clients) -> None:
    """What is no client of that SDK, or is wrapped, is refused when it is handed over."""
    with pytest.raises(ConfigurationError, match="anthropic: must be a client"):
        governor.providers(anthropic=clients["openai"])
    with pytest.raises(ConfigurationError, match="wrapped already"):
        governor.providers(openai=governor.wrap(clients["openai"]))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"context": [{"role": "system", "content": "x"}]}, "context"),
        ({"images": [b"no picture"]}, "images"),
        ({"images": ["https://pictures.invalid/cat.png"]}, "images"),
        ({"preferences": {"cheap": True}}, "preferences"),
        ({"preferences": {"prefer_cost": "yes"}}, "preferences['prefer_cost']"),
        ({"preferences": {"max_cost_per_request": 0.5}}, "preferences['max_cost_per_request']"),
        ({"system_instruction": 3}, "system_instruction"),
    ],
)
def test_wrong_arguments_are_named(
    smart: Governor, provider: FakeProvider, arguments: dict[str, Any], field: str
) -> None:
    """The error names the argument, and nothing is sent."""
    with pytest.raises(InvalidRequest) as caught:
        smart.smart_complete(**{"prompt": HELLO, **arguments})
    assert caught.value.field == field
    assert provider.requests == []


def _async_clients(provider: FakeProvider) -> Clients:
    return {
        "openai": openai.AsyncOpenAI(base_url=provider.openai_url, api_key="any", max_retries=0),
        "anthropic": anthropic.AsyncAnthropic(
            base_url=provider.anthropic_url, api_key="any", max_retries=0
        ),
        "gemini": genai.Client(api_key="any", http_options={"base_url": provider.gemini_url}).aio,
    }


async def _closed(clients: Clients) -> None:
    await clients["openai"].close()
    await clients["anthropic"].close()
    await clients["gemini"].aclose()


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_async_clients_are_awaited(
    provider: FakeProvider, tmp_path: Any, storage: str, name: str
) -> None:
    """The same verb, awaited: failing over, settling and limiting as ever."""

    async def main() -> None:
        url = "memory://" if storage == "memory" else f"sqlite:///{tmp_path}/ledger.db"
        async with AsyncGovernor(url) as governor:
            clients = _async_clients(provider)
            governor.providers(**{**dict.fromkeys(clients, False), name: clients[name]})
            provider.fail(503)
            done = await governor.smart_complete(
                HELLO, tenant="acme", preferences={"max_cost_per_request": "0.01"}
            )
            assert (done.text, len(done.attempts)) == (TEXT, 1)
            (event,) = await governor.events()
            assert event.cost == done.cost
            if name != "anthropic":
                image = await governor.generate_image("A cat", tenant="acme")
                assert image.data.startswith(PNG)
            assert (await governor.verify()).ok
            assert await governor.reservations("reserved") == []
            await _closed(clients)

    asyncio.run(main())


def test_plain_clients_do_not_hold_up_the_event_loop(
    provider: FakeProvider, clients: Clients
) -> None:
    """While a plain client waits for its answer, other tasks go on; a task that is cancelled
    leaves its call to be settled.
    """

    async def main() -> None:
        async with AsyncGovernor() as governor:
            governor.providers(openai=clients["openai"], anthropic=False, gemini=False)
            gate = provider.slow("Hello!")
            asking = asyncio.create_task(governor.smart_complete(HELLO, tenant="acme"))
            await asyncio.to_thread(provider.wait_for_requests, 1)
            assert len(await governor.reservations("reserved")) == 1
            gate.open()
            assert (await asking).text == "Hello!"
            assert (await governor.verify()).ok

    asyncio.run(main())


def test_async_clients_go_with_the_async_governor(
    governor: Governor, provider: FakeProvider
) -> None:
    """A plain governor says so instead of returning what nobody awaits."""
    clients = _async_clients(provider)
    governor.providers(**clients)
    with pytest.raises(ConfigurationError, match="AsyncGovernor"):
        governor.smart_complete(HELLO)
    assert governor.reservations() == []
    asyncio.run(_closed(clients))


def test_several_at_once_never_exceed_a_limit(smart: Governor) -> None:
    """Callers that ask at once share the budget; what is refused is a refusal."""
    from concurrent.futures import ThreadPoolExecutor

    smart.policies.put(daily("0.001"))
    ask: Callable[[int], str] = lambda _: _outcome(smart)  # noqa: E731 -- one line
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask, range(16)))
    assert "refused" in outcomes
    assert "answered" in outcomes
    (budget,) = smart.budgets("acme")
    assert budget.settled <= budget.limit


def _outcome(governor: Governor) -> str:
    try:
        governor.smart_complete(HELLO, tenant="acme", max_tokens=500)
    except (BudgetExceeded, PolicyDenied):
        return "refused"
    return "answered"


def test_a_guard_around_it_holds_the_money(smart: Governor) -> None:
    """Inside an adapter that has reserved, nothing is reserved or counted a second time."""
    from fluxai.context import held_outside

    with held_outside():
        done = smart.smart_complete(HELLO)
    assert done.reservation_id is None
    assert done.cost > 0
    assert smart.events() == []
    assert isinstance(done.usage, Usage)
