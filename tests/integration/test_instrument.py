"""`fluxai.instrument()`: clients that nobody has wrapped are governed, and left as they were."""

from __future__ import annotations

import asyncio
import contextvars
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types
from google.genai._api_client import BaseApiClient
from google.genai._gaos.basesdk import AsyncBaseSDK, BaseSDK
from google.genai.live import AsyncLive
from google.genai.live_music import AsyncLiveMusic as AsyncMusic
from openai._base_client import AsyncAPIClient, SyncAPIClient
from pydantic import BaseModel

import fluxai
from fluxai import BudgetExceeded, ConfigurationError, Governor, NotGoverned, Policy
from fluxai.testing import FakeProvider

ASK: Any = [{"role": "user", "content": "Say hello."}]
USAGE = {"input": 1_000, "output": 50}
#: What a call of `USAGE` costs at gpt-4o, claude-opus-4-1 and gemini-2.5-pro.
GPT, CLAUDE, GEMINI = Decimal("0.003"), Decimal("0.01875"), Decimal("0.00175")
CAP = types.GenerateContentConfig(max_output_tokens=50)


#: Clients of a test, which programs of this kind leave to the collector; a test does not.
_made: list[openai.OpenAI] = []


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider."""
    with FakeProvider(default="Hello there.") as provider:
        yield provider
        while _made:
            _made.pop().close()


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor whose ledger adds up in the end, in a process that is left as it was."""
    with Governor() as governor:
        yield governor
        fluxai.uninstrument()
        assert governor.verify().ok
        assert governor.reservations(state="reserved") == []
        assert governor.settle_errors == 0


def client(provider: FakeProvider) -> openai.OpenAI:
    """Return a plain client."""
    made = openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=2)
    _made.append(made)
    return made


def chat(asked: Any) -> str:
    """Ask by a client, or by the module."""
    answer = asked.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=50)
    return str(answer.choices[0].message.content)


def plain(provider: FakeProvider) -> None:
    """Ask by a client that is made now."""
    chat(client(provider))


def by_copy(provider: FakeProvider) -> None:
    """Ask by a copy of a client."""
    chat(client(provider).with_options(timeout=30))


def by_module(provider: FakeProvider) -> None:
    """Ask by the functions of the module."""
    openai.base_url, openai.api_key = f"{provider.openai_url}/", "k"
    try:
        chat(openai)
    finally:
        openai.base_url = openai.api_key = None


def azure(provider: FakeProvider) -> None:
    """Ask by a client of Azure."""
    chat(openai.AzureOpenAI(azure_endpoint=provider.url, api_key="k", api_version="2024-10-21"))


def streamed(provider: FakeProvider) -> None:
    """Ask for a stream."""
    stream = client(provider).chat.completions.create(
        model="gpt-4o", messages=ASK, max_tokens=50, stream=True
    )
    # Code like this must not meet the chunk with the usage, for which it has not asked.
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello there."


def by_task(provider: FakeProvider) -> None:
    """Ask in async code."""

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k") as asked:
            await asked.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=50)

    asyncio.run(ask())


def claude(provider: FakeProvider) -> None:
    """Ask the other provider."""
    with anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k") as asked:
        asked.messages.create(model="claude-opus-4-1", messages=ASK, max_tokens=50)


def gemini_client(provider: FakeProvider) -> genai.Client:
    """Return a plain client of Gemini, which tries once."""
    return genai.Client(
        api_key="k",
        http_options=types.HttpOptions(
            base_url=provider.gemini_url, retry_options=types.HttpRetryOptions(attempts=1)
        ),
    )


def gemini(provider: FakeProvider) -> None:
    """Ask Gemini."""
    with gemini_client(provider) as asked:
        asked.models.generate_content(model="gemini-2.5-pro", contents="Hi", config=CAP)


def gemini_stream(provider: FakeProvider) -> None:
    """Ask Gemini for a stream."""
    with gemini_client(provider) as asked:
        list(
            asked.models.generate_content_stream(model="gemini-2.5-pro", contents="Hi", config=CAP)
        )


def gemini_task(provider: FakeProvider) -> None:
    """Ask Gemini in async code."""

    async def ask() -> None:
        async with gemini_client(provider).aio as asked:
            await asked.models.generate_content(model="gemini-2.5-pro", contents="Hi", config=CAP)

    asyncio.run(ask())


def interaction(provider: FakeProvider) -> None:
    """Ask by the other stack of Gemini's SDK."""
    with gemini_client(provider) as asked:
        asked.interactions.create(
            model="gemini-2.5-pro", input="Hi", generation_config={"max_output_tokens": 50}
        )


def interaction_task(provider: FakeProvider) -> None:
    """Ask by that stack in async code."""

    async def ask() -> None:
        async with gemini_client(provider).aio as asked:
            await asked.interactions.create(
                model="gemini-2.5-pro", input="Hi", generation_config={"max_output_tokens": 50}
            )

    asyncio.run(ask())


WAYS: dict[Callable[[FakeProvider], None], Decimal] = {
    plain: GPT,
    by_copy: GPT,
    by_module: GPT,
    azure: GPT,
    streamed: GPT,
    by_task: GPT,
    claude: CLAUDE,
    gemini: GEMINI,
    gemini_stream: GEMINI,
    gemini_task: GEMINI,
    interaction: GEMINI,
    interaction_task: GEMINI,
}


def _name(way: Callable[[FakeProvider], None]) -> str:
    return way.__name__


@pytest.mark.parametrize("way", WAYS, ids=_name)
def test_a_client_that_nobody_wrapped_is_governed(
    way: Callable[[FakeProvider], None], governor: Governor, provider: FakeProvider
) -> None:
    """One event at the exact cost, on the account given; then a refusal that sends nothing."""
    provider.answer("Hello there.", usage=USAGE)
    with fluxai.instrument(governor, tenant="acme", user="ana", labels={"team": "x"}):
        way(provider)
        (event,) = governor.events()
        assert event.cost == WAYS[way]
        assert (event.tenant, event.user, event.labels) == ("acme", "ana", {"team": "x"})
        governor.policies.put(Policy(tenant_id="acme", limit_type="total", limit_value="0.0001"))
        with pytest.raises(BudgetExceeded):
            way(provider)
    assert len(provider.requests) == 1
    assert governor.refused_calls == 1


def test_a_client_that_exists_is_governed_until_the_end(
    governor: Governor, provider: FakeProvider
) -> None:
    """What was made before counts from then on, and what is left afterwards counts no more."""
    asked = client(provider)
    chat(asked)
    made = fluxai.instrument(governor)
    assert made.governor is governor
    chat(asked)
    fluxai.uninstrument()
    chat(asked)
    assert len(governor.events()) == 1
    assert len(provider.requests) == 3
    made.close()


@pytest.mark.parametrize("first", ["wrap", "instrument"])
def test_a_wrapped_client_counts_once(
    first: str, governor: Governor, provider: FakeProvider
) -> None:
    """Wrapped before or after, on the terms of the wrapping; its lost attempts once too."""
    if first == "instrument":
        fluxai.instrument(governor, tenant="whole")
    asked = governor.wrap(client(provider), tenant="acme")
    if first == "wrap":
        fluxai.instrument(governor, tenant="whole")
    chat(asked)
    chat(asked.with_options(timeout=30))
    assert [event.tenant for event in governor.events()] == ["acme", "acme"]
    provider.cut()
    chat(asked)
    assert len(governor.events()) == 4
    assert len(provider.requests) == 4
    with pytest.raises(ConfigurationError, match="wrapped already"):
        governor.wrap(asked)


def test_a_wrapped_client_of_gemini_counts_once(governor: Governor, provider: FakeProvider) -> None:
    """In both stacks of its SDK."""
    with gemini_client(provider) as plain_client:
        asked = governor.wrap(plain_client, tenant="acme")
        fluxai.instrument(governor, tenant="whole")
        asked.models.generate_content(model="gemini-2.5-pro", contents="Hi", config=CAP)
        asked.interactions.create(model="gemini-2.5-pro", input="Hi")
    assert [event.tenant for event in governor.events()] == ["acme", "acme"]


def test_retries_are_one_reservation(governor: Governor, provider: FakeProvider) -> None:
    """A lost attempt is charged as an estimate, a refused one is not."""
    fluxai.instrument(governor)
    provider.fail(500)
    chat(client(provider))
    assert len(governor.events()) == 1
    provider.cut()
    chat(client(provider))
    assert ["estimated" in event.flags for event in governor.events()].count(True) == 1
    assert len(provider.requests) == 4


def test_an_answer_that_can_not_be_parsed_is_paid(
    governor: Governor, provider: FakeProvider
) -> None:
    """What raises behind an answer that came does not give back what it cost."""

    class Place(BaseModel):
        name: str

    ask: dict[str, Any] = {"model": "gpt-4o", "messages": ASK, "response_format": Place}

    async def once() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k") as asking:
            with pytest.raises(openai.LengthFinishReasonError):
                await asking.chat.completions.parse(**ask)

    fluxai.instrument(governor)
    provider.answer('{"na', finish="length", usage=USAGE)
    provider.answer('{"na', finish="length", usage=USAGE)
    with client(provider) as asking, pytest.raises(openai.LengthFinishReasonError):
        asking.chat.completions.parse(**ask)
    asyncio.run(once())
    assert [event.cost for event in governor.events()] == [GPT, GPT]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_with_middleware_each_attempt_is_a_call(
    governor: Governor, provider: FakeProvider, *, wrapped: bool, is_async: bool
) -> None:
    """A function of the caller's may ask several times, and another model."""
    asked = ("claude-haiku-4-5", "claude-opus-4-1")

    def both(request: Any, call_next: Any) -> Any:
        call_next(request.copy(body={**request.options.json_data, "model": asked[0]}))
        return call_next(request)

    async def both_async(request: Any, call_next: Any) -> Any:
        await call_next(request.copy(body={**request.options.json_data, "model": asked[0]}))
        return await call_next(request)

    fluxai.instrument(governor)
    options: dict[str, Any] = {"base_url": provider.anthropic_url, "api_key": "k", "max_retries": 0}
    ask: dict[str, Any] = {"model": asked[1], "messages": ASK, "max_tokens": 50}
    provider.fail(400)
    for _ in range(3):
        provider.answer("Hello there.", usage=USAGE)

    async def once() -> None:
        async with anthropic.AsyncAnthropic(**options, middleware=[both_async]) as plain:
            asking: Any = governor.wrap(plain) if wrapped else plain
            for _ in range(2):
                await asking.messages.create(**ask)

    if is_async:
        asyncio.run(once())
    else:
        with anthropic.Anthropic(**options, middleware=[both]) as plain:
            asking: Any = governor.wrap(plain) if wrapped else plain
            for _ in range(2):
                asking.messages.create(**ask)
    events = [event.model for event in governor.events()]
    assert sorted(events, key=str) == [asked[0], asked[1], asked[1]]
    states = sorted(held.state for held in governor.reservations())
    assert states == ["released", "settled", "settled", "settled"]


@pytest.mark.parametrize(
    "way", [plain, streamed, by_task, gemini, gemini_task, interaction], ids=_name
)
def test_calls_count_in_the_block_around(
    way: Callable[[FakeProvider], None], governor: Governor, provider: FakeProvider
) -> None:
    """Also those from a context that knows of no block, as some threads' do."""
    with governor.budget("1", tenant="acme") as block, fluxai.instrument(governor):
        way(provider)
        once = block.spent
        contextvars.Context().run(way, provider)
        assert block.spent == 2 * once > 0
    with governor.budget("0.0001", tenant="acme"), fluxai.instrument(governor):
        with pytest.raises(BudgetExceeded):
            way(provider)
        with pytest.raises(BudgetExceeded):
            contextvars.Context().run(way, provider)
    assert len(provider.requests) == 2


def test_it_is_undone(governor: Governor) -> None:
    """Every class has afterwards what it had before."""
    kinds = (
        SyncAPIClient,
        AsyncAPIClient,
        openai.OpenAI,
        openai.AsyncOpenAI,
        anthropic.Anthropic,
        anthropic.AsyncAnthropic,
        BaseApiClient,
        BaseSDK,
        AsyncBaseSDK,
        AsyncLive,
        AsyncMusic,
    )
    before = [dict(vars(kind)) for kind in kinds]
    finders = list(sys.meta_path)
    fluxai.instrument(governor)
    assert [dict(vars(kind)) for kind in kinds] != before
    fluxai.uninstrument()
    assert [dict(vars(kind)) for kind in kinds] == before
    assert sys.meta_path == finders
    fluxai.uninstrument()


def test_what_others_have_put_on_top_stays(
    governor: Governor, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tool that wrapped the method later keeps its own, and calls are free of ours."""
    fluxai.instrument(governor)
    ours, seen = SyncAPIClient.request, []

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return ours(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(SyncAPIClient, "request", theirs)
        chat(client(provider))
        fluxai.uninstrument()
        assert SyncAPIClient.request is theirs
        chat(client(provider))
    # It was put over ours, so taking it away brings ours back, which does nothing any more.
    chat(client(provider))
    assert (len(seen), len(governor.events())) == (2, 1)


def test_what_is_no_governor_is_refused_at_once() -> None:
    """A store's URL in its place would fail at the first call only."""
    with pytest.raises(ConfigurationError, match="must be a Governor"):
        fluxai.instrument("sqlite:///fluxai.db")  # type: ignore[arg-type]
    with fluxai.instrument():
        pass


def test_a_process_is_instrumented_once(governor: Governor) -> None:
    """A second time is an error, not a second charge."""
    fluxai.instrument(governor)
    with pytest.raises(ConfigurationError, match="instrumented already"):
        fluxai.instrument(governor)


def test_what_cannot_be_governed_is_refused_or_allowed(
    governor: Governor, provider: FakeProvider
) -> None:
    """Web sockets, and requests of unknown cost; with `allow` they are the SDK's again."""
    asked = client(provider)
    job: Any = {"model": "gpt-4o-mini", "training_file": "file-1"}
    with fluxai.instrument(governor):
        for resource in (asked.realtime, asked.beta.realtime):
            with pytest.raises(NotGoverned, match="web socket"):
                resource.connect(model="gpt-realtime")
        with pytest.raises(NotGoverned, match="fine_tuning"):
            asked.fine_tuning.jobs.create(**job)
        live = gemini_client(provider).aio.live
        with pytest.raises(NotGoverned, match="web socket"):
            live.connect(model="gemini-live")
    assert provider.requests == []
    with fluxai.instrument(governor, ungoverned="allow"):
        asked.realtime.connect(model="gpt-realtime")
        with pytest.raises(openai.NotFoundError):
            asked.fine_tuning.jobs.create(**job)
    assert len(provider.requests) == 1


LATER = """
import json, sys
import fluxai
from fluxai.testing import FakeProvider

made = fluxai.instrument()
heavy = sorted({"openai", "anthropic", "google", "httpx", "sqlalchemy"} & set(sys.modules))
import openai
from importlib.machinery import SourceFileLoader
own = type(openai.__loader__) is type(openai.__spec__.loader) is SourceFileLoader
with FakeProvider() as provider:
    client = openai.OpenAI(base_url=provider.openai_url, api_key="k")
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
events = len(made.governor.events())
fluxai.uninstrument()
print(json.dumps({"heavy": heavy, "own": own, "events": events}))
"""


def test_an_sdk_that_is_imported_later_is_governed() -> None:
    """Instrumenting loads no SDK; the import that does is like any other, and governed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LATER], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"heavy": [], "own": True, "events": 1}
