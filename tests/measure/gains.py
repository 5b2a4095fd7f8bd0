"""How much of a dear model's advantage a score wins back, and how far a probability is off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final

_BINS: Final = 10


def _ordered(scores: Sequence[float], gains: Sequence[float]) -> list[float]:
    """Return the gains by falling score; equal scores share theirs, so that no order is luck."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    found: list[float] = []
    for _, places in groupby(order, key=lambda place: scores[place]):
        tied = [gains[place] for place in places]
        found += [sum(tied) / len(tied)] * len(tied)
    return found


def apgr(scores: Sequence[float], gains: Sequence[float]) -> float:
    """Return the area under the share of the gap recovered, over the share of calls that are dear.

    Random is 0.5. An oracle can exceed 1, since the cheap model wins some rows.
    """
    ordered = _ordered(scores, gains)
    count = len(ordered)
    won = sum(gain * (1 - (place + 0.5) / count) for place, gain in enumerate(ordered))
    return won / sum(ordered)


def calls_needed(share: float, scores: Sequence[float], gains: Sequence[float]) -> float:
    """Return the least share of dear calls that recovers `share` of the gap (CPT)."""
    ordered = _ordered(scores, gains)
    wanted = share * sum(ordered)
    won = 0.0
    for place, gain in enumerate(ordered):
        if won >= wanted:
            return place / len(ordered)
        won += gain
    return 1.0


def noise(gains: Sequence[float]) -> float:
    """Return the standard deviation of a random order's APGR."""
    return math.sqrt(sum(gain * gain for gain in gains) / 12) / abs(sum(gains))


def calibration_error(probabilities: Sequence[float], happened: Sequence[float]) -> float:
    """Return the expected calibration error over ten bins of equal width."""
    bins: list[list[tuple[float, float]]] = [[] for _ in range(_BINS)]
    for probability, outcome in zip(probabilities, happened, strict=True):
        bins[min(_BINS - 1, int(probability * _BINS))].append((probability, outcome))
    off = sum(abs(sum(p for p, _ in held) - sum(y for _, y in held)) for held in bins)
    return off / len(probabilities)


def macro_f1(wanted: Sequence[str], found: Sequence[str]) -> float:
    """Return the mean over classes of the harmonic mean of precision and recall."""
    pairs = list(zip(wanted, found, strict=True))
    scores = []
    for name in sorted(set(wanted)):
        hit = sum(w == f == name for w, f in pairs)
        scores.append(2 * hit / (wanted.count(name) + found.count(name)))
    return sum(scores) / len(scores)


def recall(name: str, wanted: Sequence[str], found: Sequence[str]) -> float:
    """Return the share of the rows of a class that were found."""
    of_class = [f for w, f in zip(wanted, found, strict=True) if w == name]
    return of_class.count(name) / len(of_class)
