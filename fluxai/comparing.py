"""`@governor.compare(…)`: a sampled share of calls is answered by both models, and judged."""

from __future__ import annotations

import functools
import inspect
import logging
import random as random_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from fluxai.arguments import check_text
from fluxai.context import running_as_asked, subject, surroundings
from fluxai.core.errors import InvalidRequest, Refused
from fluxai.core.ids import uuid_text
from fluxai.planning import DEFAULT_TENANT
from fluxai.routing.outcomes import Outcome

if TYPE_CHECKING:
    from fluxai.governor import Governor

log = logging.getLogger("fluxai")

F = TypeVar("F", bound=Callable[..., Any])
#: (prompt, answer of the model asked for, answer of the cheaper one) to the quality of each, 0 to 1.
Judge = Callable[[Any, Any, Any], Any]

#: The label of the calls to the cheaper model: a policy on it is the budget of comparing.
COMPARING: Final = "comparing"
_PROMPTS: Final = ("prompt", "messages", "input", "contents")


class _Sample(NamedTuple):
    """A call that is answered by both models."""

    prompt: Any
    asked: str
    score: float
    #: Ids of the calls that answered it, where they are known.
    calls: Sequence[int] = ()


def compare(
    governor: Governor,
    *,
    cheap: str,
    judge: Judge,
    asked: str | None = None,
    share: float = 0.05,
    tenant: str | None = None,
    random: Callable[[], float] = random_module.random,
) -> Callable[[F], F]:
    """Decorate a function that answers a prompt with a model; see `Governor.compare`."""
    check_text("cheap", cheap)
    if not callable(judge):
        raise InvalidRequest("judge", f"must be a function, got {type(judge).__name__}")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise InvalidRequest("share", f"must be a number from 0 to 1, got {share!r:.60}")

    def decorate(function: F) -> F:
        comparing = _Comparing(governor, function, cheap, judge, asked, share, tenant, random)
        wrapped: Any = comparing.wrapper()
        return wrapped  # type: ignore[no-any-return]

    return decorate


class _Comparing:
    """One function whose calls are compared."""

    def __init__(
        self,
        governor: Governor,
        function: Callable[..., Any],
        cheap: str,
        judge: Judge,
        asked: str | None,
        share: float,
        tenant: str | None,
        random: Callable[[], float],
    ) -> None:
        self._governor = governor
        self._function = function
        self._cheap = cheap
        self._judge = judge
        self._asked = asked
        self._share = share
        self._tenant = tenant
        self._random = random
        self._signature = inspect.signature(function)
        if "model" not in self._signature.parameters:
            raise InvalidRequest(
                "function",
                f"{getattr(function, '__qualname__', function)!r} has no parameter 'model', so that "
                f"it can't be asked to answer with another one",
            )

    def wrapper(self) -> Callable[..., Any]:
        """Return what stands in for the function."""
        function = self._function
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidRequest(
                "function", "is a stream; compare a function that returns the whole answer"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def answered_later(*args: Any, **kwargs: Any) -> Any:
                sample = self._sampled(args, kwargs)
                if sample is None:
                    return await function(*args, **kwargs)
                with running_as_asked() as calls:
                    answer = await self._asking(sample.asked, args, kwargs)
                await self._compare_later(sample._replace(calls=calls), answer, args, kwargs)
                return answer

            return answered_later

        @functools.wraps(function)
        def answered(*args: Any, **kwargs: Any) -> Any:
            sample = self._sampled(args, kwargs)
            if sample is None:
                return function(*args, **kwargs)
            with running_as_asked() as calls:
                answer = self._asking(sample.asked, args, kwargs)
            self._compare(sample._replace(calls=calls), answer, args, kwargs)
            return answer

        return answered

    def _sampled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Sample | None:
        """Draw whether a call is compared, and look what it asks.

        The draw looks at nothing of the call: what is compared has to be like what is not.
        """
        if self._random() >= self._share:
            return None
        bound = self._signature.bind_partial(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        prompt = next((values[name] for name in _PROMPTS if values.get(name)), None)
        asked = values.get("model") or self._asked
        if prompt is None or asked is None or asked == self._cheap:
            return None
        try:
            score = self._governor.routing.score(prompt)
        except Exception as error:  # noqa: BLE001 -- the call itself needs no analyzer
            self._failed(error)
            return None
        return _Sample(prompt, asked, score)

    def _asking(self, model: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the function with a model, wherever among its arguments that stands."""
        bound = self._signature.bind(*args, **kwargs)
        bound.arguments["model"] = model
        return self._function(*bound.args, **bound.kwargs)

    def _downgraded(self, calls: Sequence[int]) -> bool:
        """Say whether a call ran on another model than it asked for: it says nothing of that one."""
        known = (self._governor._find(None, call) for call in calls)
        return any(found is not None and found.decision == "downgraded" for found in known)

    def _compare(
        self, sample: _Sample, answer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Answer with the cheaper model too, and keep what the judge says of both."""
        try:
            if self._downgraded(sample.calls):
                log.info(
                    "a comparison was left out, the call ran on another model than it asked for"
                )
                return
            with running_as_asked() as calls, subject(**{COMPARING: self._cheap}):
                other = self._asking(self._cheap, args, kwargs)
            if self._downgraded(calls):
                log.info("a comparison was left out, there is another model instead of the cheaper")
                return
            self._keep(sample, self._judge(sample.prompt, answer, other))
        except Refused as refused:
            log.info("a comparison was left out, there is no budget for it: %s", refused)
        except Exception as error:  # noqa: BLE001 -- the caller has its answer already
            self._failed(error)

    async def _compare_later(
        self, sample: _Sample, answer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        try:
            run = self._governor.hops.run
            if await run(lambda: self._downgraded(sample.calls)):
                log.info(
                    "a comparison was left out, the call ran on another model than it asked for"
                )
                return
            with running_as_asked() as calls, subject(**{COMPARING: self._cheap}):
                other = await self._asking(self._cheap, args, kwargs)
            if await run(lambda: self._downgraded(calls)):
                log.info("a comparison was left out, there is another model instead of the cheaper")
                return
            said = self._judge(sample.prompt, answer, other)
            if isinstance(said, Awaitable):
                said = await said
            await run(lambda: self._keep(sample, said))
        except Refused as refused:
            log.info("a comparison was left out, there is no budget for it: %s", refused)
        except Exception as error:  # noqa: BLE001 -- the caller has its answer already
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._governor.failed_comparisons += 1
        log.error("a comparison with %s failed: %s", self._cheap, error, exc_info=error)

    def _keep(self, sample: _Sample, said: Any) -> None:
        first, second = (_judged(one) for one in said)
        governor = self._governor
        tenant = self._tenant or surroundings.get().tenant or DEFAULT_TENANT
        name = governor.routing.canonical
        at_us = governor._now()
        outcome = Outcome(
            id=uuid_text(sample.calls[0] if sample.calls else governor._ids(at_us)),
            at_us=at_us,
            score=sample.score,
            qualities={
                name(tenant, sample.asked): first,
                name(tenant, self._cheap): second,
            },
            source="comparison",
        )
        governor.routing.add(tenant, [outcome])


def _judged(quality: Any) -> float:
    if not isinstance(quality, (bool, int, float)) or not 0 <= quality <= 1:
        raise InvalidRequest(
            "judge", f"must return two qualities from 0 to 1, or truths, got {quality!r:.60}"
        )
    return float(quality)
