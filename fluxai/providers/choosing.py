"""Which models may answer a prompt here, and which of them should. Pure, but for the registry."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from fluxai.core.errors import InvalidRequest
from fluxai.core.money import to_nano
from fluxai.models import Choice, ModelSelector
from fluxai.models.standins import serves_one_purpose

if TYPE_CHECKING:
    from fluxai.analytics import Budget
    from fluxai.models import Model, ModelRegistry
    from fluxai.models.selector import Analysis, Preference
    from fluxai.providers.speaking import Question

#: What the price table lists of a provider and its chat address does not serve: retired models,
#: other makers' models, spellings of resellers, and models of another address.
_NOT_SERVED: Final[Mapping[str, re.Pattern[str]]] = {
    "openai": re.compile(
        r"ada$|babbage|curie|davinci|text-|gpt-3|gpt-4(-|$)|gpt-4\.5|o1|.*-pro$|.*\.ft-"
    ),
    "anthropic": re.compile(r"claude-(\d|v1|instant)(-|$)"),
    "google": re.compile(r"(?!gemini-)|gemini-(1|pro|flash|live|omni)|.*-live"),
}
#: Image models that are asked as their provider documents now; others are asked by name.
_DRAWS: Final[Mapping[str, re.Pattern[str]]] = {
    "openai": re.compile(r"gpt-image-|chatgpt-image-"),
    "google": re.compile(r"gemini-.*image|gemini-nano-banana"),
}
_PREFERENCES: Final = ("prefer_cost", "prefer_speed", "prefer_quality")
_MAX_COST: Final = "max_cost_per_request"
#: How long an answer is assumed to be.
_OUTPUT_TOKENS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a caller prefers.

    Attributes:
        prefer: `cost`, `speed` or `quality`; `None` for what the prompt calls for.
        max_cost: USD that the whole request may cost.
    """

    prefer: Preference | None = None
    max_cost: Decimal | str | int | None = None


def wishes(preferences: object) -> Wishes:
    """Read preferences. Of several that are true the thriftiest holds: cost, speed, quality.

    Raises:
        InvalidRequest: They are no mapping, or hold what is not known.
    """
    if preferences is None:
        return Wishes()
    if not isinstance(preferences, Mapping):
        raise InvalidRequest("preferences", f"must be a mapping, got {type(preferences).__name__}")
    for name, value in preferences.items():
        if name == _MAX_COST:
            if value is not None and to_nano(value, f"preferences[{_MAX_COST!r}]") <= 0:
                raise InvalidRequest(f"preferences[{_MAX_COST!r}]", "must be more than 0")
        elif name not in _PREFERENCES:
            known = ", ".join((*_PREFERENCES, _MAX_COST))
            raise InvalidRequest("preferences", f"knows {known}; got {name!r:.60}")
        elif not isinstance(value, bool):
            raise InvalidRequest(f"preferences[{name!r}]", "must be True or False")
    kinds: tuple[Preference, ...] = ("cost", "speed", "quality")
    prefer = next((kind for kind in kinds if preferences.get(f"prefer_{kind}")), None)
    return Wishes(prefer=prefer, max_cost=preferences.get(_MAX_COST))


def used_share(budgets: Iterable[Budget], user: str | None) -> float:
    """Return how much of the tightest cost budget is used: of the tenant's, and of the user's."""
    shares = [
        1.0 if budget.limit <= 0 else float((budget.settled + budget.reserved) / budget.limit)
        for budget in budgets
        if budget.measure == "cost"
        and budget.mode == "enforce"
        and (budget.scope == "tenant" or (budget.scope == "user" and budget.scope_id == user))
    ]
    return min(1.0, max(shares, default=0.0))


class Router:
    """Chooses among the models at hand, and chooses again without those that failed.

    Args:
        registry: The tenant's.
        providers: Those at hand.
        by_complexity: Models of the caller's choice for a level.
        analysis: Of the prompt.
        question: What is asked.
        wished: What the caller prefers.
        used: The share of the budget that is used.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        providers: Collection[str],
        by_complexity: Mapping[str, str],
        analysis: Analysis,
        question: Question,
        wished: Wishes,
        used: float,
    ) -> None:
        self._selector = ModelSelector(registry, by_complexity=by_complexity)
        self._analysis = analysis
        self._wished = wished
        self._used = used
        self._output_tokens = question.max_tokens or _OUTPUT_TOKENS
        configured = [
            model
            for model in map(registry.get, by_complexity.values())
            if model.enabled and model.provider in providers
        ]
        suits = _draws if analysis.task_type == "image" else _speaks
        known = [
            model
            for name in providers
            for model in registry.list(provider=name, enabled=True)
            if not model.free and not model.deprecated and suits(model)
        ]
        self.models: dict[str, Model] = {
            model.id: model
            for model in (*known, *configured)
            if question.max_tokens is None or (model.max_output or 10**12) >= question.max_tokens
        }

    def only(self, model: Model) -> None:
        """Leave one model, whether or not it would be chosen by itself."""
        self.models = {model.id: model}

    def first(self) -> Choice:
        """Choose a model. What it may cost is held to by its reservation; here it guides only."""
        models = self.models.values()
        choice = self._choose(models, self._wished.prefer, self._wished.max_cost)
        return choice if choice.model else self._choose(models, "cost")

    def among(self, models: Iterable[Model]) -> Choice:
        """Choose among some of the models."""
        return self._choose(models, self._wished.prefer)

    def after(self, tried: Collection[Model], dead: Collection[str]) -> Choice:
        """Choose a model in place of those that failed: of a provider that has not, if there is.

        Args:
            tried: The models that failed.
            dead: Providers that answer nobody: no connection, or no valid key.
        """
        ids, homes = {model.id for model in tried}, {model.provider for model in tried}
        left = [m for m in self.models.values() if m.id not in ids and m.provider not in dead]
        choice = self.among(m for m in left if m.provider not in homes)
        return choice if choice.model else self.among(left)

    def premium(self) -> Model | None:
        """Return the model that quality alone would have picked."""
        return self._choose(self.models.values(), "quality").record

    def _choose(
        self,
        models: Iterable[Model],
        prefer: Preference | None,
        max_cost: Decimal | str | int | None = None,
    ) -> Choice:
        return self._selector.choose(
            models,
            self._analysis,
            prefer,
            max_cost,
            output_tokens=self._output_tokens,
            used=self._used,
        )


def _speaks(model: Model) -> bool:
    return (
        "text" in model.capabilities
        and "image_generation" not in model.capabilities
        and not serves_one_purpose(model.id)
        and not _NOT_SERVED[model.provider].match(model.id)
    )


def _draws(model: Model) -> bool:
    pattern = _DRAWS.get(model.provider)
    return (
        "image_generation" in model.capabilities
        and pattern is not None
        and pattern.match(model.id) is not None
    )
