"""One request after another until a model answers: the way there, apart from how it is awaited.

The way is a generator that yields what to ask and is handed what came of it, so that it is written
once for code that waits and for code that awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fluxai.core.attempts import Attempt
from fluxai.core.errors import (
    AllProvidersFailed,
    ApprovalRequired,
    ConfigurationError,
    Refused,
)
from fluxai.core.ledger import MIN_OUTPUT_TOKENS
from fluxai.providers import speaking
from fluxai.providers.clients import is_async
from fluxai.providers.exchange import Exchange, watching

if TYPE_CHECKING:
    from fluxai.core.decisions import Reservation, Settlement
    from fluxai.governor import Governor
    from fluxai.models import Choice, Model
    from fluxai.providers.choosing import Router
    from fluxai.providers.speaking import Question, Said

T = TypeVar("T")

#: Models that are tried for one prompt.
ATTEMPTS_MAX = 4
_ERROR_CHARACTERS = 300
#: Roots of the modules whose errors are those of a provider, or of the way to it.
_PROVIDERS_OWN = frozenset({"openai", "anthropic", "google", "httpx", "httpx2", "aiohttp"})
#: What a provider answers to whoever has no valid key.
_NO_ACCESS = (401, 403)


@dataclass(slots=True)
class Ask:
    """One request to make.

    Attributes:
        client: A wrapped client.
        send: Makes the request; with an async client, returns what is to be awaited.
        exchanges: What became of it.
    """

    client: Any
    send: Callable[[], Any]
    exchanges: list[Exchange] = field(default_factory=list)

    def sent(self) -> Any:
        """Make the request, and return the answer."""
        with self._watched():
            return self.send()

    async def sent_async(self) -> Any:
        """Make the request without holding up the event loop; return the answer."""
        if not is_async(self.client):
            return await asyncio.to_thread(self.sent)
        with self._watched():
            return await self.send()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        token = watching.set(self.exchanges)
        try:
            yield
        finally:
            watching.reset(token)


Talk = Generator[Ask, Any, T]


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    value: T


def run(talk: Talk[T]) -> T:
    """Go the whole way, waiting for each answer."""
    step = _advance(talk, None, None)
    while isinstance(step, Ask):
        answer, error = None, None
        if is_async(step.client):
            talk.close()
            raise ConfigurationError("an async client was handed over; it goes with AsyncGovernor")
        try:
            answer = step.sent()
        except Exception as failed:  # noqa: BLE001 -- the way judges it, and raises what is not its
            error = failed
        step = _advance(talk, answer, error)
    return step.value


async def run_async(governor: Governor, talk: Talk[T]) -> T:
    """Go the whole way, awaiting each answer."""
    hops = governor.hops
    step = await hops.run(lambda: _advance(talk, None, None))
    while isinstance(step, Ask):
        answer, error = None, None
        try:
            answer = await step.sent_async()
        except Exception as failed:  # noqa: BLE001 -- as above
            error = failed
        came, went_wrong = answer, error
        step = await hops.run(lambda: _advance(talk, came, went_wrong))  # noqa: B023 -- run at once
    return step.value


def _advance(talk: Talk[T], answer: Any, error: Exception | None) -> Ask | _Done[T]:
    # A StopIteration could not leave a thread.
    try:
        return talk.send(answer) if error is None else talk.throw(error)
    except StopIteration as ended:
        return _Done(ended.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer, who gave it, and how that came about.

    Attributes:
        said: What it says.
        raw: The SDK's object.
        choice: Why this model was asked.
        asked: Which model was asked.
        reservation: What was reserved; `None` where money is held outside.
        settlement: How it was settled; `None` there, and where the store could not be reached.
        attempts: What failed before.
    """

    said: Said
    raw: Any
    choice: Choice
    asked: Model
    reservation: Reservation | None
    settlement: Settlement | None
    attempts: tuple[Attempt, ...]


def until_answered(
    router: Router,
    choice: Choice,
    client_of: Callable[[str], Any],
    question: Question,
    *,
    draws: bool,
    others: bool = True,
) -> Talk[Answered]:
    """Ask a model, and others in its place where a provider fails.

    Args:
        router: Chooses.
        choice: The model to begin with.
        client_of: Returns a provider's wrapped client.
        question: What is asked.
        draws: Whether a picture is wanted.
        others: Whether another model may answer.

    Raises:
        Refused: A policy refused, and no cheaper model fits.
        AllProvidersFailed: None of the models answered.
    """
    asking = speaking.ask_picture if draws else speaking.ask
    failed: list[Attempt] = []
    tried: list[Model] = []
    dead: set[str] = set()
    last: Exception | None = None
    asked, shortened = question, False
    while choice.record is not None and len(tried) < ATTEMPTS_MAX:
        model = choice.record
        ask = _ask(client_of(model.provider), asking, model, asked)
        asked = question
        tried.append(model)
        raw, error = None, None
        try:
            raw = yield ask
        except Exception as raised:  # noqa: BLE001 -- raised below, unless it is a provider's
            error = raised
        if error is None:
            said = speaking.said_in(model.provider, raw)
            if not draws or said.pictures:
                return _answered(said, raw, choice, model, ask, failed)
            # Whoever won't draw this has answered: nobody else is asked, and paid, in its place.
            failed.append(_attempt(model, ask, "NoPicture", said.text or "no picture came"))
            break
        if isinstance(error, Refused):
            cap = _shorter(error, question)
            if cap is not None and not shortened:
                # Nobody asked for a longer answer: only Anthropic insists on being told some cap.
                asked, shortened = replace(question, max_tokens=cap), True
                continue
            cheaper = _cheaper(router, error, tried) if others else None
            if cheaper is None:
                for attempt in failed:
                    error.add_note(f"before that failed {attempt}")
                raise error
            failed.append(_attempt(model, ask, type(error).__name__, str(error)))
            choice = cheaper
            continue
        if not _is_a_provider_s(error):
            raise error
        last = error
        status = _status(error)
        failed.append(_attempt(model, ask, type(error).__name__, str(error), status))
        if status is None or status in _NO_ACCESS:
            dead.add(model.provider)
        if not others:
            break
        choice = router.after(tried, dead)
    raise AllProvidersFailed(tuple(failed)) from last


def _ask(
    client: Any, asking: Callable[[Any, Model, Question], Any], model: Model, question: Question
) -> Ask:
    return Ask(client, lambda: asking(client, model, question))


def _answered(
    said: Said, raw: Any, choice: Choice, model: Model, ask: Ask, failed: list[Attempt]
) -> Answered:
    call = ask.exchanges[-1].calls[0] if ask.exchanges else None
    return Answered(
        said=said,
        raw=raw,
        choice=choice,
        asked=model,
        reservation=None if call is None else call.reservation,
        settlement=None if call is None else call.settlement,
        attempts=tuple(failed),
    )


def _shorter(refused: Refused, question: Question) -> int | None:
    """Return the output cap that fits, where the caller set none and the answer has room."""
    offer = refused.decision.counter_offer
    if isinstance(refused, ApprovalRequired) or offer is None or question.max_tokens is not None:
        return None
    cap = offer.max_output_tokens
    return cap if cap is not None and cap >= MIN_OUTPUT_TOKENS else None


def _cheaper(router: Router, refused: Refused, tried: list[Model]) -> Choice | None:
    """Return a cheaper able model of which the refusal says that it fits."""
    offer = refused.decision.counter_offer
    if isinstance(refused, ApprovalRequired) or offer is None:
        return None
    ids = {model.id for model in tried}
    choice = router.among(
        model
        for model in router.models.values()
        if model.id in offer.models and model.id not in ids
    )
    return choice if choice.model else None


def _attempt(model: Model, ask: Ask, kind: str, why: str, status: int | None = None) -> Attempt:
    cost = Decimal(0)
    for exchange in ask.exchanges:
        for call in exchange.calls:
            if call.settlement is not None:
                cost += call.settlement.cost
            if exchange.attempts.lost:
                cost += exchange.attempts.lost * call.reservation.estimate.expected
    return Attempt(
        model=model.id,
        provider=model.provider,
        error=" ".join(why.split())[:_ERROR_CHARACTERS],
        kind=kind,
        status=status,
        cost=cost,
    )


def _is_a_provider_s(error: Exception) -> bool:
    """Say whether a provider, or the way to it, failed; other errors are the program's own."""
    if isinstance(error, Warning):
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return any(kind.__module__.partition(".")[0] in _PROVIDERS_OWN for kind in type(error).__mro__)


def _status(error: Exception) -> int | None:
    for name in ("status_code", "code"):
        found = getattr(error, name, None)
        if type(found) is int:
            return found
    return None
