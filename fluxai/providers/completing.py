"""`smart_complete` and `generate_image`: a prompt is analysed, routed, governed and answered."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from fluxai.arguments import count
from fluxai.context import surroundings
from fluxai.core.errors import ConfigurationError, InvalidRequest, StorageError
from fluxai.core.money import to_decimal
from fluxai.planning import DEFAULT_TENANT
from fluxai.providers.asking import Answered, Talk, run, run_async, until_answered
from fluxai.providers.choosing import Router, Wishes, used_share, wishes
from fluxai.providers.clients import Providers
from fluxai.providers.images import Image
from fluxai.providers.pictures import picture_of
from fluxai.providers.speaking import Question, said_before, sides

if TYPE_CHECKING:
    from fluxai.core.attempts import Attempt
    from fluxai.core.usage import Usage
    from fluxai.governor import Governor
    from fluxai.models import Choice, Model, ModelRegistry
    from fluxai.prompts import PromptAnalysis

log = logging.getLogger("fluxai")

#: Pictures that may come along.
_IMAGES_MAX = 16
_TEMPERATURE_MAX = 2
#: A prompt is only taken as one for a picture when that is likelier than not.
_DRAWS_FROM = 0.5


class CompletionOptions(TypedDict, total=False):
    """What `smart_complete` takes beside the prompt."""

    tenant: str | None
    user: str | None
    labels: Mapping[str, str] | None
    context: Any
    preferences: Mapping[str, Any] | None
    system_instruction: str | None
    max_tokens: int | None
    temperature: float | Decimal | None
    images: Any


class ImageOptions(TypedDict, total=False):
    """What `generate_image` takes beside the prompt."""

    tenant: str | None
    user: str | None
    labels: Mapping[str, str] | None
    model: str | None
    size: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """An answer, which model gave it and why, and what it cost.

    Attributes:
        text: What was answered; empty where only a picture was made.
        model: The model that answered, which a policy may have put in place of the one chosen.
        display_name: How it is called in print.
        provider: Who was paid, as the price table calls it.
        complexity: `simple`, `medium` or `complex`.
        task_type: `text`, `code`, `image` or `reasoning`.
        reason: A sentence that says why this model.
        alternatives: The next best, best first.
        confidence: The probability that `task_type` is right.
        usage: What was used.
        cost: USD: what was settled for this answer.
        saved: USD: what `premium_model` would have cost at the same usage, less `cost`. Negative
            where the answer was dearer.
        premium_model: What `prefer_quality` would have picked, of the providers at hand.
        finish: Why the answer ended, in the provider's own words, such as `stop` or `max_tokens`.
        attempts: What failed before, and what that cost.
        reservation_id: Under which it was reserved; `None` where money is held outside.
        images: The pictures, of a prompt that asks for one.
    """

    text: str
    model: str
    display_name: str
    provider: str
    complexity: str
    task_type: str
    reason: str
    alternatives: tuple[str, ...]
    confidence: float
    usage: Usage
    cost: Decimal
    saved: Decimal
    premium_model: str | None
    finish: str | None
    attempts: tuple[Attempt, ...]
    reservation_id: str | None
    images: tuple[Image, ...]

    def to_dict(self) -> dict[str, Any]:
        """The completion, JSON-ready: amounts as texts, pictures as base64."""
        return {
            "text": self.text,
            "model": self.model,
            "display_name": self.display_name,
            "provider": self.provider,
            "complexity": self.complexity,
            "task_type": self.task_type,
            "reason": self.reason,
            "alternatives": list(self.alternatives),
            "confidence": self.confidence,
            "usage": self.usage.to_dict(),
            "cost": str(self.cost),
            "saved": str(self.saved),
            "premium_model": self.premium_model,
            "finish": self.finish,
            "attempts": [attempt.to_dict() for attempt in self.attempts],
            "reservation_id": self.reservation_id,
            "images": [image.to_dict() for image in self.images],
        }


def complete(governor: Governor, prompt: str, options: CompletionOptions) -> Completion:
    """Answer a prompt; see `Governor.smart_complete`."""
    job = _completion(governor, prompt, options)
    with job.limit():
        return run(job.complete())


async def complete_async(governor: Governor, prompt: str, options: CompletionOptions) -> Completion:
    """Answer a prompt, awaited."""
    job = _completion(governor, prompt, options)
    with job.limit():
        return await run_async(governor, job.complete())


def draw(governor: Governor, prompt: str, options: ImageOptions) -> Image:
    """Make a picture; see `Governor.generate_image`."""
    return run(_drawing(governor, prompt, options).draw(options.get("model")))


async def draw_async(governor: Governor, prompt: str, options: ImageOptions) -> Image:
    """Make a picture, awaited."""
    job = _drawing(governor, prompt, options)
    return await run_async(governor, job.draw(options.get("model")))


def _completion(governor: Governor, prompt: str, options: CompletionOptions) -> _Job:
    context, system = options.get("context"), options.get("system_instruction")
    if system is not None and not isinstance(system, str):
        raise InvalidRequest("system_instruction", f"must be text, got {type(system).__name__}")
    cap = options.get("max_tokens")
    question = Question(
        prompt=_text(prompt),
        before=said_before(context),
        system=system or None,
        pictures=tuple(picture_of(image) for image in _listed(options.get("images"))),
        max_tokens=None if cap is None else count("max_tokens", cap, 1),
        temperature=_temperature(options.get("temperature")),
    )
    payer = _payer(options.get("tenant"), options.get("user"), options.get("labels"))
    return _Job(governor, question, payer, wishes(options.get("preferences")))


def _drawing(governor: Governor, prompt: str, options: ImageOptions) -> _Job:
    size = options.get("size")
    if size is not None:
        sides(size)
    payer = _payer(options.get("tenant"), options.get("user"), options.get("labels"))
    return _Job(governor, Question(prompt=_text(prompt), size=size), payer, Wishes())


class _Payer(NamedTuple):
    """Who spends, with what the blocks around the call say."""

    tenant: str
    user: str | None
    labels: Mapping[str, str] | None


def _payer(tenant: str | None, user: str | None, labels: Mapping[str, str] | None) -> _Payer:
    here = surroundings.get()
    owner = tenant if tenant is not None else here.tenant
    return _Payer(
        DEFAULT_TENANT if owner is None else owner, here.user if user is None else user, labels
    )


class _Job:
    """One prompt to be answered for somebody."""

    def __init__(
        self, governor: Governor, question: Question, payer: _Payer, wished: Wishes
    ) -> None:
        self._governor = governor
        self._question = question
        self._payer = payer
        self._wished = wished
        self._providers: Providers = governor.providers_at_hand()
        self._names = self._providers.required()

    def limit(self) -> AbstractContextManager[Any]:
        """Hold the whole request, attempts that fail included, to what it may cost."""
        most = self._wished.max_cost
        if most is None:
            return nullcontext()
        return self._governor.budget(most, tenant=self._payer.tenant)

    def complete(self) -> Talk[Completion]:
        """Answer the prompt, by a picture where it asks for one."""
        analysis = self._analysis()
        draws = analysis.task_type == "image"
        registry = self._registry()
        router = self._router(registry, analysis)
        choice = router.first()
        if choice.model is None:
            raise self._none(registry, choice)
        answered = yield from until_answered(
            router, choice, self._client, self._question, draws=draws
        )
        model, usage, cost = self._settled(registry, answered)
        premium = router.premium()
        return Completion(
            text=answered.said.text,
            model=model.id,
            display_name=model.display_name or model.id,
            provider=model.provider,
            complexity=analysis.complexity,
            task_type=analysis.task_type,
            reason=_reason(answered, model),
            alternatives=answered.choice.alternatives,
            confidence=analysis.confidence,
            usage=usage,
            cost=cost,
            saved=self._saved(registry, premium, model, usage, cost),
            premium_model=None if premium is None else premium.id,
            finish=answered.said.finish,
            attempts=answered.attempts,
            reservation_id=None if answered.reservation is None else answered.reservation.id,
            images=_images(answered, model, usage, cost),
        )

    def draw(self, model_id: str | None) -> Talk[Image]:
        """Make a picture, by the model that is named, or by one that suits."""
        analysis = replace(
            self._analysis(), task_type="image", needs=frozenset({"image_generation"})
        )
        registry = self._registry()
        router = self._router(registry, analysis)
        if model_id is not None:
            router.only(registry.get(model_id))
        choice = router.first()
        if choice.model is None:
            raise self._none(registry, choice)
        if model_id is not None:
            choice = replace(choice, reason=f"{choice.model} (${choice.cost:f}): asked for by name")
        answered = yield from until_answered(
            router, choice, self._client, self._question, draws=True, others=model_id is None
        )
        model, usage, cost = self._settled(registry, answered)
        return _images(answered, model, usage, cost)[0]

    def _none(self, registry: ModelRegistry, choice: Choice) -> ConfigurationError:
        said = f"{choice.reason}; at hand: {', '.join(self._names)}"
        if registry.allowed is not None:
            said += f"; the tenant's allowed_models: {', '.join(registry.allowed) or 'none'}"
        return ConfigurationError(said)

    def _analysis(self) -> PromptAnalysis:
        analysis: PromptAnalysis = self._governor._decider.analyzer.analyze(
            self._question.messages()
        )
        unsure = analysis.confidence < _DRAWS_FROM
        if analysis.task_type == "image" and (self._question.pictures or unsure):
            # Pictures that come along are to be looked at.
            return replace(analysis, task_type="text", needs=analysis.needs - {"image_generation"})
        return analysis

    def _registry(self) -> ModelRegistry:
        """Return the tenant's registry; where the store can't be read, as it was known last."""
        planner, tenant = self._governor.planner, self._payer.tenant
        planner.fresh_prices(tenant)
        return planner.layers.get(tenant, self._governor.registry)

    def _used(self) -> float:
        """Return how much of the tightest budget is used, as far as the store can be read."""
        tenant, user, _ = self._payer
        try:
            return used_share(self._governor.budgets(tenant, user), user)
        except StorageError as error:
            # It guides the choice only; whether the call may be made is decided by its reservation.
            log.warning("a model is chosen without looking at budgets: %s", error)
            return 0.0

    def _router(self, registry: ModelRegistry, analysis: PromptAnalysis) -> Router:
        return Router(
            registry,
            providers=self._names,
            by_complexity=self._providers.models,
            analysis=analysis,
            question=self._question,
            wished=self._wished,
            used=self._used(),
        )

    def _client(self, provider: str) -> Any:
        tenant, user, labels = self._payer
        return self._governor.wrap(
            self._providers.client(provider), tenant=tenant, user=user, labels=labels
        )

    def _settled(self, registry: ModelRegistry, answered: Answered) -> tuple[Model, Usage, Decimal]:
        """Return which model answered, what it used and what that cost."""
        reservation, settlement = answered.reservation, answered.settlement
        model = answered.asked
        if reservation is not None and reservation.model not in (None, model.id):
            model = registry.get(str(reservation.model))
        if settlement is not None and settlement.usage is not None:
            return model, settlement.usage, settlement.cost
        # Money is held outside, the settlement waits in the spool, or no usage was told.
        priced = self._governor.estimator_of(self._payer.tenant).cost(answered.raw, model=model.id)
        return model, priced.usage, priced.total if settlement is None else settlement.cost

    def _saved(
        self,
        registry: ModelRegistry,
        premium: Model | None,
        model: Model,
        usage: Usage,
        cost: Decimal,
    ) -> Decimal:
        if premium is None or premium == model:
            return Decimal(0)
        at_us = self._governor.clock.now_us()
        rates = registry.rates(premium.id, at_us, provider=premium.provider)
        estimator = self._governor.estimator_of(self._payer.tenant)
        return to_decimal(estimator.cost_of(usage, rates)) - cost


def _reason(answered: Answered, model: Model) -> str:
    reason = answered.choice.reason
    if answered.attempts:
        reason = f"after {answered.attempts[-1].model} failed: {reason}"
    if model.id != answered.asked.id:
        reason += f"; a policy moved the call to {model.id}"
    return reason


def _images(answered: Answered, model: Model, usage: Usage, cost: Decimal) -> tuple[Image, ...]:
    reservation = answered.reservation
    return tuple(
        Image(
            data=picture.data,
            media_type=picture.media_type,
            model=model.id,
            display_name=model.display_name or model.id,
            provider=model.provider,
            reason=_reason(answered, model),
            usage=usage,
            cost=cost,
            attempts=answered.attempts,
            reservation_id=None if reservation is None else reservation.id,
        )
        for picture in answered.said.pictures
    )


def _text(prompt: object) -> str:
    if not isinstance(prompt, str):
        raise InvalidRequest("prompt", f"must be text, got {type(prompt).__name__}")
    if not prompt.strip():
        raise InvalidRequest("prompt", "must not be empty")
    return prompt


def _listed(images: Any) -> Collection[Any]:
    if images is None:
        return ()
    found = list(images) if isinstance(images, (list, tuple)) else [images]
    if len(found) > _IMAGES_MAX:
        raise InvalidRequest("images", f"takes at most {_IMAGES_MAX}, got {len(found)}")
    return found


def _temperature(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise InvalidRequest("temperature", f"must be a number, got {type(value).__name__}")
    if not 0 <= value <= _TEMPERATURE_MAX:
        raise InvalidRequest("temperature", f"must be from 0 to {_TEMPERATURE_MAX}, got {value}")
    return float(value)
