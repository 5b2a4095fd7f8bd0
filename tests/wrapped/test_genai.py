"""A wrapped client of google-genai: whatever a program asks by, it is held, and settled once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pytest
from google import genai
from google.genai import types

import fluxai
from fluxai import BudgetExceeded, CostEstimator, Governor, NotGoverned, Policy, Usage
from fluxai.core.decisions import UsageEvent
from fluxai.core.errors import ConfigurationError
from fluxai.testing import Answer, FakeProvider, ToolCall
from tests.wrapped.google import CAP, CHEAPER, CONFIG, MODEL, QUESTION, SURFACES, Surface, make
from tests.wrapped.test_ended_early import at_every_step, cancelled_at, forget_requests

every_surface = pytest.mark.parametrize("surface", SURFACES, ids=str)
TOLD: dict[str, Any] = {"input": 40, "cache_read": 10, "output": 7, "reasoning": 5}


def wrapped(governor: Governor, client: genai.Client) -> genai.Client:
    """Return a governed client."""
    return governor.wrap(client, tenant="acme", user="alice")


def only_event(governor: Governor) -> UsageEvent:
    """Return the one event, once nothing is open any more."""
    assert governor.reservations(state="reserved") == []
    (event,) = governor.events()
    return event


def sent(provider: FakeProvider) -> tuple[str, int]:
    """Return the model and the output cap of the one request."""
    (request,) = provider.requests
    body: Mapping[str, Any] = request.json
    config = body.get("generationConfig") or body["generation_config"]
    cap = config.get("maxOutputTokens") or config["max_output_tokens"]
    model = body.get("model") or request.path.rpartition("/")[2].partition(":")[0]
    return model, cap


def limit(governor: Governor, amount: str, **more: Any) -> None:
    """Give the tenant a budget for the day."""
    governor.policies.put(
        Policy(id="day", tenant_id="acme", limit_type="daily", limit_value=amount, **more)
    )


# -- every way of asking ----------------------------------------------------------------------


@every_surface
def test_settled_at_what_the_answer_says(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """One call is one request and one event, at the usage that the provider told."""
    provider.answer("Rhine", usage=TOLD)
    surface.ask(wrapped(governor, surface.client(provider)))
    event = only_event(governor)
    assert sent(provider) == (MODEL, CAP)
    expected = CostEstimator().cost_of(Usage(**TOLD), governor.registry.rates(MODEL, event.at_us))
    assert event.cost == Decimal(expected) / 10**9
    assert (event.tenant, event.user, event.flags) == ("acme", "alice", ())
    assert event.usage is not None
    assert (event.usage.input, event.usage.cache_read) == (40, 10)
    assert (event.usage.output, event.usage.reasoning) == (7, 5)


@every_surface
def test_settled_by_the_model_that_answered(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """A provider that answers with another model is paid for that one."""
    provider.answer(Answer(text="Rhine", usage=Usage(input=40, output=7), model=CHEAPER))
    surface.ask(wrapped(governor, surface.client(provider)))
    event = only_event(governor)
    assert event.model == CHEAPER
    rates = governor.registry.rates(CHEAPER, event.at_us)
    assert event.cost == Decimal(CostEstimator().cost_of(Usage(input=40, output=7), rates)) / 10**9


@every_surface
def test_a_refusal_sends_nothing(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """What does not fit raises FluxAI's own error before any request."""
    limit(governor, "0.000001")
    with pytest.raises(BudgetExceeded) as refused:
        surface.ask(wrapped(governor, surface.client(provider)))
    assert provider.requests == []
    assert not refused.value.decision.allowed
    assert governor.events() == []


@every_surface
def test_a_downgrade_reaches_the_wire(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """The cheaper model is what is asked, in the address or in the body, and what is paid."""
    limit(governor, "0.0004", decision="downgrade", fallback_tool_id=CHEAPER)
    provider.answer("Rhine", usage={"input": 4, "output": 2})
    surface.ask(wrapped(governor, surface.client(provider)))
    assert sent(provider) == (CHEAPER, CAP)
    event = only_event(governor)
    assert (event.decision, event.model) == ("downgraded", CHEAPER)


@every_surface
def test_retries_are_one_reservation(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """429, 500 and then an answer: three requests, one reservation, one event."""
    provider.fail(429)
    provider.fail(500)
    client = wrapped(governor, surface.client(provider, retry_options=QUICK))
    surface.ask(client)
    assert len(provider.requests) == 3
    assert only_event(governor).flags == ()
    assert len(governor.reservations()) == 1


QUICK = types.HttpRetryOptions(attempts=3, initial_delay=0.001, max_delay=0.002, jitter=0.001)


@every_surface
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_an_error_that_is_answered_releases(
    surface: Surface, status: int, governor: Governor, provider: FakeProvider
) -> None:
    """What the provider answered with an error was not charged."""
    provider.fail(status)
    client = wrapped(governor, surface.client(provider))
    with pytest.raises(Exception, match=str(status)):
        surface.ask(client)
    assert len(provider.requests) == 1
    assert governor.events() == []
    (held,) = governor.reservations()
    assert held.state == "released"


@every_surface
def test_a_time_out_is_settled_at_the_estimate(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """Nobody knows whether a call without an answer was charged: it counts as if it were."""
    provider.hang()
    client = wrapped(governor, surface.client(provider, timeout=200))
    with pytest.raises(Exception) as failed:
        surface.ask(client)
    assert "Timeout" in type(failed.value).__name__
    event = only_event(governor)
    assert "estimated" in event.flags
    assert event.cost > 0


@pytest.mark.parametrize("surface", [one for one in SURFACES if one.retries_silence], ids=str)
def test_an_attempt_that_was_lost_counts_too(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """An answer at the second attempt: the first may have been charged as well."""
    provider.hang()
    client = surface.client(provider, timeout=500, retry_options=QUICK)
    surface.ask(wrapped(governor, client))
    exact, lost = sorted(governor.events(), key=lambda event: "estimated" in event.flags)
    assert exact.flags == ()
    assert "estimated" in lost.flags
    assert lost.cost > 0


@every_surface
def test_an_answer_that_is_cut_is_settled_once(
    surface: Surface, governor: Governor, provider: FakeProvider
) -> None:
    """A connection lost before or in mid-answer: once, at an estimate."""
    provider.cut("a river " * 10, after_chunks=2 if surface.streams else 0)
    with pytest.raises(Exception, match="(?i)disconnect|closed|peer|connection"):
        surface.ask(wrapped(governor, surface.client(provider)))
    assert "estimated" in only_event(governor).flags


@pytest.mark.parametrize("surface", [one for one in SURFACES if one.is_async], ids=str)
# The HTTP client leaves a socket open when it is cancelled while it connects.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_cancelled_at_every_step(surface: Surface, provider: FakeProvider) -> None:
    """Wherever its task is cancelled, a call leaves no open reservation, and no charge unseen."""

    async def once(step: int) -> bool:
        forget_requests(provider)
        client = surface.client(provider)
        with Governor() as governor:
            task = asyncio.ensure_future(cancelled_at(surface.run(wrapped(governor, client)), step))
            (reached,) = await asyncio.gather(task, return_exceptions=True)
            gc.collect()
            await asyncio.sleep(0)
            assert governor.reservations(state="reserved") == [], step
            assert governor.verify().ok
            assert len(governor.events()) >= len(provider.requests), step
        await client.aio.aclose()
        return reached is True or isinstance(reached, asyncio.CancelledError)

    at_every_step(once)


# -- streams that are not read to their end ---------------------------------------------------


def content_stream(client: genai.Client) -> Any:
    """Begin a stream."""
    return client.models.generate_content_stream(model=MODEL, contents=QUESTION, config=CONFIG)


def interaction_stream(client: Any) -> Any:
    """Begin a stream of the other stack."""
    return client.interactions.create(
        model=MODEL, input=QUESTION, generation_config={"max_output_tokens": CAP}, stream=True
    )


def closed(stream: Any) -> None:
    """Close a stream after its first chunk."""
    next(iter(stream))
    stream.close()


def dropped(stream: Any) -> None:
    """Let go of a stream after its first chunk."""
    next(iter(stream))


@pytest.mark.parametrize("end", [closed, dropped])
@pytest.mark.parametrize("begin", [content_stream, interaction_stream])
def test_a_stream_that_is_not_read_to_its_end(
    begin: Callable[[genai.Client], Any],
    end: Callable[[Any], None],
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """Settled once, at an estimate that says so."""
    provider.answer("a river " * 20, usage={"input": 12, "output": 40})
    stream = begin(wrapped(governor, make(provider)))
    end(stream)
    del stream
    gc.collect()
    event = only_event(governor)
    assert "estimated" in event.flags
    assert event.cost > 0


def test_a_stream_that_nobody_begins_to_read_sends_nothing(
    governor: Governor, provider: FakeProvider
) -> None:
    """The SDK sends when the first chunk is asked for; before that nothing is held."""
    stream = content_stream(wrapped(governor, make(provider)))
    assert governor.reservations() == []
    del stream
    assert provider.requests == []
    assert governor.events() == []


def test_an_interaction_that_nobody_reads_is_settled(
    governor: Governor, provider: FakeProvider
) -> None:
    """Its request was sent at once."""
    stream = interaction_stream(wrapped(governor, make(provider)))
    del stream
    gc.collect()
    assert "estimated" in only_event(governor).flags


@pytest.mark.parametrize("read", [0, 1])
def test_an_async_stream_that_is_left(
    read: int, governor: Governor, provider: FakeProvider
) -> None:
    """Settled also where its reader does not close it; one that nobody reads is not sent."""
    provider.answer("a river " * 20, usage={"input": 12, "output": 40})

    async def ask() -> None:
        client = wrapped(governor, make(provider))
        stream = await client.aio.models.generate_content_stream(
            model=MODEL, contents=QUESTION, config=CONFIG
        )
        for _ in range(read):
            await anext(stream)
        del stream
        gc.collect()
        await asyncio.sleep(0)
        await client.aio.aclose()

    asyncio.run(ask())
    gc.collect()
    if read:
        assert "estimated" in only_event(governor).flags
    else:
        assert governor.reservations() == []
        assert provider.requests == []


@pytest.mark.parametrize("begin", [content_stream, interaction_stream])
def test_a_stream_is_stopped_when_its_money_is_used_up(
    begin: Callable[[genai.Client], Any], governor: Governor, provider: FakeProvider
) -> None:
    """With `stop_stream`: what arrived is passed on, then it says so, and it is settled."""
    limit(governor, "1", stop_stream=True)
    provider.answer(Answer(text="a river " * 2_000, usage=Usage(input=4, output=4_000)))
    with pytest.raises(fluxai.StreamStopped) as stopped:
        for _ in begin(wrapped(governor, make(provider))):
            pass
    assert stopped.value.text.startswith("a river")
    assert only_event(governor).cost > 0


# -- what is asked ----------------------------------------------------------------------------


def test_the_cap_that_fits_is_sent(governor: Governor, provider: FakeProvider) -> None:
    """With `shrink_output` a call that is too large is granted with less."""
    limit(governor, "0.0003", shrink_output=True)
    wrapped(governor, make(provider)).models.generate_content(
        model=MODEL, contents=QUESTION, config=CONFIG
    )
    _, cap = sent(provider)
    assert 0 < cap < CAP


def test_each_candidate_may_use_the_cap(governor: Governor, provider: FakeProvider) -> None:
    """Three answers are held for three times, and the cap that is sent is that of one."""
    wrapped(governor, make(provider)).models.generate_content(
        model=MODEL,
        contents=QUESTION,
        config=types.GenerateContentConfig(max_output_tokens=CAP, candidate_count=3),
    )
    assert sent(provider) == (MODEL, CAP)
    (held,) = governor.reservations()
    assert held.max_output_tokens == 3 * CAP


def test_an_extra_body_is_governed_too(governor: Governor, provider: FakeProvider) -> None:
    """What a client adds to each body counts, and is capped."""
    limit(governor, "0.001")
    client = make(provider, extra_body={"generationConfig": {"maxOutputTokens": 60_000}})
    with pytest.raises(BudgetExceeded):
        wrapped(governor, client).models.generate_content(
            model=MODEL, contents=QUESTION, config=CONFIG
        )
    assert provider.requests == []


def test_a_field_counts_in_either_spelling(governor: Governor, provider: FakeProvider) -> None:
    """Google's servers take `candidate_count` for `candidateCount`, and 3.0 for 3."""
    more = {"generation_config": {"max_output_tokens": 500, "candidate_count": 3.0}}
    wrapped(governor, make(provider, extra_body=more)).models.generate_content(
        model=MODEL, contents=QUESTION
    )
    (held,) = governor.reservations()
    assert held.max_output_tokens == 1_500
    (request,) = provider.requests
    assert {**more, "contents": request.json["contents"]} == request.json


def test_a_faster_tier_is_held(governor: Governor, provider: FakeProvider) -> None:
    """What is answered at priority costs more, and is held so."""
    for tier in (types.ServiceTier.STANDARD, types.ServiceTier.PRIORITY):
        wrapped(governor, make(provider)).models.generate_content(
            model=MODEL,
            contents=f"Name a river, {tier.value}.",
            config=types.GenerateContentConfig(max_output_tokens=1_000, service_tier=tier),
        )
    priority, standard = (one.estimate.highest for one in governor.reservations())
    assert priority > 2 * standard


def test_the_callers_own_objects_stay_as_they_are(
    governor: Governor, provider: FakeProvider
) -> None:
    """The client that was wrapped works on, ungoverned, and a config is not changed."""
    limit(governor, "0.000001")
    client, config = make(provider), types.GenerateContentConfig()
    governed = wrapped(governor, client)
    client.models.generate_content(model=MODEL, contents=QUESTION, config=config)
    assert config == types.GenerateContentConfig()
    assert governor.reservations() == []
    with pytest.raises(BudgetExceeded):
        governed.models.generate_content(model=MODEL, contents=QUESTION, config=config)


def test_it_keeps_its_type(governor: Governor, provider: FakeProvider) -> None:
    """A wrapped client is a client, and so are its parts."""
    client = wrapped(governor, make(provider))
    assert isinstance(client, genai.Client)
    assert type(client).__name__ == "Client"
    assert isinstance(client.models, genai.models.Models)
    assert isinstance(client.aio, genai.client.AsyncClient)
    with pytest.raises(ConfigurationError, match=r"is a class; pass one of its clients, Client\("):
        governor.wrap(genai.Client)
    with pytest.raises(ConfigurationError, match="wrapped already"):
        governor.wrap(client)
    with pytest.raises(ConfigurationError, match="wrapped already"):
        governor.wrap(client.aio)


def test_its_connections_live_as_long_as_it_does(
    governor: Governor, provider: FakeProvider
) -> None:
    """Nobody else holds the client that was wrapped; and a part may outlive the whole."""
    models = wrapped(governor, make(provider)).models
    gc.collect()
    models.generate_content(model=MODEL, contents=QUESTION)
    assert len(provider.requests) == 1


def test_letting_it_go_leaves_the_other_client_its_connections(
    governor: Governor, provider: FakeProvider
) -> None:
    """What is shared is closed by the client that was wrapped."""
    client = make(provider)
    wrapped(governor, client).models.generate_content(model=MODEL, contents=QUESTION)
    gc.collect()
    client.models.generate_content(model=MODEL, contents=QUESTION)
    assert len(provider.requests) == 2


def test_the_async_half_alone(governor: Governor, provider: FakeProvider) -> None:
    """`client.aio` can be wrapped by itself."""

    async def ask() -> None:
        aio = governor.wrap(make(provider).aio, tenant="acme")
        await aio.models.generate_content(model=MODEL, contents=QUESTION)
        await aio.aclose()

    asyncio.run(ask())
    assert only_event(governor).model == MODEL


def test_functions_that_the_sdk_calls_by_itself(governor: Governor, provider: FakeProvider) -> None:
    """One `generate_content` with automatic function calling is several calls, each governed."""

    def depth(river: str) -> str:
        """Say how deep a river is."""
        return f"{river}: 12 m"

    provider.answer(
        Answer(
            tool_calls=(ToolCall(name="depth", arguments={"river": "Rhine"}),),
            usage=Usage(input=20, output=5),
        )
    )
    provider.answer("12 m", usage={"input": 40, "output": 3})
    said = wrapped(governor, make(provider)).models.generate_content(
        model=MODEL,
        contents="How deep is the Rhine?",
        config=types.GenerateContentConfig(max_output_tokens=CAP, tools=[depth]),
    )
    assert said.text == "12 m"
    assert governor.reservations(state="reserved") == []
    inputs = [event.usage.input for event in governor.events() if event.usage is not None]
    assert sorted(inputs) == [20, 40]


def test_a_model_that_can_not_do_it_does_not_stand_in(
    governor: Governor, provider: FakeProvider
) -> None:
    """A downgrade is to a model of the same provider that takes what is sent; else it is denied."""
    limit(governor, "0.0004", decision="downgrade", fallback_tool_id="gpt-4o-mini")
    with pytest.raises(BudgetExceeded):
        wrapped(governor, make(provider)).models.generate_content(
            model=MODEL, contents=QUESTION, config=CONFIG
        )
    assert provider.requests == []


@pytest.mark.parametrize("vertex", [False, True])
def test_embeddings_are_settled_at_the_estimate(
    *, vertex: bool, governor: Governor, provider: FakeProvider
) -> None:
    """They tell no usage, and are never moved to another model."""
    limit(governor, "1", decision="downgrade", fallback_tool_id=CHEAPER)
    wrapped(governor, make(provider, vertex=vertex)).models.embed_content(
        model="gemini-embedding-001", contents=["a river", "a lake"]
    )
    event = only_event(governor)
    assert event.model == "gemini-embedding-001"
    assert event.cost > 0


def test_embeddings_are_not_moved(governor: Governor, provider: FakeProvider) -> None:
    """Another model's vectors mean nothing to whoever asked."""
    limit(governor, "0.0000001", decision="downgrade", fallback_tool_id=CHEAPER)
    with pytest.raises(BudgetExceeded):
        wrapped(governor, make(provider)).models.embed_content(
            model="gemini-embedding-001", contents="a river " * 100
        )
    assert provider.requests == []


@pytest.mark.filterwarnings("ignore:The generate_images method is deprecated")
def test_images_are_paid_by_the_image(governor: Governor, provider: FakeProvider) -> None:
    """Held for as many as are asked for, settled by as many as came."""
    client = wrapped(governor, make(provider, vertex=True))
    client.models.generate_images(
        model="imagen-4.0-generate-001",
        prompt=QUESTION,
        config=types.GenerateImagesConfig(number_of_images=2),
    )
    event = only_event(governor)
    assert (event.cost, event.flags) == (Decimal("0.08"), ())
    limit(governor, "0.10")
    with pytest.raises(BudgetExceeded):
        client.models.generate_images(model="imagen-4.0-generate-001", prompt=QUESTION)


def test_an_interaction_that_goes_on_is_held_with_what_was_said(
    governor: Governor, provider: FakeProvider
) -> None:
    """What the provider keeps is billed again, though it isn't sent."""
    client: Any = wrapped(governor, make(provider))
    provider.answer("Rhine", usage={"input": 9_000, "output": 1_000})
    provider.answer("Danube", usage={"input": 11_000, "output": 10})
    first = client.interactions.create(model=MODEL, input=QUESTION)
    for _ in client.interactions.create(
        model=MODEL, input="Another?", previous_interaction_id=first.id, stream=True
    ):
        pass
    later = client.interactions.create(
        model=MODEL, input="And one more?", previous_interaction_id=first.id
    )
    assert later.status == "completed"
    short, long = sorted(held.estimate.expected for held in governor.reservations())[:2]
    assert long - short > Decimal("0.012")  # 10,000 tokens at $1.25 a million


REFUSED: dict[str, Callable[[Any], Any]] = {
    "batch": lambda client: client.batches.create(
        model=MODEL, src=[types.InlinedRequest(contents=QUESTION)]
    ),
    "cache": lambda client: client.caches.create(model=MODEL),
    "ephemeral token": lambda client: client.auth_tokens.create(),
    "agent": lambda client: client.interactions.create(agent="deep-research", input=QUESTION),
    "background": lambda client: client.interactions.create(
        model=MODEL, input=QUESTION, background=True
    ),
    "environment": lambda client: client.environments.create(),
    "live": lambda client: client.aio.live.connect(model=MODEL),
    "music": lambda client: client.aio.live.music.connect(model=MODEL),
}
REFUSED_ON_VERTEX: dict[str, Callable[[Any], Any]] = {
    "video": lambda client: client.models.generate_videos(model="veo-3", prompt=QUESTION),
    "tuning": lambda client: client.tunings.tune(
        base_model=MODEL, training_dataset=types.TuningDataset(gcs_uri="gs://x/y")
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The SDK's")
@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_ON_VERTEX])
def test_what_nobody_can_price_is_refused(
    name: str, governor: Governor, provider: FakeProvider
) -> None:
    """Never silently free: it raises before anything is sent."""
    ask = REFUSED.get(name) or REFUSED_ON_VERTEX[name]
    client = wrapped(governor, make(provider, vertex=name in REFUSED_ON_VERTEX))
    with pytest.raises(NotGoverned):
        ask(client)
    assert provider.requests == []


def test_what_is_free_is_not_held(governor: Governor, provider: FakeProvider) -> None:
    """Counting tokens and listing models cost nothing."""
    limit(governor, "0.000001")
    client = wrapped(governor, make(provider))
    client.models.count_tokens(model=MODEL, contents=QUESTION)
    assert list(client.models.list()) == []
    assert governor.reservations() == []


def test_ungoverned_requests_may_be_let_through(governor: Governor, provider: FakeProvider) -> None:
    """Whoever asks for it, gets what can't be priced unseen."""
    name = "cachedContents/c1"
    provider.replay({"name": name, "model": MODEL, "usageMetadata": {"totalTokenCount": 40_000}})
    client = governor.wrap(make(provider), tenant="acme", ungoverned="allow")
    client.caches.create(model=MODEL)
    assert governor.reservations() == []
    client.models.generate_content(
        model=MODEL,
        contents=QUESTION,
        config=types.GenerateContentConfig(max_output_tokens=CAP, cached_content=name),
    )
    (held,) = governor.reservations()
    # What is in the cache is billed with each call, though it isn't sent.
    assert held.estimate.highest > Decimal("0.005")  # 40,000 cached tokens


def test_it_spends_for_the_subject_around_it(governor: Governor, provider: FakeProvider) -> None:
    """A client that was wrapped for nobody in particular spends for the `subject()` block."""
    client = governor.wrap(make(provider))
    with fluxai.subject(tenant="beta", user="bob"):
        client.models.generate_content(model=MODEL, contents=QUESTION)
    event = only_event(governor)
    assert (event.tenant, event.user) == ("beta", "bob")
