"""`ModelSelector`: which model suits a prompt, why, and which would be next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, Protocol

from fluxai.core.errors import InvalidRequest
from fluxai.costs.names import provider_name
from fluxai.models.standins import serves_one_purpose

if TYPE_CHECKING:
    from fluxai.models.model import Model
    from fluxai.models.registry import ModelRegistry

Preference = Literal["cost", "speed", "quality"]

#: Tiers from the cheapest; the place of the one that a prompt calls for.
_TIERS: Final = ("fast", "balanced", "premium")
_CALLS_FOR: Final = {"simple": 0, "medium": 1, "complex": 2}
#: From this share of a budget on, the bar for a dearer model rises by one tier, and by two.
_PRESSED: Final = (0.5, 0.9)
#: What a model must be able to do for a task.
_ABLE: Final = {
    "text": "text",
    "code": "code",
    "reasoning": "text",
    "image": "image_generation",
}
_ALTERNATIVES_MAX: Final = 3
#: What surely fits where nobody says how much does. Tokens.
_WINDOW_UNKNOWN: Final = 4_000
_MILLION: Final = Decimal(1_000_000)
#: Tokens of an image that is made, where its price is per token.
_IMAGE_TOKENS: Final = 1_300


class Analysis(Protocol):
    """What is needed of a prompt's analysis; `PromptAnalysis` has it."""

    @property
    def complexity(self) -> str:
        """`simple`, `medium` or `complex`."""

    @property
    def task_type(self) -> str:
        """`text`, `code`, `image` or `reasoning`."""

    @property
    def tokens(self) -> int:
        """Input tokens."""

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that a model must have besides."""


@dataclass(frozen=True, slots=True)
class Called:
    """What is known of a prompt whose candidates are able to do it, whatever it is."""

    complexity: str
    task_type: str = "text"
    tokens: int = 0
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A model that suits a prompt, or why there is none.

    Attributes:
        model: Its id; `None` where no candidate is left.
        record: Its record.
        cost: USD: what the call would cost with the output that was assumed.
        reason: A sentence that says why this one, or why none.
        alternatives: The next best, best first.
    """

    model: str | None
    record: Model | None
    cost: Decimal | None
    reason: str
    alternatives: tuple[str, ...]


class ModelSelector:
    """Picks the model for a prompt out of a registry. Pure: it asks nobody and keeps nothing.

    Args:
        registry: Where the models are.
        providers: Those that are at hand; all without it.
        by_complexity: A model of your own for a level: `{"simple": "gpt-4o-mini"}`. It wins where it is
            able, allowed and within the limits.

    Raises:
        UnknownModel: A model in `by_complexity` has no price.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        providers: Iterable[str] | None = None,
        by_complexity: Mapping[str, str] | None = None,
    ) -> None:
        self._registry = registry
        self._providers = None if providers is None else {provider_name(p) for p in providers}
        self._by_complexity = {
            level: registry.get(model_id) for level, model_id in (by_complexity or {}).items()
        }

    def select(
        self,
        analysis: Analysis,
        prefer: Preference | None = None,
        max_cost: Decimal | str | int | None = None,
        allowed: Collection[str] | None = None,
        *,
        asked: str | None = None,
        output_tokens: int = 500,
        used: float = 0.0,
    ) -> Choice:
        """Pick a model.

        Args:
            analysis: Of the prompt; see `PromptAnalyzer`.
            prefer: `cost`: the cheapest that is able. `speed`: the cheapest of the fast tier. `quality`:
                of the premium tier. Without it, of the tier that the complexity calls for.
            max_cost: USD that the call may cost.
            allowed: Ids that may be used, in any spelling; all without it.
            asked: The model that was asked for: the choice is dearer neither on input nor on output.
            output_tokens: How long the answer is assumed to be.
            used: The share of the budget that is used up. From half on a prompt has to be one level
                harder to be given a dearer tier, and from nine tenths on two.

        Raises:
            UnknownModel: `asked`, or an id in `allowed`, has no price.
            InvalidRequest: `max_cost` is a float, or no amount.
        """
        return self.choose(
            self._candidates(allowed),
            analysis,
            prefer,
            max_cost,
            highest=None if asked is None else self._registry.get(asked),
            output_tokens=output_tokens,
            used=used,
        )

    def choose(
        self,
        candidates: Iterable[Model],
        analysis: Analysis,
        prefer: Preference | None = None,
        max_cost: Decimal | str | int | None = None,
        *,
        highest: Model | None = None,
        output_tokens: int = 500,
        used: float = 0.0,
    ) -> Choice:
        """Pick one of some models, like `select`, for who has their records already.

        Args:
            candidates: Their records.
            analysis: As in `select`; so are the rest.
            highest: The record of what was asked for: the choice is no dearer.
        """
        limit = _amount(max_cost)
        able = [
            (model, cost)
            for model in candidates
            if (cost := self._fits(model, analysis, output_tokens, highest)) is not None
        ]
        if not able:
            return _none(f"no model at hand is able to do this: {_wanted(analysis)}")
        within = [(model, cost) for model, cost in able if limit is None or cost <= limit]
        if not within:
            least = min(cost for _, cost in able)
            return _none(f"the cheapest able model costs ${least:f}, above ${limit:f}")
        place, why = _tier_for(analysis, prefer, used)
        reasoning = analysis.task_type == "reasoning"

        def rank(found: tuple[Model, Decimal]) -> tuple[int, bool, Decimal, str]:
            model, cost = found
            away = 0 if prefer == "cost" else abs(_TIERS.index(model.tier) - place)
            return away, reasoning and "reasoning" not in model.capabilities, cost, model.id

        # Several providers serve the same model: the cheapest of them stands for all.
        first: dict[str, tuple[Model, Decimal]] = {}
        for found in sorted(within, key=rank):
            first.setdefault(found[0].id, found)
        ranked = list(first.values())
        own = self._by_complexity.get(analysis.complexity)
        if own is not None and prefer is None and any(m == own for m, _ in ranked):
            ranked.sort(key=lambda found: found[0] != own)
            why = f"configured for {analysis.complexity} prompts"
        (model, cost), *rest = ranked
        if prefer != "cost" and model != own and model.tier != _TIERS[place]:
            why += ", where none is able within the limits"
        if rest:
            after, after_cost = rest[0]
            why += f"; next is {after.id} ({after.tier}, ${after_cost:f})"
        return Choice(
            model=model.id,
            record=model,
            cost=cost,
            reason=f"{model.id} ({model.tier}, ${cost:f}): {why}",
            alternatives=tuple(m.id for m, _ in rest[:_ALTERNATIVES_MAX]),
        )

    def _candidates(self, allowed: Collection[str] | None) -> list[Model]:
        if allowed is not None:
            found = [self._registry.get(model_id) for model_id in allowed]
        else:
            found = [
                model
                for model in self._registry.list(enabled=True)
                # What is free has limits that no price tells; a special model is picked by name.
                if not model.free and not model.deprecated and not serves_one_purpose(model.id)
            ]
        return [
            model
            for model in found
            if model.enabled and (self._providers is None or model.provider in self._providers)
        ]

    def _fits(
        self, model: Model, analysis: Analysis, output_tokens: int, highest: Model | None
    ) -> Decimal | None:
        """Return what the call would cost, or `None` where the model can't do it or may not."""
        if not {_ABLE.get(analysis.task_type, "text"), *analysis.needs} <= model.capabilities:
            return None
        window = model.context_window
        if analysis.tokens + output_tokens > (window or _WINDOW_UNKNOWN):
            return None
        if highest is not None and not _no_dearer(model, highest):
            return None
        return _cost(model, analysis, output_tokens)


def _no_dearer(model: Model, highest: Model) -> bool:
    if model.id == highest.id and model.provider == highest.provider:
        return True
    pairs = (
        (model.input_price, highest.input_price),
        (model.output_price, highest.output_price),
        (model.image_output_price, highest.image_output_price),
        (model.price_per_image, highest.price_per_image),
        (model.price_per_call, highest.price_per_call),
    )
    return all(price is None or (limit is not None and price <= limit) for price, limit in pairs)


def _cost(model: Model, analysis: Analysis, output_tokens: int) -> Decimal:
    total = (model.price_per_call or Decimal()) + (
        model.input_price or 0
    ) * analysis.tokens / _MILLION
    if analysis.task_type != "image":
        return total + (model.output_price or 0) * output_tokens / _MILLION
    if model.price_per_image is not None:
        return total + model.price_per_image
    per_token = model.image_output_price or model.output_price or 0
    return total + per_token * _IMAGE_TOKENS / _MILLION


def _tier_for(analysis: Analysis, prefer: Preference | None, used: float) -> tuple[int, str]:
    if prefer == "cost":
        return 0, "the cheapest that is able"
    if prefer == "speed":
        return 0, "the cheapest of the fast tier"
    if prefer == "quality":
        return len(_TIERS) - 1, "the cheapest of the premium tier"
    place = _CALLS_FOR[analysis.complexity]
    lowered = max(0, place - sum(used >= share for share in _PRESSED))
    why = f"the prompt is {analysis.complexity}, which calls for the {_TIERS[place]} tier"
    if lowered < place:
        why += f"; with {used:.0%} of the budget used, the {_TIERS[lowered]} tier has to do"
    return lowered, why


def _wanted(analysis: Analysis) -> str:
    needs = sorted({_ABLE.get(analysis.task_type, "text"), *analysis.needs})
    return f"{', '.join(needs)}, {analysis.tokens:,} tokens of input"


def _none(reason: str) -> Choice:
    return Choice(model=None, record=None, cost=None, reason=reason, alternatives=())


def _amount(value: Decimal | str | int | None) -> Decimal | None:
    if value is None or isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        raise InvalidRequest("max_cost", "is a float, which can't hold money exactly; pass a text")
    try:
        return Decimal(value)
    except ArithmeticError as error:
        raise InvalidRequest("max_cost", f"is no amount: {value!r:.60}") from error
