"""Outcomes of one's own correct the shipped probability, where that helps."""

from __future__ import annotations

import random

import pytest

from fluxai.prompts import Calibration
from tests.measure.gains import calibration_error


def _outcomes(count: int, truth: Calibration, seed: int) -> list[tuple[float, float]]:
    """Draw predictions, and what came of them if `truth` is how they are off."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        said = chance.betavariate(6, 2)
        found.append((said, float(chance.random() < truth(said))))
    return found


def test_a_probability_that_is_off_is_corrected() -> None:
    """After 200 outcomes the error is a fraction of what it was."""
    truth = Calibration(slope=0.8, offset=-1.5)
    fitted = Calibration.fit(_outcomes(200, truth, seed=1))
    judged = _outcomes(4_000, truth, seed=2)
    happened = [outcome for _, outcome in judged]
    before = calibration_error([said for said, _ in judged], happened)
    after = calibration_error([fitted(said) for said, _ in judged], happened)
    assert before > 0.2
    assert after < 0.05
    assert fitted.outcomes == 200


def test_a_good_probability_is_mostly_left_alone() -> None:
    """Where nothing is wrong, correcting it by chance is avoided more often than not."""
    fitted = [Calibration.fit(_outcomes(200, Calibration(), seed=seed)) for seed in range(20)]
    assert sum(found == Calibration() for found in fitted) >= 10


def test_few_outcomes_change_nothing() -> None:
    """Some calls of one afternoon are no evidence."""
    assert Calibration.fit([(0.9, 0.0)] * 29) == Calibration()


@pytest.mark.parametrize(
    "outcomes",
    [
        [(0.7, 1.0)] * 200,
        [(0.7, 0.0)] * 200,
        [(0.0, 1.0), (1.0, 0.0)] * 100,
        [(0.5, 7.0), (0.5, -7.0)] * 100,
    ],
    ids=["all good", "all bad", "certain and wrong", "qualities out of bounds"],
)
def test_extreme_outcomes_have_a_fit(outcomes: list[tuple[float, float]]) -> None:
    """The fit stays finite, and what it gives stays a probability."""
    fitted = Calibration.fit(outcomes)
    assert abs(fitted.slope) < 1e3
    assert all(0 <= fitted(said) <= 1 for said in (0.0, 0.3, 1.0))


def test_the_neutral_one_changes_nothing() -> None:
    """A slope of 1 and an offset of 0 are the identity."""
    assert Calibration()(0.37) == pytest.approx(0.37)
