"""Who spends, for everything inside a block: `with fluxai.subject(tenant=…): …`.

The subject travels with the context: into tasks by itself, and into threads because a block, once
opened, hands it to the threads and executor jobs that are started inside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from fluxai.arguments import check_text
from fluxai.core.errors import InvalidRequest
from fluxai.core.ledger import BUDGET_LABEL, CALL_LABEL

LABELS_MAX = 16

Labels = tuple[tuple[str, str], ...]


class Surroundings(NamedTuple):
    """What the blocks around a call say about it.

    `limits` are those of the surrounding `budget()` blocks: (label value, nano-USD). `payer` is the
    tenant in whose ledger they count.
    """

    tenant: str | None = None
    user: str | None = None
    labels: Labels = ()
    approval_id: str | None = None
    limits: tuple[tuple[str, int], ...] = ()
    payer: str | None = None


NOWHERE = Surroundings()
surroundings: ContextVar[Surroundings] = ContextVar("fluxai.surroundings", default=NOWHERE)
#: Whether whoever makes a call has reserved for it already, so that a wrapped client need not.
already_held: ContextVar[bool] = ContextVar("fluxai.already_held", default=False)


#: Where calls run on what they ask for, whatever is certified: takes the ids of those that depend on
#: their prompt or may be downgraded all the same. None where certificates hold.
unrouted: ContextVar[list[int] | None] = ContextVar("fluxai.unrouted", default=None)


@contextmanager
def running_as_asked() -> Iterator[list[int]]:
    """Run the calls inside on the models that they ask for, whatever a certificate allows.

    Yields:
        The ids of those calls for which a policy with `quality_risk` was looked at, or whose model
        another policy may change.
    """
    seen: list[int] = []
    token = unrouted.set(seen)
    try:
        yield seen
    finally:
        unrouted.reset(token)


@contextmanager
def held_outside() -> Iterator[None]:
    """Let wrapped clients pass calls on, for an adapter that has reserved for them itself."""
    token = already_held.set(True)
    try:
        yield
    finally:
        already_held.reset(token)


def is_governed(client: object) -> bool:
    """Say whether a client of an SDK was wrapped, so that it holds money for its calls itself."""
    # That of google-genai keeps it where its requests pass.
    return any(
        getattr(part, "_fluxai", None) is not None
        for part in (client, getattr(client, "_api_client", None))
    )


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
        InvalidRequest: A value is no text, is empty or too long, a label has a reserved name, there
            are more than 16 labels, or the tenant is not that of the `budget()` block around it.
    """
    outer = surroundings.get()
    for name, value in (("tenant", tenant), ("user", user), ("approval_id", approval_id)):
        if value is not None:
            check_text(name, value)
    _check_apart(labels, "subject(team='red')")
    here = outer._replace(labels=joined(outer.labels, labels))
    if tenant is not None:
        same_payer(outer, tenant)
        here = here._replace(tenant=tenant)
    if user is not None:
        here = here._replace(user=user)
    if approval_id is not None:
        here = here._replace(approval_id=approval_id)
    with _inside(here):
        yield


@contextmanager
def budget_block(
    value: str, limit: int, *, tenant: str, labels: Mapping[str, str]
) -> Iterator[None]:
    """Put every governed call inside under one more limit.

    `value` is the label that counts it, as `key=value`.
    """
    _check_apart(labels, "budget('1.00', team='red')")
    if "user" in labels:
        raise InvalidRequest(
            "user", "a block is a tenant's; say whose calls are inside with fluxai.subject(user=…)"
        )
    outer = surroundings.get()
    same_payer(outer, tenant)
    key, _, name = value.partition("=")
    with _inside(
        outer._replace(
            tenant=tenant,
            labels=_bounded(_merged(joined(outer.labels, labels), {key: name})),
            limits=(*outer.limits, (value, limit)),
            payer=tenant,
        )
    ):
        yield


def _check_apart(labels: Mapping[str, object], example: str) -> None:
    """Refuse labels in one mapping, as other functions take them, where each is an argument."""
    if isinstance(labels.get("labels"), Mapping):
        raise InvalidRequest("labels", f"each is an argument of its own here, such as {example}")


def same_payer(here: Surroundings, tenant: str) -> None:
    """Refuse another tenant inside a `budget()` block: its calls would count in another ledger."""
    if here.payer is not None and tenant != here.payer:
        raise InvalidRequest(
            "tenant",
            f"is {tenant!r:.60}, but the budget() block around this counts for {here.payer!r}; "
            f"open a block of its own for each tenant",
        )


def label_pairs(labels: Mapping[str, str] | None, here: Surroundings) -> Labels:
    """Join a call's labels with those of the blocks around it; the call's own values win."""
    return joined(here.labels, labels) if labels else here.labels


def joined(labels: Labels, more: Mapping[str, str]) -> Labels:
    """Add labels to labels, checked; the newer value of a name wins.

    Raises:
        InvalidRequest: They are no mapping of texts, hold a reserved name, or are too many.
    """
    if not isinstance(more, Mapping):
        raise InvalidRequest(
            "labels", f"must be a mapping such as {{'run': '42'}}, got {type(more).__name__}"
        )
    for name, value in more.items():
        check_text("labels", name)
        check_text(f"labels[{name!r:.60}]", value)
        if "=" in name:
            raise InvalidRequest("labels", f"the name {name!r:.60} must not contain '='")
        for reserved in (BUDGET_LABEL, CALL_LABEL):
            if name.startswith(reserved):
                raise InvalidRequest("labels", f"names that begin with {reserved!r} are reserved")
    return _bounded(_merged(labels, more))


def _merged(labels: Labels, more: Mapping[str, str]) -> Labels:
    return tuple(sorted({**dict(labels), **more}.items())) if more else labels


def _bounded(labels: Labels) -> Labels:
    if len(labels) > LABELS_MAX:
        raise InvalidRequest("labels", f"a call carries at most {LABELS_MAX} labels")
    return labels


@contextmanager
def _inside(here: Surroundings) -> Iterator[None]:
    _carry_into_threads()
    token = surroundings.set(here)
    try:
        yield
    finally:
        _leave(token)


def _leave(token: Token[Surroundings]) -> None:
    try:
        surroundings.reset(token)
    except ValueError:
        # Closed from another context, as abandoned async generators are: this one was never inside.
        return


_carrying = threading.Event()


def _carry_into_threads() -> None:
    """Hand the surroundings to threads that are started inside a block, once per process.

    Tasks copy their context by themselves; before Python 3.14 threads do not, and executors never
    do. Only this one variable is handed over, and a worker of an executor keeps nothing of it: the
    worker serves jobs from outside the block as well.
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
        if here is NOWHERE:
            return submit(pool, function, *args, **kwargs)
        # The job goes inside; the worker that may be started for it must not.
        token = surroundings.set(NOWHERE)
        try:
            return submit(pool, _running(here, function), *args, **kwargs)
        finally:
            surroundings.reset(token)

    threading.Thread.start = start_inside  # type: ignore[method-assign, assignment]
    ThreadPoolExecutor.submit = submit_inside  # type: ignore[method-assign, assignment]


def _running(here: Surroundings, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        token = surroundings.set(here)
        try:
            return function(*args, **kwargs)
        finally:
            surroundings.reset(token)

    return run
