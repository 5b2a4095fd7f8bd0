"""`Image`: a picture that a model made, and what it cost."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fluxai.core.attempts import Attempt
    from fluxai.core.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A picture that a model made.

    Attributes:
        data: Its bytes.
        media_type: `image/png`, `image/jpeg`, … as its first bytes say.
        model: The model that made it.
        display_name: How it is called in print.
        provider: Who was paid, as the price table calls it.
        reason: Why this model.
        usage: What was used.
        cost: USD: what was settled for the call that made it.
        attempts: What failed before.
        reservation_id: Under which it was reserved; `None` where money is held outside.
    """

    data: bytes
    media_type: str
    model: str
    display_name: str
    provider: str
    reason: str
    usage: Usage
    cost: Decimal
    attempts: tuple[Attempt, ...]
    reservation_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """The image, JSON-ready: its bytes as base64, what was used by kind."""
        return {
            "data": base64.b64encode(self.data).decode(),
            "media_type": self.media_type,
            "model": self.model,
            "display_name": self.display_name,
            "provider": self.provider,
            "reason": self.reason,
            "usage": self.usage.to_dict(),
            "cost": str(self.cost),
            "attempts": [attempt.to_dict() for attempt in self.attempts],
            "reservation_id": self.reservation_id,
        }
