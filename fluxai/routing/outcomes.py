"""What came of calls: how good each model's answer to one prompt was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

#: An answer that is worse by more than this is harm. Qualities are from 0 to 1.
HARM_FROM: Final = 0.1


class Pair(NamedTuple):
    """Both models' answers to one prompt.

    Attributes:
        score: How hard the prompt is, as `PromptAnalysis.gain`.
        asked, cheap: The quality of the answers, 0 to 1: of the model that was asked for, and of
            the cheaper one.
        at_us: When.
    """

    score: float
    asked: float
    cheap: float
    at_us: int = 0

    @property
    def harmful(self) -> bool:
        """Whether the cheaper model would have been the wrong choice."""
        return self.asked - self.cheap > HARM_FROM


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The quality of one or more models' answers to one prompt.

    Attributes:
        id: Of the call, or of the comparison.
        at_us: When the last of it was said.
        score: How hard the prompt is, as `PromptAnalysis.gain`; `None` where that is not known.
        qualities: By the model's canonical id, from 0 to 1.
        source: Who judged: `comparison`, `human`, `tests`, or any word of yours.
    """

    id: str
    at_us: int
    score: float | None
    qualities: Mapping[str, float]
    source: str

    def pair(self, asked: str, cheap: str) -> Pair | None:
        """Return both models' answers, None where one is missing or the score is not known."""
        first, second = self.qualities.get(asked), self.qualities.get(cheap)
        if first is None or second is None or self.score is None:
            return None
        return Pair(self.score, first, second, self.at_us)

    def merged(self, later: Outcome) -> Outcome:
        """Add what was said later of the same call."""
        return Outcome(
            id=self.id,
            at_us=max(self.at_us, later.at_us),
            score=self.score if later.score is None else later.score,
            qualities={**self.qualities, **later.qualities},
            source=later.source,
        )

    def to_dict(self) -> dict[str, Any]:
        """The outcome, JSON-ready."""
        return {
            "id": self.id,
            "at_us": self.at_us,
            "score": self.score,
            "qualities": dict(self.qualities),
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Outcome:
        """Read what `to_dict` wrote."""
        return cls(
            id=row["id"],
            at_us=row["at_us"],
            score=row["score"],
            qualities=row["qualities"],
            source=row["source"],
        )


def pairs_of(outcomes: Iterable[Outcome], asked: str, cheap: str) -> list[Pair]:
    """List the pairs of two models, oldest first."""
    found = [pair for one in outcomes if (pair := one.pair(asked, cheap)) is not None]
    found.sort(key=lambda pair: pair.at_us)
    return found
