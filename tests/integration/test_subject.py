"""`with fluxai.subject(…)`: the subject of every call inside, in threads and tasks; nothing leaks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import fluxai
from fluxai import Governor, InvalidRequest
from fluxai.context import NOWHERE, surroundings
from fluxai.testing import FakeClock
from tests.integration.stubs import daily


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor; whatever a test does, no block stays open behind it."""
    yield Governor(clock=FakeClock())
    assert surroundings.get() is NOWHERE


def _who(governor: Governor) -> tuple[str, str | None, dict[str, str]]:
    """Tell the subject that a call made here has."""
    subject = governor.check(model="gpt-4o", prompt="hi").subject
    return subject.tenant, subject.user, subject.label_map


OUTSIDE = ("default", None, {})
INSIDE = ("acme", "alice", {"run": "42"})


def _block() -> Any:
    return fluxai.subject(tenant="acme", user="alice", run="42")


def test_calls_inside_have_the_block_s_subject(governor: Governor) -> None:
    """Inside, tenant, user and labels are the block's; before and after, they are not."""
    assert _who(governor) == OUTSIDE
    with _block():
        assert _who(governor) == INSIDE
    assert _who(governor) == OUTSIDE


def test_a_call_s_own_subject_wins(governor: Governor) -> None:
    """What a call says itself stands; the block fills in the rest."""
    with _block():
        found = governor.check(
            tenant="globex", model="gpt-4o", prompt="hi", labels={"run": "43", "team": "red"}
        ).subject
    assert (found.tenant, found.user) == ("globex", "alice")
    assert found.label_map == {"run": "43", "team": "red"}


def test_blocks_nest(governor: Governor) -> None:
    """An inner block changes what it names, keeps the rest, and ends alone."""
    with _block():
        with fluxai.subject(user="bob", team="red"):
            assert _who(governor) == ("acme", "bob", {"run": "42", "team": "red"})
            with fluxai.subject(run="43"):
                assert _who(governor)[2] == {"run": "43", "team": "red"}
        assert _who(governor) == INSIDE


def test_an_error_ends_the_block(governor: Governor) -> None:
    """Whatever is raised inside, nothing of the block is left."""
    with pytest.raises(KeyError), _block():
        raise KeyError
    assert _who(governor) == OUTSIDE


def test_threads_started_inside_are_inside(governor: Governor) -> None:
    """A thread carries the block it was started in for as long as it runs."""
    seen: list[Any] = []
    proceed = threading.Event()

    def run() -> None:
        assert proceed.wait(60)
        seen.append(_who(governor))

    with _block():
        thread = threading.Thread(target=run)
        thread.start()
    proceed.set()
    thread.join()
    assert seen == [INSIDE]
    outside = threading.Thread(target=lambda: seen.append(_who(governor)))
    outside.start()
    outside.join()
    assert seen == [INSIDE, OUTSIDE]


def test_a_thread_subclass_is_inside_too(governor: Governor) -> None:
    """Threads with a `run` of their own carry the block like any other."""
    seen: list[Any] = []

    class Worker(threading.Thread):
        def run(self) -> None:
            seen.append(_who(governor))

    with _block():
        worker = Worker()
        worker.start()
        timer = threading.Timer(0, lambda: seen.append(_who(governor)))
        timer.start()
    worker.join()
    timer.join()
    assert seen == [INSIDE, INSIDE]


def test_jobs_of_an_executor_have_the_block_they_were_given_in(governor: Governor) -> None:
    """The jobs carry it, the workers keep nothing: also a worker that was started inside."""
    with ThreadPoolExecutor(1) as pool:
        with _block():
            assert pool.submit(_who, governor).result() == INSIDE
        assert pool.submit(_who, governor).result() == OUTSIDE
        with fluxai.subject(tenant="globex"):
            assert list(pool.map(lambda _: _who(governor)[0], range(3))) == ["globex"] * 3
        assert pool.submit(_who, governor).result() == OUTSIDE
    with _block(), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: _who(governor), range(4))) == [INSIDE] * 4


def test_an_executor_s_errors_and_arguments_pass_through(governor: Governor) -> None:
    """Jobs given inside a block take arguments and raise as they always do."""

    def job(a: int, *, b: int) -> int:
        if b < 0:
            raise ValueError(b)
        return a + b

    with ThreadPoolExecutor(1) as pool, _block():
        assert pool.submit(job, 1, b=2).result() == 3
        with pytest.raises(ValueError, match="-1"):
            pool.submit(job, 1, b=-1).result()


def test_tasks_and_their_threads_are_inside(governor: Governor) -> None:
    """Tasks, `to_thread` and `run_in_executor` carry the block of whoever started them."""

    async def main() -> None:
        async def child() -> Any:
            await asyncio.sleep(0)
            return _who(governor)

        loop = asyncio.get_running_loop()
        with _block():
            task = asyncio.create_task(child())
            assert await asyncio.to_thread(_who, governor) == INSIDE
            assert await loop.run_in_executor(None, _who, governor) == INSIDE
        assert await task == INSIDE
        assert await child() == OUTSIDE
        assert await asyncio.to_thread(_who, governor) == OUTSIDE
        assert await loop.run_in_executor(None, _who, governor) == OUTSIDE

    asyncio.run(main())


def test_tasks_side_by_side_do_not_see_each_other(governor: Governor) -> None:
    """Two hundred tasks with a block each: every call has its own task's subject."""

    async def one(name: str) -> bool:
        with fluxai.subject(tenant=name):
            for _ in range(3):
                await asyncio.sleep(0)
                if _who(governor)[0] != name:
                    return False
        return _who(governor) == OUTSIDE

    async def main() -> list[bool]:
        return await asyncio.gather(*(one(f"t{n}") for n in range(200)))

    assert all(asyncio.run(main()))


def test_an_async_generator_closed_elsewhere_is_no_error(governor: Governor) -> None:
    """A generator with a block, abandoned and closed by the loop, closes quietly."""

    async def chunks() -> AsyncIterator[int]:
        with _block():
            yield 1
            yield 2

    async def main() -> None:
        generator = chunks()
        await anext(generator)
        closing = contextvars.copy_context().run(lambda: asyncio.create_task(_close(generator)))
        await closing

    async def _close(generator: Any) -> None:
        await generator.aclose()

    asyncio.run(main())
    gc.collect()


def test_settling_elsewhere_keeps_the_subject_of_the_reserve(governor: Governor) -> None:
    """Who pays is decided when the money is held, not where it is settled."""
    with _block():
        reservation = governor.reserve(model="gpt-4o", prompt="hi")
    with fluxai.subject(tenant="globex"):
        settlement = governor.settle(reservation, cost="0.01")
    assert (settlement.tenant, settlement.user) == ("acme", "alice")


def test_records_and_budgets_have_it_too(governor: Governor) -> None:
    """`record` and `budget()` take their subject from the block as well."""
    governor.policies.put(daily("5"))
    with _block():
        governor.record(model="gpt-4o", cost="1", id="x")
    (event,) = governor.events()
    assert (event.tenant, event.user, event.labels) == ("acme", "alice", {"run": "42"})
    (budget,) = governor.budgets("acme")
    assert budget.settled == 1


def test_labels_are_arguments_of_their_own() -> None:
    """A mapping of labels, as other functions take it, is answered by how to write it here."""
    with (
        pytest.raises(InvalidRequest, match=r"subject\(team='red'\)"),
        fluxai.subject(tenant="acme", labels={"team": "red"}),  # type: ignore[arg-type]
    ):
        pytest.fail("it ran")
