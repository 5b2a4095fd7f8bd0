"""What certified routing would have made of the calls that were: `fluxai simulate --routing`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fluxai.core.errors import InvalidRequest
from fluxai.learning import asked_of, score_of
from fluxai.prompts.scorer import shipped
from fluxai.routing.certificates import Certified, certify
from fluxai.routing.outcomes import pairs_of

if TYPE_CHECKING:
    from fluxai.core.decisions import UsageEvent
    from fluxai.governor import Governor
    from fluxai.routing.outcomes import Outcome

_LEVELS: Final = ("simple", "medium", "complex", "unknown")
_PAGE: Final = 1_000


@dataclass(slots=True, kw_only=True)
class ReplayedLevel:
    """The calls whose prompts are of one complexity.

    Attributes:
        complexity: `simple`, `medium`, `complex`, or `unknown` where no score was kept: such a call
            stays on the model that it asked for.
        calls, routed: How many there were, and how many would have run on the cheaper model.
        cost: USD that they cost.
        would_cost: USD that they would have cost.
        judged: How many of them have outcomes of both models.
        quality, would_quality: The mean quality of the model asked for, and with routing, over
            those; None without any.
        harmful: How many of those would have been harmed.
    """

    complexity: str
    calls: int = 0
    routed: int = 0
    cost: Decimal = field(default_factory=Decimal)
    would_cost: Decimal = field(default_factory=Decimal)
    judged: int = 0
    quality: float | None = None
    would_quality: float | None = None
    harmful: int = 0

    @property
    def saved(self) -> Decimal:
        """USD that routing would have saved."""
        return self.cost - self.would_cost

    def to_dict(self) -> dict[str, Any]:
        """The level, JSON-ready."""
        return {
            "complexity": self.complexity,
            "calls": self.calls,
            "routed": self.routed,
            "cost": str(self.cost),
            "would_cost": str(self.would_cost),
            "saved": str(self.saved),
            "judged": self.judged,
            "quality": self.quality,
            "would_quality": self.would_quality,
            "harmful": self.harmful,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One route, replayed.

    Attributes:
        asked, cheap: The models.
        risk, confidence: The promise.
        pairs: How many outcomes of both models there are.
        certified: What they prove at the full confidence; None where they prove nothing, and
            nothing would have been routed.
        levels: By complexity of the prompts.
    """

    asked: str
    cheap: str
    risk: float
    confidence: float
    pairs: int
    certified: Certified | None
    levels: tuple[ReplayedLevel, ...]

    def to_dict(self) -> dict[str, Any]:
        """The replay, JSON-ready."""
        return {
            "asked": self.asked,
            "cheap": self.cheap,
            "risk": self.risk,
            "confidence": self.confidence,
            "pairs": self.pairs,
            "certified": None if self.certified is None else self.certified._asdict(),
            "levels": [level.to_dict() for level in self.levels],
        }


def replay(
    governor: Governor,
    tenant: str,
    *,
    asked: str | None = None,
    cheap: str | None = None,
    risk: float | None = None,
    confidence: float | None = None,
    start: datetime | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Replay]:
    """Replay stored events as if routing had been certified by all outcomes there are now.

    Args:
        governor: Whose store it is.
        tenant: Whose calls.
        asked, cheap: A pair to try; without them the routes that policies allow.
        risk, confidence: A promise to try; that of the policies without it, else 5 % at 0.9.
        start: Only calls from then on.
        progress: Told how many events were read.

    Raises:
        InvalidRequest: Only one of `asked` and `cheap` is given.
        UnknownModel: A model has no price.
    """
    learned = governor.routing
    if (asked is None) != (cheap is None):
        raise InvalidRequest("cheap", "give both asked and cheap, or neither")
    if asked is not None and cheap is not None:
        catalog = governor.planner.catalog_of(tenant)
        at_us = governor._now()
        first, second = (catalog.any(name, at_us).id for name in (asked, cheap))
        routes = [(first, second, 0.05, 0.9)]
    else:
        routes = sorted(
            {(a, c, *promise) for a, c, promise, _ in learned.routes(tenant)},
        )
    tried = [
        (a, c, r if risk is None else risk, s if confidence is None else confidence)
        for a, c, r, s in routes
    ]
    outcomes = learned.outcomes(tenant)
    by_id = {one.id: one for one in outcomes}
    cost_on = learned.pricer(tenant)
    replays = []
    for a, c, r, s in tried:
        pairs = pairs_of(outcomes, a, c)
        replays.append(
            Replay(
                asked=a,
                cheap=c,
                risk=r,
                confidence=s,
                pairs=len(pairs),
                certified=certify(pairs, r, s),
                levels=tuple(ReplayedLevel(complexity=name) for name in _LEVELS),
            )
        )
    for number, event in enumerate(learned.events(tenant, start), 1):
        for one in replays:
            if (asked_of(event) or event.tool) == one.asked:
                _add(one, event, by_id.get(event.id), cost_on)
        if number % _PAGE == 0:
            progress(number)
    return replays


def _add(
    replay: Replay,
    event: UsageEvent,
    outcome: Outcome | None,
    cost_on: Callable[[str, UsageEvent], Decimal | None],
) -> None:
    score = score_of(event)
    if score is None and outcome is not None:
        score = outcome.score
    level = replay.levels[_place(score)]
    certified = replay.certified
    routed = certified is not None and score is not None and score <= certified.threshold
    # What was routed then is replayed as if it had not been.
    plain = event.cost if asked_of(event) is None else cost_on(replay.asked, event)
    cheaper = cost_on(replay.cheap, event)
    if plain is None or cheaper is None:
        return
    level.calls += 1
    level.cost += plain
    level.would_cost += cheaper if routed else plain
    level.routed += routed
    pair = None if outcome is None else outcome.pair(replay.asked, replay.cheap)
    if pair is not None:
        level.quality = _mean(level.quality, level.judged, pair.asked)
        level.would_quality = _mean(
            level.would_quality, level.judged, pair.cheap if routed else pair.asked
        )
        level.judged += 1
        level.harmful += routed and pair.harmful


def _mean(mean: float | None, count: int, value: float) -> float:
    return value if mean is None else mean + (value - mean) / (count + 1)


def _place(score: float | None) -> int:
    if score is None:
        return _LEVELS.index("unknown")
    scorer = shipped()
    return (score >= scorer.medium_from) + (score >= scorer.complex_from)
