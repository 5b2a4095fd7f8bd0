"""Exact bounds on a share that was seen in a sample: the binomial tail, turned around."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

_STEPS: Final = 60


def tail(hits: int, trials: int, share: float) -> float:
    """Return the probability of at least so many hits, where each trial hits with `share`."""
    if hits <= 0:
        return 1.0
    return 1.0 - _at_most(hits - 1, trials, share)


def _at_most(hits: int, trials: int, share: float) -> float:
    """Return the probability of at most so many hits."""
    if hits >= trials:
        return 1.0
    if share <= 0.0:
        return 1.0
    if share >= 1.0:
        return 0.0
    log_share, log_rest = math.log(share), math.log1p(-share)
    whole = math.lgamma(trials + 1)
    total = math.fsum(
        math.exp(
            whole
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * log_share
            + (trials - k) * log_rest
        )
        for k in range(hits + 1)
    )
    return min(1.0, total)


@lru_cache(maxsize=4_096)
def upper_bound(hits: int, trials: int, confidence: float) -> float:
    """Return the Clopper-Pearson upper bound on the share behind a sample.

    Whatever the true share is, the bound is below it in at most `1 - confidence` of all samples.

    Args:
        hits: How many of the trials hit.
        trials: How many there were; with none the bound is 1.
        confidence: Between 0 and 1, such as 0.9.

    Raises:
        ValueError: The numbers are no sample.
    """
    if not 0 <= hits <= trials or not 0 < confidence < 1:
        raise ValueError(f"no sample: {hits} of {trials} at {confidence}")
    if hits == trials:
        return 1.0
    missing = 1.0 - confidence
    low, high = hits / trials, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _at_most(hits, trials, middle) > missing:
            low = middle
        else:
            high = middle
    return high
