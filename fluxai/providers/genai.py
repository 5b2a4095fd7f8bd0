"""google-genai, governed below its retries, where all of its requests pass.

Two stacks live in that SDK. What `models`, `chats`, `batches` and the like ask passes
`BaseApiClient._request`, plain and async, streamed or not. What `interactions`, `agents` and
`decisions` ask passes `do_request` of a generated stack of its own, which does not retry what it
got no answer to. The SDK has no way to copy a client: a wrapped one is a new object of the same
type, whose parts are made to use a governed API client; it shares the connections of the client
that was wrapped, and keeps that alive.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fluxai.context import already_held
from fluxai.core.errors import ConfigurationError, StreamStopped
from fluxai.core.usage import Usage
from fluxai.guard import Call
from fluxai.providers import gemini
from fluxai.providers.disguise import dress, kind_of, refuse_socket, refuse_ungoverned
from fluxai.providers.events import object_in
from fluxai.providers.exchange import Exchange, Terms, attempts_now
from fluxai.providers.meter import Meter
from fluxai.providers.paid import PaidCall
from fluxai.providers.taps import let_go, tap

C = TypeVar("C")

#: Conversations and context caches that a client remembers the size of.
REMEMBERED_MAX = 10_000
#: What the generated stack serves, as properties of a client.
_GENERATED = (
    "agents",
    "credentials",
    "decisions",
    "environments",
    "interactions",
    "triggers",
    "voices",
    "webhooks",
)
_OK_BELOW = 400


class State:
    """What a wrapped client knows, and its parts with it."""

    def __init__(self, terms: Terms, wraps: Any) -> None:
        self.terms = terms
        #: The caller's client closes the connections when it is let go, so it has to live on.
        self.wraps = wraps
        #: By id: the tokens of an interaction to go on with, or of a context cache.
        self.carried: OrderedDict[str, int] = OrderedDict()

    def carry(self, body: Any) -> None:
        """Remember how long what was answered is, since it may be sent again by its id alone."""
        if not isinstance(body, Mapping):
            return
        body = body.get("interaction") or body
        cache = str(body.get("name") or "").startswith("cachedContents/")
        key = body.get("name") if cache else body.get("id")
        usage = body.get("usageMetadata" if cache else "usage")
        total = None
        if isinstance(usage, Mapping):
            total = usage.get("totalTokenCount" if cache else "total_tokens")
        if isinstance(key, str) and type(total) is int:
            self.carried[key] = total
            while len(self.carried) > REMEMBERED_MAX:
                self.carried.popitem(last=False)


def wrap_genai(client: C, terms: Terms) -> C:
    """Return a governed copy of a `genai.Client`, or of its `aio`."""
    ungoverned = getattr(client, "_api_client", None)
    kind: Any = type(ungoverned)
    if not (hasattr(kind, "_request") and hasattr(kind, "_async_request")):
        raise ConfigurationError(
            "client: this version of google-genai is not supported; FluxAI was tried with 3.4"
        )
    api_client = kind.__new__(_api_class(kind))
    vars(api_client).update(vars(ungoverned), _fluxai=State(terms, client))
    return _rehomed(client, ungoverned, api_client)  # type: ignore[no-any-return]


def _rehomed(part: Any, ungoverned: Any, api_client: Any) -> Any:
    """Return a copy of a client or of a part of it that uses another API client."""
    made = copy.copy(part)
    for name, value in vars(part).items():
        module = type(value).__module__
        if value is ungoverned:
            setattr(made, name, api_client)
        elif module.startswith("google.genai._gaos"):
            setattr(made, name, None)  # made anew when it is asked for
        elif any(held is ungoverned for held in getattr(value, "__dict__", {}).values()):
            setattr(made, name, _rehomed(value, ungoverned, api_client))
    made.__class__ = _part_class(kind_of(part))
    made._fluxai = api_client._fluxai
    return made


@functools.cache
def _part_class(kind: Any) -> type:
    """Return the subclass of a client's class, or of that of a part of it."""

    class Governed(kind):  # type: ignore[misc]
        def __del__(self) -> None:
            """Leave the connections to the client that was wrapped."""

    dress(Governed, kind)
    if hasattr(kind, "connect"):
        Governed.connect = refuse_socket
    for name in _GENERATED:
        getter = getattr(getattr(kind, name, None), "fget", None)
        if getter is not None:
            setattr(Governed, name, property(functools.partial(_generated, getter)))
    return Governed


@functools.cache
def _api_class(kind: Any) -> type:
    """Return the subclass of an API client's class whose requests are governed."""

    class Governed(kind):  # type: ignore[misc]
        def _request(self, http_request: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = _exchange(self._fluxai, http_request)
            send = super()._request
            if exchange is None:
                return _noted(self._fluxai, http_request, send(http_request, *args, **kwargs))
            return exchange.run(lambda: send(exchange.granted(), *args, **kwargs))

        async def _async_request(self, http_request: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = _exchange(self._fluxai, http_request)
            send = super()._async_request
            if exchange is None:
                answer = await send(http_request, *args, **kwargs)
                return _noted(self._fluxai, http_request, answer)
            return await exchange.run_async(lambda: send(exchange.granted(), *args, **kwargs))

        def _request_once(self, *args: Any, **kwargs: Any) -> Any:
            _attempt_starts()
            try:
                return super()._request_once(*args, **kwargs)
            except Exception as error:
                _attempt_failed(error)
                raise

        async def _async_request_once(self, *args: Any, **kwargs: Any) -> Any:
            _attempt_starts()
            try:
                return await super()._async_request_once(*args, **kwargs)
            except Exception as error:
                _attempt_failed(error)
                raise

        def __del__(self) -> None:
            """Leave the connections to the client that was wrapped."""

    dress(Governed, kind)
    return Governed


def _noted(state: State, http_request: Any, answer: Any) -> Any:
    """Remember the size of a context cache that was made or asked for; return the answer."""
    said = answer.response_stream
    if "/cachedContents" in str(http_request.url) and isinstance(said, list) and said:
        state.carry(object_in(said[0]))
    return answer


def _attempt_starts() -> None:
    attempts = attempts_now.get()
    if attempts is not None:
        attempts.start()


def _attempt_failed(error: BaseException) -> None:
    attempts = attempts_now.get()
    if attempts is not None:
        attempts.fail(error)


def _paid(state: State, method: str, url: Any, body: Any) -> PaidCall | None:
    """Return what a request costs; None where that is nothing, or held already.

    Raises:
        NotGoverned: Nobody can tell.
    """
    path = urlsplit(str(url)).path
    if already_held.get() or gemini.is_free(method, path):
        return None
    call = gemini.read(path, body if isinstance(body, Mapping) else {}, state.carried)
    if call is None and not state.terms.allows_ungoverned:
        refuse_ungoverned(f"{method.upper()} {path}")
    return call


def _exchange(state: State, http_request: Any) -> _Request | None:
    call = _paid(state, http_request.method, http_request.url, http_request.data)
    return None if call is None else _Request(state, http_request, call)


class _Request(Exchange):
    """One request, and its answer."""

    def __init__(self, state: State, http_request: Any, call: PaidCall) -> None:
        super().__init__(state.terms, [call])
        self.state = state
        self.http_request = http_request

    def grant(self) -> tuple[str, dict[str, Any]]:
        """Return address and body with what was granted."""
        call, asked = self.calls[0], self.paid[0]
        url = str(self.http_request.url)
        model = call.model if call.decision == "downgraded" else None
        address = gemini.address(urlsplit(url).path)
        if model is not None and address is not None:
            url, model = gemini.moved(url, address.model, model), None
        return url, asked.granted(model, call.max_output_tokens)

    def granted(self) -> Any:
        """Return the request with what was granted; the caller's own objects stay as they are."""
        url, body = self.grant()
        if self.paid[0].cap is None:
            body = self.http_request.data
        return dataclasses.replace(self.http_request, url=url, data=body)

    def settle(self, answer: Any) -> None:
        """Settle by the answer, or see to it that it is settled as it is read."""
        said = answer.response_stream
        if isinstance(said, list):
            self.settle_body(said[0] if said else "")
        else:
            answer.__class__ = _metered(kind_of(answer))
            answer._fluxai = Meter(self.calls[0])

    def settle_body(self, said: str | bytes) -> None:
        """Settle by a whole body."""
        call = self.calls[0]
        body = object_in(said)
        self.state.carry(body)
        if not body or (self.paid[0].cap is None and "no_usage" in Usage.parse(body).flags):
            # Vectors say nothing of what they cost.
            call.settle_expected()
        else:
            call.settle_result(body)


# -- streams ----------------------------------------------------------------------------------


@functools.cache
def _metered(kind: Any) -> type:
    """Return the subclass of the SDK's response whose stream passes a meter."""

    class Metered(kind):  # type: ignore[misc]
        _fluxai: Meter

        def _iter_response_stream(self) -> Iterator[str]:
            meter = self._fluxai
            try:
                for data in super()._iter_response_stream():
                    stopped = _seen(meter, data)
                    yield data
                    _raise(stopped)
                    if meter.overdue and not meter.ended:
                        meter.extend()
            except BaseException as error:
                meter.end(error)
                raise
            meter.end(None)

        async def _aiter_response_stream(self) -> AsyncIterator[str]:
            meter, hops = self._fluxai, self._fluxai.call.governor.hops
            try:
                async for data in super()._aiter_response_stream():
                    stopped = _seen(meter, data)
                    yield data
                    _raise(stopped)
                    if meter.overdue and not meter.ended:
                        await hops.run(meter.extend)
            except GeneratorExit as error:
                # Whoever closes a generator does not wait for it.
                closed = error
                hops.start(lambda: meter.end(closed))
                raise
            except BaseException as error:
                failed = error
                await hops.run(lambda: meter.end(failed))
                raise
            await hops.run(lambda: meter.end(None))

        def __del__(self) -> None:
            let_go(self._fluxai)

    dress(Metered, kind)
    return Metered


def _seen(meter: Meter, data: str) -> StreamStopped | None:
    """Show a chunk to the meter; return what stops the stream, once it is passed on."""
    try:
        meter.see(data.encode())
    except StreamStopped as stopped:
        return stopped
    return None


def _raise(stopped: StreamStopped | None) -> None:
    if stopped is not None:
        raise stopped


class _CarryingMeter(Meter):
    """A meter that remembers how long an interaction has become."""

    def __init__(self, call: Call, state: State) -> None:
        super().__init__(call)
        self._state = state

    def see(self, data: bytes) -> bool:
        """Note an event's data."""
        if b'"interaction.completed"' in data:
            self._state.carry(object_in(data))
        return super().see(data)


# -- the generated stack ----------------------------------------------------------------------


def _generated(getter: Callable[[Any], Any], owner: Any) -> Any:
    """Return a resource of the generated stack, governed."""
    with warnings.catch_warnings(record=True) as caught:
        resource = getter(owner)
    for warning in caught:
        warnings.warn(warning.message, warning.category, stacklevel=2)
    if "_fluxai" not in vars(resource):
        _govern(resource, owner._fluxai)
    return resource


def _govern(resource: Any, state: State) -> None:
    for name, inner in vars(resource).items():
        # Not what it is a part of: a root that nobody is handed.
        if name != "parent_ref" and hasattr(inner, "sdk_configuration"):
            _govern(inner, state)
    resource.__class__ = _resource_class(kind_of(resource))
    resource._fluxai = state


@functools.cache
def _resource_class(kind: Any) -> type:
    """Return the subclass of a resource's class whose requests are governed."""

    class Governed(kind):  # type: ignore[misc]
        def do_request(self, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            exchange = _generated_exchange(self._fluxai, request)
            send = functools.partial(super().do_request, hook_ctx)
            if exchange is None:
                return send(request, *args, **kwargs)
            return exchange.run(lambda: send(exchange.granted(), *args, **kwargs))

        async def do_request_async(
            self, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any
        ) -> Any:
            exchange = _generated_exchange(self._fluxai, request)
            send = functools.partial(super().do_request_async, hook_ctx)
            if exchange is None:
                return await send(request, *args, **kwargs)
            return await exchange.run_async(lambda: send(exchange.granted(), *args, **kwargs))

    dress(Governed, kind)
    return Governed


def _generated_exchange(state: State, request: Any) -> _GeneratedRequest | None:
    call = _paid(state, request.method, request.url, object_in(request.content))
    return None if call is None else _GeneratedRequest(state, request, call)


class _GeneratedRequest(_Request):
    """One request of the generated stack: an HTTP client's own request and response."""

    def granted(self) -> Any:
        """Return the request with what was granted."""
        request = self.http_request
        url, body = self.grant()
        headers = [item for item in request.headers.raw if item[0].lower() != b"content-length"]
        return type(request)(
            request.method,
            url,
            headers=headers,
            content=json.dumps(body).encode(),
            extensions=request.extensions,
        )

    def settle(self, answer: Any) -> None:
        """Settle by the answer, or see to it that it is settled as it is read."""
        if answer.status_code >= _OK_BELOW:
            # Raised by the SDK as it reads the answer.
            for call in self.calls:
                call.release()
        elif hasattr(answer, "_content"):
            self.settle_body(answer.content)
        else:
            tap(answer, _CarryingMeter(self.calls[0], self.state))
