"""The client classes of OpenAI and Anthropic, governed in place: every client there is, or will be.

A wrapped client (see `stainless`) reserves for itself, and passes these classes by.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from fluxai.context import Surroundings, surroundings
from fluxai.providers.exchange import Terms
from fluxai.providers.in_place import at_home, passes
from fluxai.providers.patches import Patches
from fluxai.providers.stainless import (
    NotAnswered,
    State,
    answered,
    exchange_for,
    has_middleware,
    note_answer,
    note_lost_attempt,
    sending,
    without_sockets,
)


def govern_stainless(sdk: ModuleType, terms: Terms, patches: Patches) -> None:
    """Govern an SDK's client classes until the patches are undone.

    Args:
        sdk: `openai` or `anthropic`.
        terms: On whose account.
        patches: Undoes it.
    """
    base = import_module(f"{sdk.__name__}._base_client")
    state = State(terms)
    home = surroundings.get()
    for kind, request, attempt, processing in (
        (base.SyncAPIClient, _request, _attempt, _processing),
        (base.AsyncAPIClient, _request_async, _attempt_async, _processing_async),
    ):
        # First, since the methods below pass requests on where there is none.
        patches.put(kind, "_fluxai", state)
        name = sending(kind)
        patches.put(kind, name, request(getattr(kind, name), home))
        patches.put(kind, "_process_response", processing(kind._process_response))
        if hasattr(kind, "_attempt_request"):  # where there may be middleware
            patches.put(kind, "_attempt_request", attempt(kind._attempt_request, home))
        patches.put(kind, "_calculate_retry_timeout", _retry(kind._calculate_retry_timeout))
        if not terms.allows_ungoverned:
            for client in _clients(sdk, kind):
                for name, refusing in without_sockets(client).items():
                    patches.put(client, name, refusing)


def _clients(sdk: ModuleType, base: type) -> list[type]:
    """Return the clients that an SDK exports; what derives from them inherits theirs."""
    # By their own types, since openai exports proxies that load much when they are looked at.
    found = [kind for kind in tuple(vars(sdk).values()) if issubclass(type(kind), type)]
    return [kind for kind in dict.fromkeys(found) if base in kind.__bases__]


def _request(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        passed = passes(self) or has_middleware(self)
        exchange = None if passed else exchange_for(self, options)
        if exchange is None:
            return plain(self, cast_to, options, *args, **kwargs)
        with at_home(home):
            return exchange.run(lambda: plain(self, cast_to, exchange.options(), *args, **kwargs))

    return request


def _request_async(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        passed = passes(self) or has_middleware(self)
        exchange = None if passed else exchange_for(self, options)
        if exchange is None:
            return await plain(self, cast_to, options, *args, **kwargs)
        with at_home(home):
            return await exchange.run_async(
                lambda: plain(self, cast_to, exchange.options(), *args, **kwargs)
            )

    return request


def _attempt(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    def _attempt_request(self: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        governed = has_middleware(self) and not passes(self)
        exchange = exchange_for(self, options) if governed else None
        if exchange is None:
            return plain(self, options, *args, **kwargs)
        with at_home(home):
            try:
                return exchange.run(
                    lambda: answered(plain(self, exchange.options(), *args, **kwargs))
                )
            except NotAnswered as refused:
                return refused.attempt

    return _attempt_request


def _attempt_async(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def _attempt_request(self: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        governed = has_middleware(self) and not passes(self)
        exchange = exchange_for(self, options) if governed else None
        if exchange is None:
            return await plain(self, options, *args, **kwargs)

        async def sent() -> Any:
            return answered(await plain(self, exchange.options(), *args, **kwargs))

        with at_home(home):
            try:
                return await exchange.run_async(sent)
            except NotAnswered as refused:
                return refused.attempt

    return _attempt_request


def _processing(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def _process_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return plain(self, *args, **kwargs)
        except Exception:
            note_answer(kwargs.get("response"))
            raise

    return _process_response


def _processing_async(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def _process_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await plain(self, *args, **kwargs)
        except Exception:
            note_answer(kwargs.get("response"))
            raise

    return _process_response


def _retry(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def _calculate_retry_timeout(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not passes(self):
            note_lost_attempt()
        return plain(self, *args, **kwargs)

    return _calculate_retry_timeout
