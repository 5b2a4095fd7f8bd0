"""Turn the shipped probability into one's own, from outcomes of one's own calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

#: With fewer outcomes the shipped probability is kept.
OUTCOMES_MIN: Final = 30
#: Each of so many parts is put aside in turn, to compare on it.
_PARTS: Final = 4
#: How strongly a few outcomes are held to a slope of 1 and an offset of 0: one over a variance.
_SLOPE_PRIOR: Final = 4.0
_OFFSET_PRIOR: Final = 0.1
_STEPS_MAX: Final = 50
_CLOSE: Final = 1e-9
_EDGE: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A line on the scale of log-odds, by which a probability is corrected (Platt scaling).

    Attributes:
        slope: 1 leaves the spread of probabilities as it is.
        offset: 0 leaves their mean as it is; more makes success likelier.
        outcomes: How many it was fitted to; 0 for the shipped probability.
    """

    slope: float = 1.0
    offset: float = 0.0
    outcomes: int = 0

    def __call__(self, probability: float) -> float:
        """Return the corrected probability."""
        return _sigmoid(self.slope * _log_odds(probability) + self.offset)

    @classmethod
    def fit(cls, outcomes: Iterable[tuple[float, float]]) -> Calibration:
        """Fit to outcomes; keep the shipped probability where that predicts no worse.

        Both are compared on outcomes put aside, each quarter in turn: a correction can hurt where
        nothing was wrong.

        Args:
            outcomes: Pairs of the probability that was predicted, uncorrected (`cheap_ok`), and what
                came of it: 1 where the cheaper model sufficed, 0 where not, or a quality in between.

        Returns:
            The calibration to use; the neutral one with fewer than 30 outcomes.
        """
        pairs = [(_log_odds(p), min(1.0, max(0.0, quality))) for p, quality in outcomes]
        if len(pairs) < OUTCOMES_MIN:
            return cls()
        loss = 0.0
        for part in range(_PARTS):
            known = [pair for place, pair in enumerate(pairs) if place % _PARTS != part]
            loss += _loss(pairs[part::_PARTS], *_fitted(known))
        if loss >= _loss(pairs, 1.0, 0.0):
            return cls()
        slope, offset = _fitted(pairs)
        return cls(slope=slope, offset=offset, outcomes=len(pairs))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-min(500.0, max(-500.0, value))))


def _log_odds(probability: float) -> float:
    probability = min(1 - _EDGE, max(_EDGE, probability))
    return math.log(probability / (1 - probability))


def _loss(pairs: Sequence[tuple[float, float]], slope: float, offset: float) -> float:
    total = 0.0
    for x, y in pairs:
        p = min(1 - _EDGE, max(_EDGE, _sigmoid(slope * x + offset)))
        total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total


def _fitted(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return slope and offset of the greatest likelihood under the priors, by Newton's method."""
    slope, offset = 1.0, 0.0
    for _ in range(_STEPS_MAX):
        by_slope, by_offset = _SLOPE_PRIOR * (slope - 1), _OFFSET_PRIOR * offset
        second, mixed, bottom = _SLOPE_PRIOR, 0.0, _OFFSET_PRIOR
        for x, y in pairs:
            p = _sigmoid(slope * x + offset)
            weight = p * (1 - p)
            by_slope += (p - y) * x
            by_offset += p - y
            second += weight * x * x
            mixed += weight * x
            bottom += weight
        size = second * bottom - mixed * mixed
        step = (bottom * by_slope - mixed * by_offset) / size
        other = (second * by_offset - mixed * by_slope) / size
        slope -= step
        offset -= other
        if abs(step) + abs(other) < _CLOSE:
            break
    return slope, offset
