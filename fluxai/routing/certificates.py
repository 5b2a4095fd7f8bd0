"""When a downgrade may happen by itself: under a bound on its harm, from outcomes of one's own.

A threshold on the score of prompts is certified by going through a fixed list of thresholds, from
the one that sends the fewest prompts to the cheaper model: each is accepted while the
Clopper-Pearson upper bound on the share of harmful downgrades, among all prompts, stays within the
risk; the first that fails ends it. Since the order is fixed before any outcome is seen, one
confidence serves the whole list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from fluxai.core.errors import InvalidRequest
from fluxai.core.windows import from_us
from fluxai.policy.promises import certificate_id
from fluxai.prompts.scorer import shipped
from fluxai.routing.bounds import tail, upper_bound
from fluxai.routing.outcomes import Outcome, Pair, pairs_of

#: The latest outcomes that a certificate may rest on, and how old they may be.
WINDOW: Final = 2_000
WINDOW_US: Final = 90 * 24 * 3600 * 1_000_000
#: A certificate ends after so long; traffic changes.
LASTS_US: Final = 30 * 24 * 3600 * 1_000_000
#: Fewer outcomes are not looked at. After a look, as many new ones are needed for the next as the
#: last one rested on.
LOOK_FROM: Final = 50
#: Harm is watched over so many of the latest outcomes since the certificate.
WATCHED: Final = 100
#: So unlikely must the harm seen be under the certified risk, and so unlikely the share of prompts
#: below the threshold under the certified share, for it to be drift.
_DRIFT: Final = 0.005
_WATCHED_LEAST: Final = 20
#: The list of thresholds: the middle of the scores that the scorer was made from, and so many
#: spreads around it.
_SPREADS: Final = tuple(step * 0.15 for step in range(-16, 17))
#: The middle third of a normal distribution is so many spreads wide.
_THIRD: Final = 0.8614
DIGITS: Final = 4


class Certified(NamedTuple):
    """The last threshold that was accepted.

    Attributes:
        threshold: Prompts that score at most this may run on the cheaper model.
        outcomes: How many pairs it rests on.
        routed, harmful: How many of them the threshold sends to the cheaper model, and how many of
            those with harm.
        bound: The upper bound on the share of harmful downgrades among all prompts.
    """

    threshold: float
    outcomes: int
    routed: int
    harmful: int
    bound: float


def rounded(gain: float) -> float:
    """Round a score as outcomes, events and certificates have it.

    Raises:
        InvalidRequest: It is no finite number.
    """
    score = float(gain)
    if not math.isfinite(score):
        raise InvalidRequest("gain", f"must be a finite number, got {gain!r:.60}")
    return round(score, DIGITS)


def thresholds() -> tuple[float, ...]:
    """List the thresholds, from the one that sends the fewest prompts to the cheaper model."""
    scorer = shipped()
    middle = (scorer.medium_from + scorer.complex_from) / 2
    spread = (scorer.complex_from - scorer.medium_from) / _THIRD
    return tuple(round(middle + step * spread, DIGITS) for step in _SPREADS)


def certify(
    pairs: Sequence[Pair],
    risk: float,
    confidence: float,
    grid: Sequence[float] | None = None,
) -> Certified | None:
    """Find the largest threshold whose harm stays within a risk.

    Args:
        pairs: Both models' answers to the same prompts, drawn as the prompts to come will be.
        risk: The share of all prompts that may be downgraded with harm.
        confidence: In how many of all samples the bound must hold, such as 0.9.
        grid: Thresholds on the score, ascending, chosen without looking at the pairs.

    Returns:
        The last accepted threshold, at most the highest score that it routes; None where none was
        accepted, or where it routes nothing.
    """
    found = None
    total = len(pairs)
    if not total:
        return None
    for threshold in thresholds() if grid is None else grid:
        routed = [pair for pair in pairs if pair.score <= threshold]
        harmful = sum(pair.harmful for pair in routed)
        bound = upper_bound(harmful, total, confidence)
        if bound > risk:
            break
        # Prompts that are harder than any that was compared are not covered.
        highest = max((pair.score for pair in routed), default=threshold)
        found = Certified(min(threshold, highest), total, len(routed), harmful, bound)
    return found if found is not None and found.routed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the latest look at a pair of models found, for one tenant and one promise.

    Attributes:
        id: Names the pair and the promise, and the look.
        asked, cheap: Canonical ids of the models.
        risk, confidence: The promise: at most this share of all prompts is downgraded with harm,
            with this confidence over all looks together.
        state: `valid`; `none`: the outcomes do not prove it; `revoked`: they changed; or `expired`.
        reason: A sentence that says why.
        certified: The threshold and what it rests on; None without one.
        look: How often the pair was looked at. The k-th look may fail with a share of
            `1 / (k · (k + 1))` of what the confidence leaves, so that all of them together keep it.
        at_us, expires_us: When it was issued, and until when it holds.
        since_us: Outcomes from before are not used any more, since they changed.
    """

    asked: str
    cheap: str
    risk: float
    confidence: float
    state: str
    reason: str
    certified: Certified | None
    look: int
    at_us: int
    expires_us: int
    since_us: int = 0
    outcomes: int = 0

    @property
    def at(self) -> datetime:
        """When it was issued, aware UTC."""
        return from_us(self.at_us)

    @property
    def id(self) -> str:
        """The id of the record: one for a pair and a promise."""
        return certificate_id(self.asked, self.cheap, self.risk, self.confidence)

    def threshold_at(self, at_us: int) -> float | None:
        """Return the threshold that holds at an instant, None where there is none."""
        if self.state != "valid" or self.certified is None or at_us >= self.expires_us:
            return None
        return self.certified.threshold

    def to_dict(self) -> dict[str, Any]:
        """The certificate, JSON-ready."""
        return {
            "id": self.id,
            "asked": self.asked,
            "cheap": self.cheap,
            "risk": self.risk,
            "confidence": self.confidence,
            "state": self.state,
            "reason": self.reason,
            "certified": None if self.certified is None else self.certified._asdict(),
            "look": self.look,
            "at_us": self.at_us,
            "expires_us": self.expires_us,
            "since_us": self.since_us,
            "outcomes": self.outcomes,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Certificate:
        """Read what `to_dict` wrote."""
        found = {name: value for name, value in row.items() if name != "id"}
        if found["certified"] is not None:
            found["certified"] = Certified(**found["certified"])
        return cls(**found)


def first_look(risk: float, confidence: float) -> int:
    """Say how many outcomes the first look needs, were all of them harmless."""
    missing = (1 - confidence) / 2
    total = LOOK_FROM
    while total < WINDOW and upper_bound(0, total, 1 - missing) > risk:
        total += 1
    return total


def reviewed(
    before: Certificate | None,
    outcomes: Iterable[Outcome],
    *,
    asked: str,
    cheap: str,
    risk: float,
    confidence: float,
    at_us: int,
) -> Certificate | None:
    """Look at a tenant's outcomes, where it is time to, and say what became of the certificate.

    Args:
        before: What the last look found; None before the first.
        outcomes: All that are kept.
        asked, cheap: The models, by canonical ids.
        risk, confidence: The promise.
        at_us: The present.

    Returns:
        The new certificate, or None where nothing changes.
    """
    since_us = max(at_us - WINDOW_US, 0 if before is None else before.since_us)
    pairs = [pair for pair in pairs_of(outcomes, asked, cheap) if pair.at_us > since_us][-WINDOW:]
    if before is not None and before.state == "valid":
        drift = _drift(before, pairs)
        if drift is not None:
            return replace(before, state="revoked", reason=drift, since_us=at_us, outcomes=0)
    if before is not None and len(pairs) - before.outcomes < max(LOOK_FROM, before.outcomes):
        new = sum(pair.at_us > before.at_us for pair in pairs)
        full = len(pairs) == WINDOW and new >= WINDOW // 2
        if not full and (before.state != "valid" or at_us < before.expires_us):
            return None
        if not full and new < LOOK_FROM:
            reason = "its time is over, and there are too few new outcomes for another"
            return replace(before, state="expired", reason=reason)
    if len(pairs) < LOOK_FROM:
        return None
    look = 1 if before is None else before.look + 1
    missing = (1 - confidence) / (look * (look + 1))
    if upper_bound(0, len(pairs), 1 - missing) > risk:
        return None  # so few prove nothing, however good they are: no look is spent on them
    found = certify(pairs, risk, 1 - missing)
    if found is None:
        state, reason = (
            "none",
            (
                f"{len(pairs)} outcomes do not prove that at most {risk:.1%} of prompts would be harmed"
            ),
        )
    else:
        state, reason = (
            "valid",
            (
                f"{found.harmful} of {len(pairs)} outcomes would be harmed, which bounds the share at "
                f"{found.bound:.2%}; {found.routed / len(pairs):.0%} of prompts score low enough"
            ),
        )
    return Certificate(
        asked=asked,
        cheap=cheap,
        risk=risk,
        confidence=confidence,
        state=state,
        reason=reason,
        certified=found,
        look=look,
        at_us=at_us,
        expires_us=at_us + LASTS_US,
        since_us=0 if before is None else before.since_us,
        outcomes=len(pairs),
    )


def _drift(before: Certificate, pairs: Sequence[Pair]) -> str | None:
    """Say how the latest outcomes contradict a certificate, None where they do not."""
    certified = before.certified
    if certified is None:
        return None
    latest = [pair for pair in pairs if pair.at_us > before.at_us][-WATCHED:]
    if len(latest) < _WATCHED_LEAST:
        return None
    routed = [pair for pair in latest if pair.score <= certified.threshold]
    harmful = sum(pair.harmful for pair in routed)
    if tail(harmful, len(latest), before.risk) < _DRIFT:
        return (
            f"{harmful} of the latest {len(latest)} outcomes would be harmed, which the certified "
            f"{before.risk:.1%} does not explain"
        )
    share = (certified.routed + 1) / (certified.outcomes + 2)
    away = min(
        tail(len(routed), len(latest), share),
        tail(len(latest) - len(routed), len(latest), 1 - share),
    )
    if away < _DRIFT / 10:
        return (
            f"{len(routed)} of the latest {len(latest)} prompts score below the threshold, where "
            f"{share:.0%} did: they are prompts of another kind"
        )
    return None
