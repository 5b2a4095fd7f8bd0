"""What is not a plain question: embeddings, media, answers that come later, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

import fluxai
from fluxai import (
    BudgetExceeded,
    ConfigurationError,
    CostEstimator,
    Governor,
    NotGoverned,
    Policy,
    StreamStopped,
    Tenant,
    UnknownModel,
    Usage,
)
from fluxai.context import held_outside
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import CAP, MESSAGES

pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")


@pytest.fixture
def gpt(governor: Governor, provider: FakeProvider) -> Iterator[openai.OpenAI]:
    """A wrapped client of OpenAI's."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        yield governor.wrap(client, tenant="acme")


@pytest.fixture
def claude(governor: Governor, provider: FakeProvider) -> Iterator[anthropic.Anthropic]:
    """A wrapped client of Anthropic's."""
    with anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0) as client:
        yield governor.wrap(client, tenant="acme")


def limit(governor: Governor, amount: str, **more: Any) -> None:
    """Give the tenant a budget for the day."""
    governor.policies.put(
        Policy(id="day", tenant_id="acme", limit_type="daily", limit_value=amount, **more)
    )


def test_embeddings_are_never_moved_to_another_model(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """Vectors of another model mean nothing: what does not fit is refused."""
    gpt.embeddings.create(model="text-embedding-3-large", input=["a river", "a lake"])
    (event,) = governor.events()
    assert event.flags == ()
    assert event.cost > 0
    limit(governor, "0.0000001", decision="downgrade", fallback_tool_id="text-embedding-3-small")
    with pytest.raises(BudgetExceeded):
        gpt.embeddings.create(model="text-embedding-3-large", input="a river " * 50)
    assert len(provider.requests) == 1


def _ask_plainly(responses: Any, ask: dict[str, Any]) -> None:
    responses.create(**ask)


def _ask_raw(responses: Any, ask: dict[str, Any]) -> None:
    responses.with_raw_response.create(**ask)


def _ask_streaming(responses: Any, ask: dict[str, Any]) -> None:
    for _ in responses.create(**ask, stream=True):
        pass


@pytest.mark.parametrize("begin", [_ask_plainly, _ask_raw, _ask_streaming])
@pytest.mark.parametrize("goes_on_by", ["previous_response_id", "conversation"])
def test_a_conversation_that_the_provider_keeps_is_held_whole(
    gpt: openai.OpenAI,
    governor: Governor,
    provider: FakeProvider,
    begin: Callable[[Any, dict[str, Any]], None],
    goes_on_by: str,
) -> None:
    """What was said before is billed again, however its answer was read."""
    ask = {"model": "gpt-4o", "input": "Name a river.", "max_output_tokens": CAP}
    used = {"input_tokens": 99_900, "output_tokens": 100, "total_tokens": 100_000}
    said = {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-4o",
        "status": "completed",
        "output": [],
        "conversation": {"id": "conv_1"},
        "usage": used,
    }
    streams = begin is _ask_streaming
    provider.replay([{"type": "response.completed", "response": said}] if streams else said)
    begin(gpt.responses, ask)
    known = "resp_1" if goes_on_by == "previous_response_id" else "conv_1"
    responses: Any = gpt.responses
    responses.create(**{**ask, "input": "And a lake."}, **{goes_on_by: known})
    # $2.50 for a million tokens.
    assert governor.reservations()[0].estimate.highest > Decimal("0.25")


def test_images_are_held_and_paid_by_the_image(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """Two pictures cost twice one, before and after; what does not fit is not drawn."""
    limit(governor, "0.10")
    gpt.images.generate(model="dall-e-3", prompt="a river", n=2)
    (event,) = governor.events()
    assert event.cost == Decimal("0.08")
    with pytest.raises(BudgetExceeded):
        gpt.images.generate(model="dall-e-3", prompt="a river")
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("asked", "each"),
    [
        ({}, "0.04"),
        ({"size": "1792x1024"}, "0.08"),
        ({"quality": "hd"}, "0.08"),
        ({"quality": "hd", "size": "1024x1792"}, "0.12"),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_images_are_paid_by_quality_and_size(
    gpt: openai.OpenAI, governor: Governor, *, asked: dict[str, Any], each: str, raw: bool
) -> None:
    """The answer does not say how large and how good a picture is; the request does."""
    images: Any = gpt.images.with_raw_response if raw else gpt.images
    images.generate(model="dall-e-3", prompt="a river", n=2, **asked)
    assert governor.events()[0].cost == 2 * Decimal(each)
    assert governor.reservations()[0].estimate.highest == 2 * Decimal(each)


def test_an_answer_that_speaks_is_held_as_sound(gpt: openai.OpenAI, governor: Governor) -> None:
    """Sound costs several times what text does, and any part of the answer may be sound."""
    held = []
    for modalities in (["text"], ["text", "audio"]):
        gpt.chat.completions.create(
            model="gpt-4o-audio-preview",
            modalities=modalities,  # type: ignore[arg-type]
            messages=MESSAGES,
            max_completion_tokens=1_000,
        )
        held.append(governor.reservations()[0].estimate.highest)
    rates = governor.registry.rates("gpt-4o-audio-preview", governor.events()[0].at_us)
    sound = CostEstimator().cost_of(Usage(audio_out=1_000), rates)
    assert held[0] < Decimal(sound) / 10**9 < held[1]


def test_speech_is_paid_by_the_character(gpt: openai.OpenAI, governor: Governor) -> None:
    """A recording tells no usage: the characters that were spoken do."""
    gpt.audio.speech.create(model="tts-1", voice="alloy", input="a river " * 100).read()
    (event,) = governor.events()
    assert event.cost == Decimal("0.012")


def test_the_granted_cap_is_sent(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """A call without a cap is given one that its budget has room for."""
    limit(governor, "0.05")
    gpt.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    (request,) = provider.requests
    (held,) = governor.reservations()
    assert request.json["max_tokens"] == held.max_output_tokens


def test_a_call_is_shrunk_to_what_fits(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """With `shrink_output` the cap that fits is sent, where the one that was asked for does not."""
    limit(governor, "0.01", shrink_output=True)
    gpt.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_completion_tokens=2_000)
    (request,) = provider.requests
    (held,) = governor.reservations()
    assert request.json["max_completion_tokens"] == held.max_output_tokens
    assert held.max_output_tokens is not None
    assert 256 <= held.max_output_tokens < 2_000


def test_several_answers_share_the_cap(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """`n` answers may each use the cap: all of them are held."""
    gpt.chat.completions.create(model="gpt-4o", messages=MESSAGES, n=3, max_completion_tokens=CAP)
    (held,) = governor.reservations()
    assert held.max_output_tokens == 3 * CAP
    assert provider.requests[0].json["max_completion_tokens"] == CAP


@pytest.mark.parametrize("larger", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("small", [5, 1_900])
def test_of_two_caps_the_larger_one_is_held(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider, larger: str, small: int
) -> None:
    """Some servers know only one of them; none is sent larger than it was, or than was granted."""
    smaller = "max_completion_tokens" if larger == "max_tokens" else "max_tokens"
    chat: Any = gpt.chat.completions
    chat.create(model="gpt-4o", messages=MESSAGES, **{larger: 2_000, smaller: small})
    assert governor.reservations()[0].max_output_tokens == 2_000
    limit(governor, "0.01", shrink_output=True)
    chat.create(model="gpt-4o", messages=MESSAGES, **{larger: 2_000, smaller: small})
    granted = governor.reservations()[0].max_output_tokens
    assert granted is not None
    assert 256 <= granted < 1_900
    sent = provider.requests[-1].json
    assert (sent[larger], sent[smaller]) == (granted, min(granted, small))


@pytest.mark.parametrize("count", [3, 3.0, "3"], ids=repr)
def test_a_number_of_answers_in_any_spelling_counts(
    gpt: openai.OpenAI, governor: Governor, count: Any
) -> None:
    """Servers take a whole number however it is written; each answer may use the cap."""
    gpt.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=100, n=count)
    assert governor.reservations()[0].max_output_tokens == 300


def test_a_stream_is_stopped_when_its_reservation_is_used_up(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """A server that ignores the cap is cut off; what had arrived was passed on before."""
    limit(governor, "1.00", stop_stream=True)
    chunks: list[object] = [
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt-4o",
            "choices": [{"index": 0, "delta": {"content": "a river "}, "finish_reason": None}],
        }
        for _ in range(500)
    ]
    provider.replay([*chunks, "[DONE]"])
    stream = gpt.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, max_completion_tokens=CAP, stream=True
    )
    arrived: list[str | None] = []
    with pytest.raises(StreamStopped, match="used up") as stopped:
        arrived.extend(chunk.choices[0].delta.content for chunk in stream)
    assert "".join(arrived) == stopped.value.text
    assert 0 < len(arrived) < 200
    (event,) = governor.events()
    assert "estimated" in event.flags
    assert governor.reservations(state="reserved") == []


def test_a_background_answer_is_charged_once_when_it_is_there(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """Its money stays held until it is asked for; asking again charges nothing more."""
    provider.answer("Rhine", usage={"input": 20, "output": 5})
    queued = gpt.responses.create(
        model="gpt-4o", input="Name a river.", background=True, max_output_tokens=CAP
    )
    assert governor.events() == []
    assert len(governor.reservations(state="reserved")) == 1
    for _ in range(3):
        answer = gpt.responses.retrieve(queued.id)
    assert answer.status == "completed"
    (event,) = governor.events()
    usage = Usage(input=20, output=5)
    rates = governor.registry.rates("gpt-4o", event.at_us)
    assert event.cost == Decimal(CostEstimator().cost_of(usage, rates)) / 10**9
    assert governor.reservations(state="reserved") == []


def test_a_batch_is_held_a_request_at_a_time_and_charged_by_its_results(
    claude: anthropic.Anthropic, governor: Governor
) -> None:
    """All requests of a batch are held, in all or in none; each result is charged once."""
    requests: Any = [
        {
            "custom_id": f"r{number}",
            "params": {"model": "claude-opus-4-1", "max_tokens": CAP, "messages": MESSAGES},
        }
        for number in range(3)
    ]
    batch = claude.messages.batches.create(requests=requests)
    assert len(governor.reservations(state="reserved")) == 3
    for _ in range(2):
        assert len(list(claude.messages.batches.results(batch.id))) == 3
    assert len(governor.events()) == 3
    assert governor.reservations(state="reserved") == []


def test_a_batch_that_does_not_fit_holds_nothing(
    claude: anthropic.Anthropic, governor: Governor, provider: FakeProvider
) -> None:
    """Where the third request is refused, the first two are given back, and nothing is sent."""
    limit(governor, "0.012")
    requests: Any = [
        {
            "custom_id": f"r{number}",
            "params": {"model": "claude-opus-4-1", "max_tokens": CAP, "messages": MESSAGES},
        }
        for number in range(3)
    ]
    with pytest.raises(BudgetExceeded):
        claude.messages.batches.create(requests=requests)
    assert provider.requests == []
    assert governor.reservations(state="reserved") == []


def test_what_costs_nothing_passes(claude: anthropic.Anthropic, governor: Governor) -> None:
    """Counting tokens is free, and leaves no trace."""
    claude.messages.count_tokens(model="claude-opus-4-1", messages=MESSAGES)  # type: ignore[arg-type]
    assert governor.reservations() == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda gpt: gpt.fine_tuning.jobs.create(model="gpt-4o", training_file="file-1"),
        lambda gpt: gpt.batches.create(
            completion_window="24h", endpoint="/v1/chat/completions", input_file_id="file-1"
        ),
        lambda gpt: gpt.responses.connect(),
        lambda gpt: gpt.realtime.connect(model="gpt-realtime"),
        lambda gpt: gpt.post("/something/new", cast_to=object, body={}),
        lambda gpt: gpt.post("/models/gpt-4o:generate", cast_to=object, body={}),
        lambda gpt: gpt.post("/conversations/../responses", cast_to=object, body={}),
        lambda gpt: gpt.post("/conversations/%2E%2e/responses", cast_to=object, body={}),
        lambda gpt: gpt.post("/chat/completions/.", cast_to=object, body={}),
    ],
    ids=[
        "fine-tuning",
        "batch of a file",
        "socket",
        "realtime",
        "unknown",
        "a model's own",
        "by a detour",
        "by a hidden detour",
        "by a dot",
    ],
)
def test_what_cannot_be_governed_is_refused(
    ask: Any, gpt: openai.OpenAI, provider: FakeProvider
) -> None:
    """Nothing that may cost money passes unseen, and the error says what to do instead."""
    with pytest.raises(NotGoverned, match="client that was wrapped|enter its cost"):
        ask(gpt)
    assert provider.requests == []


def test_ungoverned_requests_may_be_allowed(governor: Governor, provider: FakeProvider) -> None:
    """`ungoverned="allow"` lets them pass, on one's own account."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        wrapped = governor.wrap(client, tenant="acme", ungoverned="allow")
        with pytest.raises(openai.NotFoundError):
            wrapped.post("/something/new", cast_to=object, body={})
    assert len(provider.requests) == 1


def test_a_downgrade_that_can_not_do_it_is_a_refusal(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """A picture is not sent to a model that can't see; nor a call to another provider's model."""
    limit(governor, "0.0001", decision="downgrade", fallback_tool_id="gpt-3.5-turbo")
    picture: Any = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            ],
        }
    ]
    with pytest.raises(BudgetExceeded):
        gpt.chat.completions.create(model="gpt-4o", messages=picture, max_completion_tokens=CAP)
    governor.policies.delete("day")
    limit(governor, "0.0001", decision="downgrade", fallback_tool_id="claude-haiku-4-5")
    with pytest.raises(BudgetExceeded):
        gpt.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_completion_tokens=CAP)
    assert provider.requests == []
    assert governor.reservations(state="reserved") == []


def test_azure_deployments_follow_the_model(governor: Governor, provider: FakeProvider) -> None:
    """Azure has the model in its address, and there the cheaper one stands."""
    limit(governor, "0.0001", decision="downgrade", fallback_tool_id="gpt-4o-mini")
    with openai.AzureOpenAI(
        azure_endpoint=provider.url, api_key="k", api_version="2024-10-21", max_retries=0
    ) as client:
        wrapped = governor.wrap(client, tenant="acme")
        assert isinstance(wrapped, openai.AzureOpenAI)
        wrapped.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, max_completion_tokens=CAP
        )
    (request,) = provider.requests
    assert "/deployments/gpt-4o-mini/" in request.path
    (event,) = governor.events()
    assert event.decision == "downgraded"


def _azure(provider: FakeProvider) -> openai.OpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=provider.url,
        azure_deployment="gpt-4o",
        api_key="k",
        api_version="2024-10-21",
        max_retries=0,
    )


def _plain_to_azure(provider: FakeProvider) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{provider.url}/openai/deployments/gpt-4o", api_key="k", max_retries=0
    )


@pytest.mark.parametrize("make", [_azure, _plain_to_azure])
@pytest.mark.parametrize("copied", [False, True])
def test_the_deployment_in_a_client_s_address_is_what_runs(
    make: Callable[[FakeProvider], openai.OpenAI],
    governor: Governor,
    provider: FakeProvider,
    *,
    copied: bool,
) -> None:
    """It is held whatever the body says, and nothing in the body moves it."""
    with make(provider) as client:
        wrapped: Any = governor.wrap(client, tenant="acme")
        wrapped = wrapped.with_options(timeout=5) if copied else wrapped
        ask = {"messages": MESSAGES, "max_completion_tokens": CAP}
        wrapped.chat.completions.create(model="gpt-4o-mini", **ask)
        assert "/deployments/gpt-4o/" in provider.requests[0].path
        assert governor.reservations()[0].requested_tool == "gpt-4o"
        limit(governor, "0.0001", decision="downgrade", fallback_tool_id="gpt-4o-mini")
        with pytest.raises(BudgetExceeded):
            wrapped.chat.completions.create(model="gpt-4o", **ask)
        governor.policies.delete("day")
        governor.tenants.put(Tenant(id="acme", allowed_models=("gpt-4o-mini",)))
        with pytest.raises(UnknownModel, match="not among the tenant's allowed_models"):
            wrapped.chat.completions.create(model="gpt-4o-mini", **ask)
    assert len(provider.requests) == 1


def test_a_deployment_by_a_name_of_its_own_runs_as_the_model_that_is_named(
    governor: Governor, provider: FakeProvider
) -> None:
    """A deployment may be called anything; then the body says which model it is."""
    with openai.AzureOpenAI(
        azure_endpoint=provider.url,
        azure_deployment="our-own",
        api_key="k",
        api_version="2024-10-21",
        max_retries=0,
    ) as client:
        governor.wrap(client, tenant="acme").chat.completions.create(
            model="gpt-4o-mini", messages=MESSAGES, max_completion_tokens=CAP
        )
    assert governor.reservations()[0].requested_tool == "gpt-4o-mini"


def test_a_block_says_who_spends(governor: Governor, provider: FakeProvider) -> None:
    """Without a tenant of its own, a client spends for the `subject()` block around the call."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client:
        wrapped = governor.wrap(client)
        with fluxai.subject(tenant="bolt", user="bob", run="7"):
            wrapped.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    (event,) = governor.events()
    assert (event.tenant, event.user) == ("bolt", "bob")


def test_who_holds_already_is_not_counted_twice(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """An adapter that has reserved by itself passes the call on."""
    with held_outside():
        gpt.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert len(provider.requests) == 1
    assert governor.reservations() == []


def test_the_caller_s_own_arguments_stay_as_they_are(
    gpt: openai.OpenAI, provider: FakeProvider
) -> None:
    """What was granted goes into a copy: the caller's dicts may be used again."""
    options: Any = {"include_usage": False}
    before = json.dumps([MESSAGES, options])
    for _ in gpt.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options=options
    ):
        pass
    assert json.dumps([MESSAGES, options]) == before
    assert provider.requests[0].json["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("in_place", [False, True], ids=["wrapped", "instrumented"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_can_be_read_but_once_is_held_and_sent(
    governor: Governor, provider: FakeProvider, *, is_async: bool, in_place: bool
) -> None:
    """Anthropic's SDK takes any iterable for messages and their blocks, and for tools."""
    block = {"type": "text", "text": "a river " * 5_000}
    whole = [{"role": "user", "content": [block]}]
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
    ask: Any = {"model": "claude-haiku-4-5", "max_tokens": CAP}
    options: Any = {"base_url": provider.anthropic_url, "api_key": "k", "max_retries": 0}

    def once() -> dict[str, Any]:
        said = iter([{"role": "user", "content": iter([block])}])
        return {**ask, "messages": said, "tools": iter([tool])}

    async def asked() -> None:
        async with anthropic.AsyncAnthropic(**options) as client:
            used: Any = client if in_place else governor.wrap(client)
            await used.messages.create(**once())

    with fluxai.instrument(governor) if in_place else nullcontext():
        if is_async:
            asyncio.run(asked())
        else:
            with anthropic.Anthropic(**options) as client:
                used: Any = client if in_place else governor.wrap(client)
                used.messages.create(**once())
    sent = provider.requests[-1].json
    assert (sent["messages"], sent["tools"]) == (whole, [tool])
    (held,) = governor.reservations()
    assert (
        held.estimate.highest > CostEstimator().cost(Usage(input=8_000), model=ask["model"]).total
    )


def test_usage_that_was_asked_for_is_shown(gpt: openai.OpenAI) -> None:
    """Who asks for the usage of a stream gets its chunk."""
    *_, last = gpt.chat.completions.create(
        model="gpt-4o",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert last.choices == []
    assert last.usage is not None


def test_a_model_without_a_price_is_refused(gpt: openai.OpenAI, provider: FakeProvider) -> None:
    """Nothing is priced at zero, and nothing is sent."""
    with pytest.raises(fluxai.UnknownModel):
        gpt.chat.completions.create(model="no-such-model", messages=MESSAGES)
    assert provider.requests == []


def test_only_clients_are_wrapped_and_only_once(gpt: openai.OpenAI, governor: Governor) -> None:
    """The error names what can be wrapped."""
    with pytest.raises(ConfigurationError, match="openai, anthropic and google-genai"):
        governor.wrap(object())
    with pytest.raises(ConfigurationError, match="already"):
        governor.wrap(gpt)
