"""`Attempt`: a model that was asked in vain, and why."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A model that gave no answer.

    Attributes:
        model: Its id.
        provider: Who was asked, as the price table calls it.
        error: What went wrong, in one line.
        kind: The error's class, such as `RateLimitError`.
        status: The HTTP status; `None` where no answer came.
        cost: USD that was settled for it all the same: an estimate where it may have been charged.
    """

    model: str
    provider: str
    error: str
    kind: str
    status: int | None = None
    cost: Decimal = Decimal(0)

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.model} ({self.provider}): {self.kind}: {self.error}"

    def to_dict(self) -> dict[str, Any]:
        """The attempt, JSON-ready."""
        return {
            "model": self.model,
            "provider": self.provider,
            "error": self.error,
            "kind": self.kind,
            "status": self.status,
            "cost": str(self.cost),
        }
