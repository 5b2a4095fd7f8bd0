"""How good models are at one tenant's work: one number for each, on one scale of difficulty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fluxai.prompts.scorer import shipped
from fluxai.routing.outcomes import Outcome

#: What models of a tier are taken to be able to do before any outcome: log-odds of a good answer
#: to a prompt of middling difficulty. From the public outcomes that the scorer was made from.
TIER_MEANS: Final = {"fast": 0.6, "balanced": 1.0, "premium": 1.4}
#: With fewer outcomes a model's number is still mostly its tier's.
TRUSTED_FROM: Final = 30
_ABILITY_PRIOR: Final = 2.0
_OFFSET_PRIOR: Final = 1.0
_SLOPE_PRIOR: Final = 20.0
_SLOPE_MEAN: Final = 0.3
_STEPS_MAX: Final = 100
_CLOSE: Final = 1e-7
_LOGIT_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Ability:
    """A model's number.

    Attributes:
        value: Log-odds of a good answer to a prompt of middling difficulty.
        outcomes: How many it rests on.
    """

    value: float
    outcomes: int

    @property
    def trusted(self) -> bool:
        """Whether it rests on the tenant's own outcomes rather than on the model's tier."""
        return self.outcomes >= TRUSTED_FROM


@dataclass(frozen=True, slots=True)
class Abilities:
    """What outcomes say of models: `P(good) = sigmoid(ability + offset - slope · difficulty)`.

    Attributes:
        models: By canonical id.
        offset: The tenant's own: how much easier its work is than what models are known by.
        slope: How much the score of a prompt matters.
        outcomes: How many it rests on.
    """

    models: Mapping[str, Ability]
    offset: float
    slope: float
    outcomes: int

    def chance(self, model: str, score: float, tier: str = "balanced") -> float:
        """Return the probability of a good answer. A model without outcomes is as its tier."""
        known = self.models.get(model)
        value = TIER_MEANS.get(tier, TIER_MEANS["balanced"]) if known is None else known.value
        return _sigmoid(value + self.offset - self.slope * _difficulty(score))


def fit(outcomes: Iterable[Outcome], tiers: Mapping[str, str]) -> Abilities:
    """Fit to outcomes, held to the models' tiers while there are few.

    Args:
        outcomes: Of one tenant; those without a score are left out.
        tiers: Each model's tier by canonical id; `balanced` where it is not known.
    """
    rows = [
        (model, _difficulty(one.score), quality)
        for one in outcomes
        if one.score is not None
        for model, quality in one.qualities.items()
    ]
    counts: dict[str, int] = {}
    for model, _, _ in rows:
        counts[model] = counts.get(model, 0) + 1
    means = {m: TIER_MEANS.get(tiers.get(m, ""), TIER_MEANS["balanced"]) for m in counts}
    values, offset, slope = dict(means), 0.0, _SLOPE_MEAN
    # One number at a time, each by Newton's method: the whole is convex.
    for _ in range(_STEPS_MAX if rows else 0):
        pull = {m: _ABILITY_PRIOR * (values[m] - means[m]) for m in values}
        weight = dict.fromkeys(values, _ABILITY_PRIOR)
        for model, difficulty, quality in rows:
            p = _sigmoid(values[model] + offset - slope * difficulty)
            pull[model] += p - quality
            weight[model] += p * (1 - p)
        moved = 0.0
        for model in values:
            step = pull[model] / weight[model]
            values[model] -= step
            moved = max(moved, abs(step))
        by_offset, offset_weight = _OFFSET_PRIOR * offset, _OFFSET_PRIOR
        for model, difficulty, quality in rows:
            p = _sigmoid(values[model] + offset - slope * difficulty)
            by_offset += p - quality
            offset_weight += p * (1 - p)
        offset -= by_offset / offset_weight
        by_slope, slope_weight = _SLOPE_PRIOR * (slope - _SLOPE_MEAN), _SLOPE_PRIOR
        for model, difficulty, quality in rows:
            p = _sigmoid(values[model] + offset - slope * difficulty)
            by_slope -= (p - quality) * difficulty
            slope_weight += p * (1 - p) * difficulty * difficulty
        slope -= by_slope / slope_weight
        if max(moved, abs(by_offset / offset_weight), abs(by_slope / slope_weight)) < _CLOSE:
            break
    return Abilities(
        {model: Ability(values[model], counts[model]) for model in sorted(values)},
        offset,
        slope,
        len(rows),
    )


def _difficulty(score: float) -> float:
    """Put a score on a scale whose middle is 0 and whose thirds are at -1 and 1."""
    scorer = shipped()
    middle = (scorer.medium_from + scorer.complex_from) / 2
    return 2 * (score - middle) / (scorer.complex_from - scorer.medium_from)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-min(_LOGIT_MAX, max(-_LOGIT_MAX, value))))
