"""The classes of google-genai that send requests, governed in place; see `genai`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fluxai.context import Surroundings, surroundings
from fluxai.core.errors import ConfigurationError
from fluxai.providers import genai
from fluxai.providers.disguise import refuse_socket
from fluxai.providers.exchange import Terms
from fluxai.providers.in_place import at_home, passes
from fluxai.providers.patches import Patches


def govern_api_client(module: ModuleType, terms: Terms, patches: Patches) -> None:
    """Govern what `models`, `chats` and the like ask: `google.genai._api_client`."""
    kind = module.BaseApiClient
    if not (hasattr(kind, "_request_once") and hasattr(kind, "_async_request_once")):
        raise ConfigurationError(
            "this version of google-genai is not supported; FluxAI was tried with 3.4"
        )
    home = surroundings.get()
    patches.put(kind, "_fluxai", genai.State(terms, wraps=None))
    patches.put(kind, "_request", _request(kind._request, home))
    patches.put(kind, "_async_request", _async_request(kind._async_request, home))
    patches.put(kind, "_request_once", _once(kind._request_once))
    patches.put(kind, "_async_request_once", _async_once(kind._async_request_once))


def govern_generated(module: ModuleType, terms: Terms, patches: Patches) -> None:
    """Govern what `interactions` and the like ask: `google.genai._gaos.basesdk`."""
    home, state = surroundings.get(), genai.State(terms, wraps=None)
    plain, other = module.BaseSDK, module.AsyncBaseSDK
    for kind in (plain, other):
        patches.put(kind, "_fluxai", state)
    patches.put(plain, "do_request", _generated(plain.do_request, home))
    patches.put(other, "do_request_async", _async_generated(other.do_request_async, home))


def close_live(module: ModuleType, terms: Terms, patches: Patches) -> None:
    """Refuse web sockets: `google.genai.live`, and its music."""
    if terms.allows_ungoverned:
        return
    for kind in tuple(vars(module).values()):
        if isinstance(kind, type) and "connect" in vars(kind):
            patches.put(kind, "connect", refuse_socket)


def _request(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    def _request(self: Any, http_request: Any, *args: Any, **kwargs: Any) -> Any:
        if passes(self):
            return plain(self, http_request, *args, **kwargs)
        exchange = genai._exchange(self._fluxai, http_request)
        if exchange is None:
            answer = plain(self, http_request, *args, **kwargs)
            return genai._noted(self._fluxai, http_request, answer)
        with at_home(home):
            return exchange.run(lambda: plain(self, exchange.granted(), *args, **kwargs))

    return _request


def _async_request(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def _async_request(self: Any, http_request: Any, *args: Any, **kwargs: Any) -> Any:
        if passes(self):
            return await plain(self, http_request, *args, **kwargs)
        exchange = genai._exchange(self._fluxai, http_request)
        if exchange is None:
            answer = await plain(self, http_request, *args, **kwargs)
            return genai._noted(self._fluxai, http_request, answer)
        with at_home(home):
            return await exchange.run_async(
                lambda: plain(self, exchange.granted(), *args, **kwargs)
            )

    return _async_request


def _once(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def _request_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        if passes(self):
            return plain(self, *args, **kwargs)
        genai._attempt_starts()
        try:
            return plain(self, *args, **kwargs)
        except Exception as error:
            genai._attempt_failed(error)
            raise

    return _request_once


def _async_once(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def _async_request_once(self: Any, *args: Any, **kwargs: Any) -> Any:
        if passes(self):
            return await plain(self, *args, **kwargs)
        genai._attempt_starts()
        try:
            return await plain(self, *args, **kwargs)
        except Exception as error:
            genai._attempt_failed(error)
            raise

    return _async_request_once


def _generated(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    def do_request(self: Any, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _found(self, request)
        if exchange is None:
            return plain(self, hook_ctx, request, *args, **kwargs)
        with at_home(home):
            return exchange.run(lambda: plain(self, hook_ctx, exchange.granted(), *args, **kwargs))

    return do_request


def _async_generated(plain: Callable[..., Any], home: Surroundings) -> Callable[..., Any]:
    @functools.wraps(plain)
    async def do_request_async(
        self: Any, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any
    ) -> Any:
        exchange = _found(self, request)
        if exchange is None:
            return await plain(self, hook_ctx, request, *args, **kwargs)
        with at_home(home):
            return await exchange.run_async(
                lambda: plain(self, hook_ctx, exchange.granted(), *args, **kwargs)
            )

    return do_request_async


def _found(resource: Any, request: Any) -> Any:
    """Return how a request is governed; None where it is free, or governed elsewhere."""
    return None if passes(resource) else genai._generated_exchange(resource._fluxai, request)
