"""One number per model, on one scale of difficulty."""

from __future__ import annotations

import math
import random

from fluxai.routing import Outcome
from fluxai.routing.abilities import TIER_MEANS, fit
from fluxai.routing.certificates import thresholds

_TIERS = {"dear": "premium", "cheap": "fast"}


def _outcomes(chances: dict[str, float], number: int, slope: float = 0.5) -> list[Outcome]:
    rng = random.Random(7)
    grid = thresholds()
    found = []
    for place in range(number):
        step = rng.randrange(len(grid))
        difficulty = 2.4 * (step - 16) / 16
        found.append(
            Outcome(
                id=str(place),
                at_us=place,
                score=grid[step],
                qualities={
                    model: float(rng.random() < 1 / (1 + math.exp(slope * difficulty - value)))
                    for model, value in chances.items()
                },
                source="tests",
            )
        )
    return found


def test_without_outcomes_a_model_is_as_its_tier() -> None:
    """And it is not trusted."""
    none = fit([], _TIERS)
    assert none.models == {}
    middle = thresholds()[16]
    chance = none.chance("dear", middle, "premium")
    assert abs(math.log(chance / (1 - chance)) - TIER_MEANS["premium"]) < 0.01
    few = fit(_outcomes({"cheap": 2.0}, 5), _TIERS)
    assert not few.models["cheap"].trusted


def test_outcomes_move_the_numbers_to_what_models_can_do() -> None:
    """The order, the distance, and that harder prompts are answered worse."""
    found = fit(_outcomes({"dear": 2.0, "cheap": 0.5}, 1_500), _TIERS)
    assert found.models["dear"].trusted
    assert abs(found.models["dear"].value - found.models["cheap"].value - 1.5) < 0.3
    assert abs(found.models["cheap"].value + found.offset - 0.5) < 0.3
    grid = thresholds()
    assert found.chance("cheap", grid[0]) > found.chance("cheap", grid[-1])
    assert found.outcomes == 3_000


def test_a_new_model_needs_few_outcomes_where_others_have_many() -> None:
    """The tenant's offset is known from the others, so that its tier is a good guess at once."""
    known = _outcomes({"dear": TIER_MEANS["premium"] - 2, "cheap": TIER_MEANS["fast"] - 2}, 800)
    found = fit(known, _TIERS)
    middle = thresholds()[16]
    assert found.offset < -0.5
    assert found.chance("new", middle, "fast") < 0.5
