"""`@governor.govern(…)`: any function that makes a paid call, governed."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from fluxai.core.errors import InvalidRequest
from fluxai.guard import Call, CallArguments, begin, begin_async
from fluxai.streams import AsyncGovernedStream, GovernedStream

if TYPE_CHECKING:
    from fluxai.governor import Governor

F = TypeVar("F", bound=Callable[..., Any])

_CAPS = ("max_tokens", "max_output_tokens", "max_completion_tokens")
_PROMPTS = ("prompt", "messages", "input", "contents")
#: Arguments that tell one call of a tool from another; clients and the like do not.
_DATA = (str, int, float, bool, list, tuple, dict)
#: What SDKs pass where an argument is left out.
_LEFT_OUT = frozenset({"NotGiven", "Omit", "NoneType"})


class GovernOptions(TypedDict, total=False):
    """What `govern` takes."""

    model: str | None
    tool: str | None
    tenant: str | None
    user: str | None
    labels: Mapping[str, str] | None
    units: int | None


def govern(
    governor: Governor,
    *,
    model: str | None = None,
    tool: str | None = None,
    tenant: str | None = None,
    user: str | None = None,
    labels: Mapping[str, str] | None = None,
    units: int | None = None,
) -> Callable[[F], F]:
    """Decorate a function, a coroutine function, a generator or an async generator.

    Its own parameters are used: `model` is replaced on a downgrade (a function without one is never
    downgraded), `max_tokens` (or `max_output_tokens`, `max_completion_tokens`) is filled when
    absent or too large, and the prompt is found in `prompt`, `messages`, `input` or `contents`. What it returns
    or yields is settled: by its usage, else by an estimate of what it holds.

    Args:
        governor: Holds the budgets.
        model: The model, unless the call names one.
        tool: Instead, a tool priced by the unit.
        tenant: Whose budgets; otherwise that of the `subject()` block.
        user: Which user of it.
        labels: Labels of every call.
        units: Units of the tool per call; 1 by default.

    Raises, when the function is called: `PolicyDenied`, `BudgetExceeded`, `ApprovalRequired`,
    before its body runs.
    """

    def decorate(function: F) -> F:
        subject = CallArguments(tenant=tenant, user=user, labels=labels)
        binding = _Binding(function, subject, model=model, tool=tool, units=units)
        wrapped: Any = _wrapper(governor, function, binding)
        return wrapped  # type: ignore[no-any-return]

    return decorate


class _Binding:
    """How a function's arguments become a request, and what was granted becomes its arguments."""

    def __init__(
        self,
        function: Callable[..., Any],
        subject: CallArguments,
        *,
        model: str | None,
        tool: str | None,
        units: int | None,
    ) -> None:
        if not callable(function):
            raise InvalidRequest(
                "function", f"govern() decorates functions, got {type(function).__name__}"
            )
        self._name = getattr(function, "__qualname__", repr(function))
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters
        self._rest = next(
            (name for name, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD),
            None,
        )
        named = set(parameters) - {self._rest}
        self._subject = subject
        self._model, self._tool, self._units = model, tool, units
        self._takes_model = tool is None and "model" in named
        self._cap = next((name for name in _CAPS if name in named and tool is None), None)
        #: Parameters that are filled in, and so need not be given.
        self._filled = {"model"} if self._takes_model else set()
        if self._cap is not None:
            self._filled.add(self._cap)
        if model is not None and tool is not None:
            raise InvalidRequest("model", "give either model= or tool=")
        if model is None and tool is None and not self._takes_model and self._rest is None:
            raise InvalidRequest(
                "model",
                f"{self._name} has no parameter 'model'; say which model or tool it pays for: "
                f"govern(model=…) or govern(tool=…)",
            )

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Bound:
        """Bind a call's arguments.

        Raises:
            TypeError: They do not fit the function. Nothing was held.
        """
        bound = self._signature.bind_partial(*args, **kwargs)
        given = dict(bound.arguments)
        rest = given.pop(self._rest, {}) if self._rest is not None else {}
        for name, parameter in self._signature.parameters.items():
            if (
                name not in given
                and name not in self._filled
                and parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            ):
                raise TypeError(f"{self._name}() missing required argument: {name!r}")
        defaults = {
            name: parameter.default
            for name, parameter in self._signature.parameters.items()
            if parameter.default is not parameter.empty
        }
        values = {**defaults, **given, **rest}
        return _Bound(bound, values, self._request(values, rest), self)

    def _request(self, values: Mapping[str, Any], rest: Mapping[str, Any]) -> CallArguments:
        """Turn a call's arguments into what `reserve` takes."""
        request = CallArguments(**self._subject)
        if self._tool is not None:
            said = {name: value for name, value in values.items() if isinstance(value, _DATA)}
            # What a tool is called with binds an approval, and tells repeats apart.
            return {**request, "tool": self._tool, "units": self._units, "messages": said or None}
        request["model"] = _said(values, "model") or self._model
        if request["model"] is None:
            raise InvalidRequest("model", "the call names no model, and govern() was given none")
        request["fixed_tool"] = not self._takes_model and "model" not in rest
        request["max_output_tokens"] = next(
            (value for value in (_said(values, name) for name in _CAPS) if value is not None), None
        )
        prompt = next(
            (value for value in (_said(values, name) for name in _PROMPTS) if value), None
        )
        if isinstance(prompt, str):
            request["prompt"] = prompt
        elif prompt is not None:
            request["messages"] = prompt
        tools = _said(values, "tools")
        if tools:
            request["tools"] = tools
        return request

    def fill(self, call: Call, bound: inspect.BoundArguments, values: Mapping[str, Any]) -> None:
        """Put what was granted into a call's arguments."""
        rest = bound.arguments.get(self._rest, {}) if self._rest is not None else {}
        if self._takes_model:
            bound.arguments["model"] = call.model
        elif self._tool is None and "model" in rest:
            rest["model"] = call.model
        capped = [name for name in _CAPS if _said(values, name) is not None]
        if self._cap is not None and not capped and call.max_output_tokens is not None:
            bound.arguments[self._cap] = call.max_output_tokens
        if call.reservation.shrunk:
            for name in capped:
                (rest if name in rest else bound.arguments)[name] = call.max_output_tokens


class _Bound:
    """One call's arguments, and the request that they make."""

    def __init__(
        self,
        bound: inspect.BoundArguments,
        values: Mapping[str, Any],
        request: CallArguments,
        binding: _Binding,
    ) -> None:
        self._bound = bound
        self._values = values
        self._binding = binding
        self.request = request

    def run(self, function: Callable[..., Any], call: Call) -> Any:
        """Call the function with what was granted."""
        self._binding.fill(call, self._bound, self._values)
        return function(*self._bound.args, **self._bound.kwargs)


def _said(values: Mapping[str, Any], name: str) -> Any:
    """Return an argument; None where it was left out, in whichever way."""
    value = values.get(name)
    return None if type(value).__name__ in _LEFT_OUT else value


def _wrapper(governor: Governor, function: Any, binding: _Binding) -> Any:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def async_stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            bound = binding.bind(args, kwargs)
            call = await begin_async(governor, bound.request)
            try:
                chunks = bound.run(function, call)
            except BaseException as error:
                failed = error
                await governor.hops.run(lambda: call.end(failed))
                raise
            stream = AsyncGovernedStream(call, chunks)
            try:
                async for chunk in stream:
                    yield chunk
            finally:
                await stream.aclose()

        return async_stream
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            bound = binding.bind(args, kwargs)
            call = await begin_async(governor, bound.request)
            return await _finished(call, lambda: bound.run(function, call))

        return coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            bound = binding.bind(args, kwargs)
            call = begin(governor, bound.request, sys.exception())
            return (yield from GovernedStream(call, _started(call, bound, function)))

        return stream

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        bound = binding.bind(args, kwargs)
        call = begin(governor, bound.request, sys.exception())
        result = _started(call, bound, function)
        if inspect.isawaitable(result):
            return _finished(call, lambda: result)
        return _passed_on(call, result)

    return plain


def _started(call: Call, bound: _Bound, function: Callable[..., Any]) -> Any:
    """Call a function; one that fails ends its call."""
    try:
        return bound.run(function, call)
    except BaseException as error:
        call.end(error)
        raise


async def _finished(call: Call, begun: Callable[[], Awaitable[Any]]) -> Any:
    """Await a call's function, and settle what it returns."""
    hops = call.governor.hops
    try:
        result = await begun()
    except GeneratorExit as error:
        # Whoever closes a coroutine does not wait for it.
        closed = error
        hops.start(lambda: call.end(closed))
        raise
    except BaseException as error:
        failed = error
        await hops.run(lambda: call.end(failed))
        raise
    if isinstance(result, (Iterator, AsyncIterator)):
        return _passed_on(call, result)
    await hops.run(lambda: call.settle_result(result))
    return result


def _passed_on(call: Call, result: Any) -> Any:
    """Settle what a function returned, a stream as it is read, and pass it on."""
    if isinstance(result, AsyncIterator):
        return AsyncGovernedStream(call, result)
    if isinstance(result, Iterator):
        return GovernedStream(call, result)
    call.settle_result(result)
    return result
