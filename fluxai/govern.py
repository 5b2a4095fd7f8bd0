"""`@governor.govern(…)`: any function that makes a paid call, governed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from fluxai.core.errors import InvalidRequest
from fluxai.guard import Call, Stream, begin

if TYPE_CHECKING:
    from fluxai.governor import Governor

F = TypeVar("F", bound=Callable[..., Any])

_CAPS = ("max_tokens", "max_output_tokens", "max_completion_tokens")
_PROMPTS = ("prompt", "messages", "input", "contents")


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
    absent, and the prompt is found in `prompt`, `messages`, `input` or `contents`. What it returns
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
        binding = _Binding(
            function,
            {"tenant": tenant, "user": user, "labels": labels},
            model=model,
            tool=tool,
            units=units,
        )
        wrapped: Any = _wrapper(governor, function, binding)
        return wrapped  # type: ignore[no-any-return]

    return decorate


class _Binding:
    """How a function's arguments become a request, and what was granted becomes its arguments."""

    def __init__(
        self,
        function: Callable[..., Any],
        subject: dict[str, Any],
        *,
        model: str | None,
        tool: str | None,
        units: int | None,
    ) -> None:
        self._signature = inspect.signature(function)
        names = self._signature.parameters
        self._subject = subject
        self._model, self._tool, self._units = model, tool, units
        self._takes_model = "model" in names and tool is None
        self._cap = next((name for name in _CAPS if name in names), None)
        self._prompt = next((name for name in _PROMPTS if name in names), None)
        self._takes_tools = "tools" in names and tool is None
        if model is None and tool is None and not self._takes_model:
            raise InvalidRequest(
                "model",
                f"{getattr(function, '__name__', function)} has no parameter 'model'; say which "
                f"model or tool it pays for: govern(model=…) or govern(tool=…)",
            )

    def request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Turn a call's arguments into what `reserve` takes."""
        given = self._signature.bind_partial(*args, **kwargs)
        given.apply_defaults()
        values = given.arguments
        if self._tool is not None:
            return {**self._subject, "tool": self._tool, "units": self._units}
        request = dict(self._subject)
        request["model"] = (values.get("model") if self._takes_model else None) or self._model
        if request["model"] is None:
            raise InvalidRequest("model", "the call names no model, and govern() was given none")
        request["fixed_tool"] = not self._takes_model
        if self._cap is not None:
            request["max_output_tokens"] = values.get(self._cap)
        if self._prompt is not None:
            said = values.get(self._prompt)
            request["prompt" if isinstance(said, str) else "messages"] = said
        if self._takes_tools:
            request["tools"] = values.get("tools")
        return request

    def granted(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put what was granted into the call's arguments."""
        changes: dict[str, Any] = {}
        if self._takes_model:
            changes["model"] = call.model
        if self._cap is not None:
            bound = self._signature.bind_partial(*args, **kwargs)
            if bound.arguments.get(self._cap) is None and call.max_output_tokens is not None:
                changes[self._cap] = call.max_output_tokens
        if not changes:
            return args, kwargs
        bound = self._signature.bind_partial(*args, **kwargs)
        bound.arguments.update(changes)
        return bound.args, bound.kwargs


def _wrapper(governor: Governor, function: Any, binding: _Binding) -> Any:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def async_stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            request = binding.request(args, kwargs)
            call = await governor.hops.hold(lambda: begin(governor, request), Call.release)
            granted, named = binding.granted(call, args, kwargs)
            async for chunk in _governed_async(call, function(*granted, **named)):
                yield chunk

        return async_stream
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            request = binding.request(args, kwargs)
            hops = governor.hops
            call = await hops.hold(lambda: begin(governor, request), Call.release)
            try:
                granted, named = binding.granted(call, args, kwargs)
                result = await function(*granted, **named)
            except BaseException as error:
                failed = error
                await hops.run(lambda: call.end(failed))
                raise
            if isinstance(result, AsyncIterator):
                return _governed_async(call, result)
            await hops.run(lambda: call.settle_result(result))
            return result

        return coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            call = begin(governor, binding.request(args, kwargs))
            granted, named = binding.granted(call, args, kwargs)
            yield from _governed(call, function(*granted, **named))

        return stream

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        call = begin(governor, binding.request(args, kwargs))
        try:
            granted, named = binding.granted(call, args, kwargs)
            result = function(*granted, **named)
        except BaseException as error:
            call.end(error)
            raise
        if isinstance(result, Iterator):
            return _governed(call, result)
        call.settle_result(result)
        return result

    return plain


def _governed(call: Call, chunks: Iterator[Any]) -> Iterator[Any]:
    """Pass a stream's chunks on, and settle it once, however it ends."""
    stream = Stream(call)
    error: BaseException | None = None
    try:
        for chunk in chunks:
            if stream.took(chunk):
                stream.extend()
            yield chunk
    except BaseException as raised:
        error = raised
        raise
    finally:
        stream.end(error)
        close = getattr(chunks, "close", None)
        if close is not None:
            close()


async def _governed_async(call: Call, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Pass an async stream's chunks on, and settle it once, however it ends."""
    stream = Stream(call)
    hops = call._governor.hops
    error: BaseException | None = None
    try:
        async for chunk in chunks:
            if stream.took(chunk):
                await hops.run(stream.extend)
            yield chunk
    except BaseException as raised:
        error = raised
        raise
    finally:
        failed = error
        await hops.run(lambda: stream.end(failed))
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
