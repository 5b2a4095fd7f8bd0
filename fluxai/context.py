"""Who spends, for everything inside a block: `with fluxai.subject(tenant=…): …`.

The subject travels with the context: into tasks by itself, and into threads because a block, once
opened, hands it to the threads and executor jobs that are started inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from fluxai.core.errors import InvalidRequest

#: Labels under which `governor.budget()` blocks count; nobody else may use them.
BUDGET_LABEL = "budget."


class Surroundings(NamedTuple):
    """What the blocks around a call say about it.

    `limits` are those of the surrounding `budget()` blocks: (label value, nano-USD).
    """

    tenant: str | None = None
    user: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    approval_id: str | None = None
    limits: tuple[tuple[str, int], ...] = ()


NOWHERE = Surroundings()
surroundings: ContextVar[Surroundings] = ContextVar("fluxai.surroundings", default=NOWHERE)


@contextmanager
def subject(
    *,
    tenant: str | None = None,
    user: str | None = None,
    approval_id: str | None = None,
    **labels: str,
) -> Iterator[None]:
    """Supply the subject of all governed calls inside, in threads and tasks started there too.

    Args:
        tenant: Whose budgets; an outer block's stays when it is not given.
        user: Which user of it.
        approval_id: Run the one call that was approved under this id.
        **labels: Free labels such as `run="42"`; added to those of outer blocks.

    Raises:
        InvalidRequest: A label has a reserved name.
    """
    for name in labels:
        if name.startswith(BUDGET_LABEL):
            raise InvalidRequest("labels", f"names that begin with {BUDGET_LABEL!r} are reserved")
    outer = surroundings.get()
    with _inside(
        Surroundings(
            tenant if tenant is not None else outer.tenant,
            user if user is not None else outer.user,
            merged(outer.labels, labels),
            approval_id if approval_id is not None else outer.approval_id,
            outer.limits,
        )
    ):
        yield


@contextmanager
def budget_block(
    value: str, limit: int, *, tenant: str, labels: Mapping[str, str]
) -> Iterator[None]:
    """Put every governed call inside under one more limit.

    `value` is the label that counts it, as `key=value`.
    """
    outer = surroundings.get()
    key, _, name = value.partition("=")
    with _inside(
        outer._replace(
            tenant=tenant,
            labels=merged(outer.labels, {**labels, key: name}),
            limits=(*outer.limits, (value, limit)),
        )
    ):
        yield


def merged(
    labels: tuple[tuple[str, str], ...], more: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Add labels to labels; the newer value of a name wins."""
    return tuple(sorted({**dict(labels), **more}.items())) if more else labels


@contextmanager
def _inside(here: Surroundings) -> Iterator[None]:
    _carry_into_threads()
    token = surroundings.set(here)
    try:
        yield
    finally:
        surroundings.reset(token)


_carrying = threading.Event()


def _carry_into_threads() -> None:
    """Hand the surroundings to threads that are started inside a block, once per process.

    Tasks copy their context by themselves; before Python 3.14 threads do not, and executors never
    do. Only this one variable is handed over.
    """
    if _carrying.is_set():
        return
    _carrying.set()
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def start_inside(thread: threading.Thread) -> None:
        here = surroundings.get()
        if here is not NOWHERE:
            thread.run = _running(here, thread.run)  # type: ignore[method-assign]
        start(thread)

    def submit_inside(
        pool: ThreadPoolExecutor, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        here = surroundings.get()
        if here is not NOWHERE:
            function = _running(here, function)
        return submit(pool, function, *args, **kwargs)

    threading.Thread.start = start_inside  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit_inside  # type: ignore[method-assign,assignment]


def _running(here: Surroundings, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        token = surroundings.set(here)
        try:
            return function(*args, **kwargs)
        finally:
            surroundings.reset(token)

    return run
