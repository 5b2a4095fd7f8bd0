"""The SDKs of OpenAI and Anthropic, governed at the one method that all their requests pass.

Both are made by the same generator: every resource ends in `client.request(cast_to, options, …)`,
which retries by itself. A wrapped client is a copy of the caller's whose class overrides that
method (see `sending`), so that `parse`, `stream`, `with_raw_response`, `beta` and Azure are governed too, a call is
one reservation however often it is tried, and the types are what they were.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from fluxai.context import already_held
from fluxai.core.errors import FluxAIError, NotGoverned, UnknownModel
from fluxai.guard import Call, CallArguments
from fluxai.providers import paid
from fluxai.providers.disguise import dress, kind_of, refuse_socket, refuse_ungoverned
from fluxai.providers.events import object_in
from fluxai.providers.exchange import Exchange, Payer, Terms, attempts_now
from fluxai.providers.follower import Follower
from fluxai.providers.meter import Meter
from fluxai.providers.paid import PaidCall
from fluxai.providers.taps import tap

C = TypeVar("C")

log = logging.getLogger("fluxai")

#: How long the money of an answer that comes later stays held: as long as a batch may take.
DEFERRED_TTL = "25h"
#: Answers to come, and conversations to go on with, that a client remembers.
REMEMBERED_MAX = 10_000

#: Requests that cost nothing by themselves. Dots between slashes lead elsewhere.
_FREE = re.compile(
    r"(?!.*/(\.|%2[Ee]))/(v1/)?(moderations|files|uploads(/.*)?|conversations(/.*)?"
    r"|responses/input_tokens|chat/completions/[^/]+"
    r"|batches/[^/]+/cancel|fine_tuning/jobs/[^/]+/(cancel|pause|resume)"
    r"|messages/count_tokens|messages/batches/[^/]+/cancel)"
)
#: Servers that take the output cap under its newer name.
_RENAMED_CAP = (".openai.com", ".azure.com")
#: What is opened as a web socket, and the resources in which that may be.
_SOCKETS = ("beta", "live", "realtime", "responses")


class State:
    """What a wrapped client knows, its copies included."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        #: By id: the holds of answers that are asked for later.
        self.deferred: OrderedDict[str, list[Call]] = OrderedDict()
        #: By id: who asked for an answer that comes later, and pays for it.
        self.payers: OrderedDict[str, Payer] = OrderedDict()
        #: By id of a response or a conversation: the tokens that it goes on with.
        self.carried: OrderedDict[str, int] = OrderedDict()
        #: The address that a request was sent to last, and the deployment in it.
        self.address: tuple[Any, str | None] = (None, None)

    def defer(self, answer_id: str, calls: list[Call]) -> None:
        """Keep holds until their answer is asked for."""
        self.deferred[answer_id] = calls
        _forget_some(self.deferred)
        if calls:
            asked = calls[0].reservation.subject
            self.payers[answer_id] = Payer(
                tenant=asked.tenant, user=asked.user, labels=self.terms.labels
            )
            _forget_some(self.payers)

    def carry(self, answer: Any) -> None:
        """Remember how long a conversation has become."""
        total = _get(_get(answer, "usage"), "total_tokens")
        if type(total) is not int:
            return
        for known in (_get(answer, "id"), _get(_get(answer, "conversation"), "id")):
            if isinstance(known, str):
                self.carried[known] = total
                _forget_some(self.carried)


def _forget_some(remembered: OrderedDict[str, Any]) -> None:
    while len(remembered) > REMEMBERED_MAX:
        remembered.popitem(last=False)


def wrap_stainless(client: C, terms: Terms) -> C:
    """Return a governed copy of an OpenAI or Anthropic client; it shares its connections."""
    copied: Any = client.copy()  # type: ignore[attr-defined]
    copied.__class__ = governed_class(kind_of(client))
    copied._fluxai = State(terms)
    return copied  # type: ignore[no-any-return]


@functools.cache
def governed_class(kind: Any) -> type:
    """Return the subclass of a client's class whose requests are governed."""
    is_async = any(base.__name__ == "AsyncAPIClient" for base in kind.__mro__)
    governed: type = (_async_class if is_async else _sync_class)(kind)
    _share(governed, kind)
    dress(governed, kind)
    _close_sockets(governed, kind)
    return governed


def sending(kind: Any) -> str:
    """Name the method of a client's class that all requests pass, in the form in which they are sent.

    Newer SDKs of Anthropic's put them into that form in `request`. What can be read but once, such
    as messages that a generator makes, may be read by nobody before.
    """
    return "_request" if hasattr(kind, "_copy_and_prepare") else "request"


def _sync_class(kind: Any) -> type:
    name = sending(kind)

    class Governed(kind):  # type: ignore[misc]
        def _attempt_request(self, options: Any, *args: Any, **kwargs: Any) -> Any:
            send = super()._attempt_request
            exchange = exchange_for(self, options) if has_middleware(self) else None
            if exchange is None:
                return send(options, *args, **kwargs)
            try:
                return exchange.run(lambda: answered(send(exchange.options(), *args, **kwargs)))
            except NotAnswered as refused:
                return refused.attempt

        def _process_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return super()._process_response(*args, **kwargs)
            except Exception:
                note_answer(kwargs.get("response"))
                raise

    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        send = functools.partial(getattr(super(Governed, self), name), cast_to)
        exchange = None if has_middleware(self) else exchange_for(self, options)
        if exchange is None:
            return send(options, *args, **kwargs)
        return exchange.run(lambda: send(exchange.options(), *args, **kwargs))

    setattr(Governed, name, request)
    return Governed


def _async_class(kind: Any) -> type:
    name = sending(kind)

    class Governed(kind):  # type: ignore[misc]
        async def _attempt_request(self, options: Any, *args: Any, **kwargs: Any) -> Any:
            send = super()._attempt_request
            exchange = exchange_for(self, options) if has_middleware(self) else None
            if exchange is None:
                return await send(options, *args, **kwargs)

            async def sent() -> Any:
                return answered(await send(exchange.options(), *args, **kwargs))

            try:
                return await exchange.run_async(sent)
            except NotAnswered as refused:
                return refused.attempt

        async def _process_response(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super()._process_response(*args, **kwargs)
            except Exception:
                note_answer(kwargs.get("response"))
                raise

    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        send = functools.partial(getattr(super(Governed, self), name), cast_to)
        exchange = None if has_middleware(self) else exchange_for(self, options)
        if exchange is None:
            return await send(options, *args, **kwargs)
        return await exchange.run_async(lambda: send(exchange.options(), *args, **kwargs))

    setattr(Governed, name, request)
    return Governed


def has_middleware(client: Any) -> bool:
    """Say whether functions of the caller's stand between a request and what is sent.

    They may send it several times, and change it, to another model for example. So there each
    attempt is a call of its own, and not all of them together.
    """
    return bool(getattr(client, "_middleware", None))


class NotAnswered(Exception):
    """A provider answered an attempt with an error, for which nothing is charged."""

    def __init__(self, attempt: tuple[Any, Any]) -> None:
        super().__init__(attempt)
        self.attempt = attempt


def answered(attempt: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return an attempt, its HTTP response and options, if it was answered.

    Raises:
        NotAnswered: The provider answered with an error.
    """
    if not attempt[0].is_success:
        raise NotAnswered(attempt)
    return attempt


def _share(governed: Any, kind: Any) -> None:
    """Give a class what sync and async clients have in common, apart from `request`.

    Not by a base of their own: an instance can only change to a class that adds none.
    """

    def copy(self: Any, *args: Any, **kwargs: Any) -> Any:
        copied = kind.copy(self, *args, **kwargs)
        copied.__class__ = type(self)
        copied._fluxai = self._fluxai
        return copied

    def _calculate_retry_timeout(self: Any, *args: Any, **kwargs: Any) -> Any:
        note_lost_attempt()
        return kind._calculate_retry_timeout(self, *args, **kwargs)

    governed.copy = governed.with_options = copy
    governed._calculate_retry_timeout = _calculate_retry_timeout


def note_lost_attempt() -> None:
    """Count an attempt that may have been charged: the SDK handles its error, to try again."""
    attempts, error = attempts_now.get(), sys.exception()
    if attempts is not None and error is not None:
        attempts.fail(error)
        attempts.start()


def note_answer(response: Any) -> None:
    """Keep an answer that came, and is charged, though the SDK fails at what the caller made of it.

    So it is where a structured answer was cut off by its cap, or does not fit its model.
    """
    attempts = attempts_now.get()
    if attempts is not None and getattr(response, "is_success", False):
        attempts.answer = response


def exchange_for(client: Any, options: Any) -> Request | None:
    """Return how a request is governed; None where it costs nothing, or is governed already."""
    state: State = client._fluxai
    method, path = str(options.method).lower(), _path(str(options.url))
    if already_held.get():
        return None
    if method != "post":
        return _Later(state, options, path) if method == "get" else None
    if _Later.CANCELS.fullmatch(path):
        return _Later(state, options, path)
    calls = _paid(client, state, path, options)
    if calls is None:
        if _FREE.fullmatch(path) or state.terms.allows_ungoverned:
            return None
        refuse_ungoverned(f"POST {path}")
    deployment = _deployment(client, state)
    if deployment is not None and _is_model(state, deployment):
        for call in calls:
            call.arguments["model"] = deployment
    return Request(state, options, path, calls, fixed_model=deployment is not None)


def _deployment(client: Any, state: State) -> str | None:
    """Return the Azure deployment in a client's address: it runs, whatever a body says.

    The attribute that Azure's client has for it gets lost in copies, and others have none.
    """
    address, known = client.base_url, state.address
    if known[0] is not address:
        found = re.search(r"/deployments/([^/]+)", address.path)
        known = state.address = (address, found[1] if found else None)
    return known[1]


def _is_model(state: State, name: str) -> bool:
    """Say whether a deployment is called as a model is, rather than by a name of its own."""
    try:
        state.terms.governor.registry.get(name)
    except UnknownModel:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _path(url: str) -> str:
    """Return a request's path without base, query and deployment."""
    path = url.split("?", 1)[0]
    path = re.sub(r"^https?://[^/]+", "", path)
    return re.sub(r"^/openai/deployments/[^/]+", "", path)


def _paid(client: Any, state: State, path: str, options: Any) -> list[PaidCall] | None:
    body = options.json_data
    body = body if isinstance(body, Mapping) else {}
    extra = getattr(options, "extra_json", None)
    if isinstance(extra, Mapping):
        body = {**body, **extra}
    match path.removeprefix("/v1"):
        case "/messages":
            return [paid.messages(body)]
        case "/messages/batches":
            return paid.batch_requests(body)
        case "/chat/completions":
            return [paid.chat(body, cap=functools.partial(cap_key, client))]
        case "/responses":
            return [paid.responses(body, state.carried)]
        case "/completions":
            return [paid.completions(body)]
        case "/embeddings":
            return [paid.embeddings(body)]
        case "/images/generations" | "/images/edits" | "/images/variations":
            return [paid.images(body)]
        case "/audio/speech":
            return [paid.speech(body)]
        case "/audio/transcriptions" | "/audio/translations":
            return [paid.recording(body, _bytes_sent(options.files))]
    return None


def cap_key(client: Any) -> str:
    """Return under which key a server takes the cap: OpenAI renamed it, others did not follow."""
    host = f".{getattr(getattr(client, 'base_url', None), 'host', '')}"
    return "max_completion_tokens" if host.endswith(_RENAMED_CAP) else "max_tokens"


def _bytes_sent(files: Any) -> int:
    """Return how long the files of a request are."""
    total = 0
    entries = files.values() if isinstance(files, Mapping) else [entry for _, entry in files or ()]
    for entry in entries:
        content = entry[1] if isinstance(entry, tuple) else entry
        if isinstance(content, (bytes, bytearray)):
            total += len(content)
        elif hasattr(content, "seek"):
            at = content.tell()
            total += content.seek(0, os.SEEK_END) - at
            content.seek(at)
    return total


class Request(Exchange):
    """One request, and its answer."""

    def __init__(
        self,
        state: State,
        options: Any,
        path: str,
        calls: list[PaidCall],
        *,
        fixed_model: bool = False,
    ) -> None:
        super().__init__(state.terms, calls)
        self.state = state
        self._fixed_model = fixed_model
        self._options = options
        self._path = path

    def request_for(self, call: PaidCall) -> CallArguments:
        """Return what `reserve` takes for a call."""
        request = super().request_for(call)
        if call.deferred or len(self.paid) > 1 or self._path.endswith("/batches"):
            request["ttl"] = DEFERRED_TTL
            request["fixed_tool"] = True
        elif self._fixed_model:
            request["fixed_tool"] = True
        return request

    def options(self) -> Any:
        """Return the request's options with what was granted; the caller's own stay as they are."""
        if self._path.endswith("/batches"):
            return self._options
        call, asked = self.calls[0], self.paid[0]
        model = call.model if call.decision == "downgraded" else None
        body = asked.granted(model, call.max_output_tokens)
        if body == self._options.json_data:
            return self._options
        options = self._options.model_copy()
        options.json_data = body
        if getattr(options, "extra_json", None):
            options.extra_json = None
        return options

    def settle(self, answer: Any) -> None:
        """Settle by the answer, or see to it that it is settled as it is read."""
        response = _http_response(answer)
        if self._path.endswith("/batches") or self.paid[0].deferred:
            if response is None:
                self._put_off(answer)
            else:
                tap(
                    response,
                    Follower(self.governor, lambda said: self._put_off(_response_in(said))),
                )
            return
        call, asked = self.calls[0], self.paid[0]
        if response is not None:
            tap(response, self._meter(call, asked))
        elif isinstance(answer, str):
            # A transcription as plain text tells nothing of its cost.
            call.settle_expected()
        else:
            call.settle_result(asked.told(answer))
            if self._path.endswith("/responses"):
                self.state.carry(answer)

    def _meter(self, call: Call, asked: PaidCall) -> Meter:
        if self._path.endswith("/responses"):
            return _CarryingMeter(call, self.state)
        return Meter(call, hides_usage=asked.hides_usage, told=asked.told)

    def _put_off(self, answer: Any) -> None:
        """Keep the holds for an answer that comes later; one that is here already ends them."""
        answer_id = _get(answer, "id")
        if not isinstance(answer_id, str):
            for call in self.calls:
                call.settle_result(answer) if answer else call.settle_expected()
        elif _get(answer, "usage") is None:
            self.state.defer(answer_id, self.calls)
        elif _get(answer, "background"):
            self.state.defer(answer_id, self.calls)
            _Later(self.state, self._options, f"/responses/{answer_id}").enter(answer)
        else:
            # The server took no notice of `background`: nobody is going to ask again.
            self.calls[0].settle_result(answer)


class _CarryingMeter(Meter):
    """A meter that remembers how long a conversation has become."""

    def __init__(self, call: Call, state: State) -> None:
        super().__init__(call)
        self._state = state

    def see(self, data: bytes) -> bool:
        """Note an event's data."""
        if b'"response.completed"' in data or b'"response.incomplete"' in data:
            self._state.carry(_response_in(data))
        return super().see(data)

    def answer(self, body: bytes) -> None:
        """Settle at a whole body."""
        self._state.carry(_response_in(body))
        super().answer(body)


class _Later(Request):
    """A request for an answer that was put off: a background response, or a batch's results."""

    _RESPONSE = re.compile(r"(/v1)?/responses/([^/]+)(/cancel)?")
    CANCELS = re.compile(r"(/v1)?/responses/[^/]+/cancel")
    _RESULTS = re.compile(r"(/v1)?/messages/batches/([^/]+)/results")

    def __init__(self, state: State, options: Any, path: str) -> None:
        super().__init__(state, options, path, [])
        response, results = self._RESPONSE.fullmatch(path), self._RESULTS.fullmatch(path)
        self._response_id = response[2] if response else None
        self._batch_id = results[2] if results else None
        self._unentered = False

    def options(self) -> Any:
        """Return the request's options."""
        return self._options

    def settle(self, answer: Any) -> None:
        """Record what was put off, and let its hold go; or do so as it is read."""
        if self._response_id is None and self._batch_id is None:
            return
        if hasattr(answer, "_raw_iterator"):
            _read_results(answer, self)
            return
        response = _http_response(answer)
        if response is not None:
            take = self._enter_lines if self._batch_id is not None else self._enter_body
            tap(response, Follower(self.governor, take))
        elif self._response_id is not None:
            self.enter(answer)
        else:
            raise NotGoverned("these results can't be followed; enter them with record()")

    def enter(self, answer: Any) -> None:
        """Record a background response if it has ended, and let its hold go."""
        if self._response_id is None or not _get(answer, "background"):
            return
        if _get(answer, "usage") is not None:
            self._record(f"openai/{self._response_id}", answer)
            self._let_go(self._response_id)
        elif _get(answer, "status") in ("failed", "cancelled"):
            self._let_go(self._response_id)

    def _enter_body(self, body: bytes) -> None:
        self.enter(_response_in(body))

    def _enter_lines(self, body: bytes) -> None:
        if body:
            for line in body.split(b"\n"):
                self.result(line)
            self.results_read()

    def result(self, line: bytes) -> None:
        """Record one line of a batch's results. Never raises: it is read all the same."""
        entry = object_in(line)
        message = _get(entry.get("result"), "message")
        if not message:
            return
        try:
            self._record(f"anthropic/{self._batch_id}/{entry.get('custom_id')}", message)
        except FluxAIError as error:
            self._unentered = True
            self.governor.settle_errors += 1
            log.error("a result of a batch could not be recorded: %s", error)  # noqa: TRY400

    def results_read(self) -> None:
        """Let the holds of a batch go, once all of its results are recorded. Never raises."""
        if self._batch_id is None or self._unentered:
            return
        try:
            self._let_go(self._batch_id)
        except FluxAIError as error:
            self.governor.settle_errors += 1
            log.error("the holds of a batch could not be released: %s", error)  # noqa: TRY400

    def _record(self, event_id: str, answer: Any) -> None:
        # By id, so that whoever asks for an answer, and how often, it is charged once.
        answer_id = self._response_id or self._batch_id
        payer = self.state.payers.get(str(answer_id), self.terms.payer)
        self.governor.record(answer, id=event_id, **payer)

    def _let_go(self, answer_id: str) -> None:
        for call in self.state.deferred.pop(answer_id, []):
            call.release()


def _read_results(answer: Any, later: _Later) -> None:
    """Have each line of a batch's results recorded as it is read."""
    lines = answer._raw_iterator

    def followed(inner: Iterator[bytes]) -> Iterator[bytes]:
        rest = b""
        for chunk in inner:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                later.result(line)
            yield chunk
        later.result(rest)
        later.results_read()

    async def followed_async(inner: Any) -> Any:
        hops, rest = later.governor.hops, b""
        async for chunk in inner:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                await hops.run(functools.partial(later.result, line))
            yield chunk
        await hops.run(lambda: later.result(rest))
        await hops.run(later.results_read)

    answer._raw_iterator = followed_async(lines) if hasattr(lines, "__anext__") else followed(lines)


def _response_in(said: bytes) -> dict[str, Any]:
    """Return the object that a body is, or the response that an event holds."""
    found: dict[str, Any] = object_in(said)
    inner = found.get("response")
    return inner if isinstance(inner, dict) else found


def _get(answer: Any, name: str) -> Any:
    return answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)


def _http_response(answer: Any) -> Any:
    """Return the HTTP response of an answer that is a stream, raw, or bytes; else None."""
    if type(answer) is tuple:  # one attempt: its response, and its options
        return answer[0]
    # A model takes long to say what it lacks, and its class to say what it has.
    if hasattr(type(answer), "__pydantic_validator__"):
        return None
    for name in ("http_response", "response"):
        found = getattr(answer, name, None)
        if hasattr(found, "iter_bytes") and hasattr(found, "headers"):
            return found
    return answer if hasattr(answer, "iter_bytes") and hasattr(answer, "headers") else None


# -- what can't be governed -------------------------------------------------------------------


def _close_sockets(governed: type, kind: type) -> None:
    """Refuse web sockets, in a class and in the resources that it leads to."""
    for name, refusing in without_sockets(kind).items():
        setattr(governed, name, refusing)


def without_sockets(kind: type) -> dict[str, Any]:
    """Return what takes the place of a class's attributes that lead to web sockets."""
    found: dict[str, Any] = {"connect": refuse_socket} if hasattr(kind, "connect") else {}
    for name in _SOCKETS:
        inherited = getattr(kind, name, None)
        getter = getattr(inherited, "func", None) or getattr(inherited, "fget", None)
        if getter is not None:
            found[name] = property(functools.partial(_without_sockets, getter))
    return found


def _without_sockets(getter: Callable[[Any], Any], owner: Any) -> Any:
    resource = getter(owner)
    resource.__class__ = _socketless(kind_of(resource))
    return resource


@functools.cache
def _socketless(kind: Any) -> type:
    made = type(kind.__name__, (kind,), {})
    dress(made, kind)
    _close_sockets(made, kind)
    return made
