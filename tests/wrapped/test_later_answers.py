"""Answers that come later, however they are asked for: each is charged once, and its hold goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anthropic
import openai
import pytest

import fluxai
from fluxai import Governor, Usage
from fluxai.testing import FakeClock, FakeProvider
from tests.integration.stubs import BrokenStorage
from tests.wrapped.surfaces import CAP, MESSAGES

REQUESTS: Any = [
    {
        "custom_id": f"r{number}",
        "params": {"model": "claude-opus-4-1", "max_tokens": CAP, "messages": MESSAGES},
    }
    for number in range(3)
]
ASKED: Any = {"model": "gpt-4o", "input": "A river?", "background": True, "max_output_tokens": CAP}


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


def queued(gpt: openai.OpenAI) -> str:
    """Ask for an answer in the background."""
    answer: Any = gpt.responses.create(**ASKED)
    return str(answer.id)


def queued_raw(gpt: openai.OpenAI) -> str:
    """… by its raw response."""
    answer: Any = gpt.responses.with_raw_response.create(**ASKED).parse()
    return str(answer.id)


def queued_object(gpt: openai.OpenAI) -> str:
    """… by the client's own verb."""
    answer: Any = gpt.post("/responses", cast_to=object, body=ASKED)
    return str(answer["id"])


def retrieved(gpt: openai.OpenAI, answer_id: str) -> None:
    """Ask for the answer."""
    gpt.responses.retrieve(answer_id)


def retrieved_raw(gpt: openai.OpenAI, answer_id: str) -> None:
    """… by its raw response."""
    gpt.responses.with_raw_response.retrieve(answer_id).parse()


def retrieved_streaming(gpt: openai.OpenAI, answer_id: str) -> None:
    """… by a response that is read later."""
    with gpt.responses.with_streaming_response.retrieve(answer_id) as response:
        response.parse()


def cancelled_too_late(gpt: openai.OpenAI, answer_id: str) -> None:
    """Cancel what is there already."""
    gpt.responses.cancel(answer_id)


@pytest.mark.parametrize("ask", [retrieved, retrieved_raw, retrieved_streaming, cancelled_too_late])
@pytest.mark.parametrize("begin", [queued, queued_raw, queued_object])
def test_a_background_answer(
    begin: Callable[[openai.OpenAI], str],
    ask: Callable[[openai.OpenAI, str], None],
    gpt: openai.OpenAI,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """Held until it is asked for, and charged once."""
    provider.answer("Rhine", usage={"input": 20, "output": 5})
    answer_id = begin(gpt)
    assert governor.events() == []
    assert len(governor.reservations(state="reserved")) == 1
    for _ in range(2):
        ask(gpt, answer_id)
    (event,) = governor.events()
    assert event.usage == Usage(input=20, output=5)
    assert event.flags == ()
    assert governor.reservations(state="reserved") == []


def answer_of(status: str, **more: Any) -> dict[str, Any]:
    """Return a response in the background, as the provider tells it."""
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "background": True,
        "model": "gpt-4o",
        "output": [],
        "usage": None,
        **more,
    }


USED = {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25}
CREATED = {"type": "response.created", "response": answer_of("queued"), "sequence_number": 0}
DONE = {
    "type": "response.completed",
    "response": answer_of("completed", usage=USED),
    "sequence_number": 1,
}


def test_a_background_answer_that_was_streamed_is_not_charged_again(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """Whoever saw all of it, and asks for it once more, pays once."""
    provider.replay([CREATED, DONE])
    assert len(list(gpt.responses.create(**ASKED, stream=True))) == 2
    assert governor.reservations(state="reserved") == []
    provider.replay(answer_of("completed", usage=USED))
    gpt.responses.retrieve("resp_1")
    (event,) = governor.events()
    assert event.usage == Usage(input=20, output=5)


def test_a_background_stream_that_broke_off_goes_on_by_its_id(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """The answer is still being made: its money stays held, until the rest of it is streamed."""
    provider.replay([CREATED])
    list(gpt.responses.create(**ASKED, stream=True))
    assert governor.events() == []
    assert len(governor.reservations(state="reserved")) == 1
    provider.replay([DONE])
    assert len(list(gpt.responses.retrieve("resp_1", stream=True))) == 1
    (event,) = governor.events()
    assert event.usage == Usage(input=20, output=5)
    assert governor.reservations(state="reserved") == []


def test_a_background_answer_that_was_cancelled_holds_nothing(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """Nobody is going to ask for it any more."""
    provider.replay(answer_of("queued"))
    queued(gpt)
    provider.replay(answer_of("cancelled"))
    gpt.responses.cancel("resp_1")
    assert governor.reservations(state="reserved") == []
    assert governor.events() == []


def test_a_server_that_knows_no_background_is_paid_at_once(
    gpt: openai.OpenAI, governor: Governor, provider: FakeProvider
) -> None:
    """An answer that is there already ends its hold: nobody asks for it again."""
    provider.replay(answer_of("completed", background=None, usage=USED))
    queued(gpt)
    (event,) = governor.events()
    assert event.usage == Usage(input=20, output=5)
    assert governor.reservations(state="reserved") == []


def batch_plain(claude: anthropic.Anthropic) -> str:
    """Ask for a batch."""
    return claude.messages.batches.create(requests=REQUESTS).id


def batch_raw(claude: anthropic.Anthropic) -> str:
    """… by its raw response."""
    return claude.messages.batches.with_raw_response.create(requests=REQUESTS).parse().id


def batch_object(claude: anthropic.Anthropic) -> str:
    """… by the client's own verb."""
    body = {"requests": REQUESTS}
    answer: Any = claude.post("/v1/messages/batches", cast_to=object, body=body)
    return str(answer["id"])


def results_plain(claude: anthropic.Anthropic, batch_id: str) -> list[Any]:
    """Ask for its results."""
    return list(claude.messages.batches.results(batch_id))


def results_raw(claude: anthropic.Anthropic, batch_id: str) -> list[Any]:
    """… by their raw response."""
    return list(claude.messages.batches.with_raw_response.results(batch_id).parse())


def results_streaming(claude: anthropic.Anthropic, batch_id: str) -> list[Any]:
    """… by a response that is read later."""
    with claude.messages.batches.with_streaming_response.results(batch_id) as response:
        return list(response.parse())


@pytest.mark.parametrize("read", [results_plain, results_raw, results_streaming])
@pytest.mark.parametrize("begin", [batch_plain, batch_raw, batch_object])
def test_a_batch(
    begin: Callable[[anthropic.Anthropic], str],
    read: Callable[[anthropic.Anthropic, str], list[Any]],
    claude: anthropic.Anthropic,
    governor: Governor,
) -> None:
    """All of its requests are held, and each of its results is charged once."""
    batch_id = begin(claude)
    assert governor.events() == []
    assert len(governor.reservations(state="reserved")) == 3
    for _ in range(2):
        assert len(read(claude, batch_id)) == 3
    assert len(governor.events()) == 3
    assert governor.reservations(state="reserved") == []


@pytest.mark.parametrize("read", [results_plain, results_raw])
def test_the_results_of_a_batch_whose_holds_are_gone(
    read: Callable[[anthropic.Anthropic, str], list[Any]], provider: FakeProvider
) -> None:
    """Read after a day and more, they are all handed on, and charged."""
    clock = FakeClock()
    client = anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0)
    with client, Governor(clock=clock) as governor:
        claude = governor.wrap(client, tenant="acme")
        batch_id = batch_plain(claude)
        clock.advance(timedelta(hours=30))
        governor.expire()
        assert len(read(claude, batch_id)) == 3
        assert len(governor.events()) == 3
        assert governor.verify().ok


@pytest.mark.parametrize("read", [results_plain, results_raw, results_streaming])
def test_results_that_can_not_be_entered_are_handed_on_all_the_same(
    read: Callable[[anthropic.Anthropic, str], list[Any]], provider: FakeProvider
) -> None:
    """Where the store is out of reach, the reader has them; they are entered when it is back."""
    storage = BrokenStorage()
    client = anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0)
    with client, Governor(storage) as governor:
        claude = governor.wrap(client, tenant="acme")
        batch_id = batch_plain(claude)
        storage.down = True
        assert len(read(claude, batch_id)) == 3
        assert governor.settle_errors > 0
        storage.down = False
        assert len(read(claude, batch_id)) == 3
        assert len(governor.events()) == 3
        assert governor.reservations(state="reserved") == []


def test_whoever_asked_pays_for_what_another_one_fetches(
    governor: Governor, provider: FakeProvider
) -> None:
    """A worker that fetches answers pays for none of them, however often it does."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        gpt = governor.wrap(client)
        with fluxai.subject(tenant="acme", user="alice"):
            answer_id = queued(gpt)
        for tenant in ("worker", "worker", "acme"):
            with fluxai.subject(tenant=tenant):
                gpt.responses.retrieve(answer_id)
    (event,) = governor.events()
    assert (event.tenant, event.user) == ("acme", "alice")
    assert governor.reservations(state="reserved") == []
