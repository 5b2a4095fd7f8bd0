"""Answers that nobody reads to their end: each is settled once, and nothing stays open."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import pytest

from fluxai import BudgetExceeded, Governor, Policy
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import CAP, MESSAGES, SURFACES, Surface

pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")

STEPS_MAX = 400


def forget_requests(provider: FakeProvider) -> None:
    """Forget what was asked, also what is still on its way: it comes in before what is asked later."""
    with httpx.Client() as client:
        client.get(provider.url)
    provider.clear()


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, Any], step: int) -> Generator[Any, Any, bool]:
    """Drive a coroutine, and cancel its task at one of its steps; say whether it came that far."""
    inner = work.__await__()
    task = asyncio.current_task()
    assert task is not None
    step_on = functools.partial(inner.send, None)
    for number in itertools.count():
        if number == step:
            task.cancel()
        try:
            waited = step_on()
        except (StopIteration, asyncio.CancelledError):
            return number >= step
        try:
            step_on = functools.partial(inner.send, (yield waited))
        except BaseException as error:  # noqa: BLE001 -- passed on to whoever it is for
            step_on = functools.partial(inner.throw, error)
    raise AssertionError


def at_every_step(once: Callable[[int], Coroutine[Any, Any, bool]]) -> None:
    """Run something again and again, until it was not cancelled before its last step."""
    for step in range(STEPS_MAX):
        if not asyncio.run(once(step)):
            # What was left open is told of now, and not in the midst of another test.
            gc.collect()
            return
    raise AssertionError(f"more than {STEPS_MAX} steps")


@pytest.mark.parametrize("surface", [surface for surface in SURFACES if surface.is_async], ids=str)
# The SDKs' own HTTP client leaves a socket open when it is cancelled while it connects.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_cancelled_at_every_step(surface: Surface, provider: FakeProvider) -> None:
    """Wherever its task is cancelled, a call leaves no open reservation, and no charge unseen."""

    async def once(step: int) -> bool:
        forget_requests(provider)
        client = surface.client(provider, max_retries=0)
        with Governor() as governor:
            wrapped = governor.wrap(client, tenant="acme")
            task = asyncio.ensure_future(cancelled_at(surface.run(wrapped), step))
            (reached,) = await asyncio.gather(task, return_exceptions=True)
            gc.collect()
            await asyncio.sleep(0)
            assert governor.reservations(state="reserved") == [], step
            assert governor.verify().ok
            answered = len(provider.requests)
            assert len(governor.events()) >= answered, step
        await client.close()
        # One that ended in the very step in which it was cancelled counts as cancelled.
        return reached is True or isinstance(reached, asyncio.CancelledError)

    at_every_step(once)


def chat_stream(governor: Governor, provider: FakeProvider) -> Any:
    """Begin a stream of OpenAI's."""
    client = governor.wrap(openai.OpenAI(base_url=provider.openai_url, api_key="k"), tenant="acme")
    return client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP, stream=True
    )


def message_stream(governor: Governor, provider: FakeProvider) -> Any:
    """Begin a stream of Anthropic's."""
    claude = anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k")
    return governor.wrap(claude, tenant="acme").messages.create(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP, stream=True
    )


def closed(stream: Any) -> None:
    """Close a stream after its first chunk."""
    next(iter(stream))
    stream.close()


def left(stream: Any) -> None:
    """Leave the `with` block of a stream after its first chunk."""
    with stream:
        next(iter(stream))


def dropped(stream: Any) -> None:
    """Let go of a stream after its first chunk."""
    next(iter(stream))


def never_read(stream: Any) -> None:
    """Let go of a stream unread."""


@pytest.mark.parametrize("end", [closed, left, dropped, never_read])
@pytest.mark.parametrize("begin", [chat_stream, message_stream])
# A client that is dropped with its stream leaves its socket to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_is_not_read_to_its_end(
    begin: Callable[[Governor, FakeProvider], Any],
    end: Callable[[Any], None],
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """Settled once, at an estimate that says so: the provider may have generated all of it."""
    provider.answer("a river " * 20, usage={"input": 12, "output": 40})
    stream = begin(governor, provider)
    end(stream)
    del stream
    gc.collect()
    assert governor.reservations(state="reserved") == []
    (event,) = governor.events()
    assert "estimated" in event.flags
    assert event.cost > 0


def test_what_is_left_of_a_stream_behind_its_usage_costs_nothing(
    governor: Governor, provider: FakeProvider
) -> None:
    """A reader who leaves when the answer is whole, and its usage told, pays exactly."""
    provider.answer("Rhine", usage={"input": 12, "output": 4})
    stream = message_stream(governor, provider)
    for event in stream:
        if event.type == "message_delta":
            break
    stream.close()
    (settled,) = governor.events()
    assert settled.flags == ()
    assert settled.usage is not None
    assert (settled.usage.input, settled.usage.output) == (12, 4)


def test_an_async_stream_that_is_left(governor: Governor, provider: FakeProvider) -> None:
    """`break` without closing settles when the stream is collected."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k") as client:
            wrapped = governor.wrap(client, tenant="acme")
            stream = await wrapped.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, stream=True, max_tokens=CAP
            )
            async for _ in stream:
                break
            del stream
            gc.collect()
            for _ in range(10):
                await asyncio.sleep(0)

    asyncio.run(main())
    (event,) = governor.events()
    assert "estimated" in event.flags
    assert governor.reservations(state="reserved") == []


def test_a_thousand_streams_over_one_budget(governor: Governor, provider: FakeProvider) -> None:
    """Of a thousand at once, those run that fit; the limit holds, and every one is settled."""
    governor.policies.put(
        Policy(id="day", tenant_id="acme", limit_type="daily", limit_value="0.25")
    )
    callers = 1_000

    async def call(client: Any) -> bool:
        try:
            stream = await client.chat.completions.create(
                model="gpt-4o", messages=MESSAGES, max_tokens=CAP, stream=True
            )
        except BudgetExceeded:
            return False
        async for _ in stream:
            pass
        return True

    async def main() -> list[bool]:
        async with openai.AsyncOpenAI(
            base_url=provider.openai_url, api_key="k", max_retries=0, timeout=120
        ) as client:
            wrapped = governor.wrap(client, tenant="acme")
            return await asyncio.gather(*(call(wrapped) for _ in range(callers)))

    ran = asyncio.run(main())
    assert 0 < sum(ran) < callers
    assert len(provider.requests) == sum(ran) == len(governor.events(limit=callers))
    assert governor.reservations(state="reserved") == []
    (budget,) = governor.budgets("acme")
    assert budget.settled <= Decimal("0.25")
    assert budget.reserved == 0
