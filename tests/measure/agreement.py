"""Costs held against a price library's, and against what providers themselves report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from fluxai.core.errors import UnknownModel
from fluxai.costs import Cost, CostEstimator
from tests.measure.records import Record, body, model_asked_for

#: When the library's present-day prices were taken.
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
#: The rounding up of ours, and a little room for the library's own.
TOLERANCE = Decimal("0.0005")
#: The library's costs, the one that knows most first.
OPINIONS = ("cost_with_tier", "cost_at_time", "cost_now")

ESTIMATOR = CostEstimator()


def price(record: Record, at: datetime | None = NOW) -> Cost | None:
    """Return the cost, or `None` where no price is known."""
    try:
        return ESTIMATOR.cost(
            body(record), record["provider"], model=model_asked_for(record), at=at
        )
    except UnknownModel:
        return None


def recorded_at(record: Record) -> datetime | None:
    """Return when the response was recorded."""
    stamp = record.get("timestamp")
    return datetime.fromisoformat(stamp) if stamp else None


def opinion_of(record: Record) -> tuple[str, Decimal] | None:
    """Return which of the library's costs there is, and that cost."""
    oracle = record.get("oracle") or {}
    for name in OPINIONS:
        if oracle.get(name) is not None:
            return name, Decimal(oracle[name])
    return None


def agrees(cost: Cost | None, wanted: Decimal) -> bool:
    """Say whether a cost is the library's."""
    return cost is not None and abs(cost.total - wanted) <= max(
        Decimal("1.1e-9"), wanted * TOLERANCE
    )


def _text(record: Record) -> str:
    return json.dumps(body(record))


class Cause(NamedTuple):
    """Why a cost may differ from the library's.

    Attributes:
        holds: Whether it is the cause for a record and our cost of it.
        known: The library is known to be wrong there by itself, whatever we answer.
        rule: What the provider documents of its usage, or we of prices, and is not followed there;
            empty where it is only a charge that the library leaves out.
    """

    holds: Callable[[Record, Cost], object]
    known: bool = False
    rule: str = ""


_XAI_TOOLS = ("web_search", "x_search", "code_execution", "attachment_search", "file_search")
#: In the order in which they are tried.
CAUSES: dict[str, Cause] = {
    "Anthropic's iterations are left out there": Cause(
        lambda _, c: "iterations" in c.flags, known=True
    ),
    "Perplexity's fee is that of the largest search there": Cause(
        lambda r, _: r["provider"] == "perplexity", known=True
    ),
    "mistral-large-latest has an old price there": Cause(
        lambda _, c: c.model == "mistral-large-latest", known=True
    ),
    "deepseek-chat and -reasoner have old prices there": Cause(
        lambda _, c: c.model in {"deepseek-chat", "deepseek-reasoner"}, known=True
    ),
    "xAI's server-side tools are left out there": Cause(
        lambda r, c: (
            r["provider"].startswith("xai") and any(kind in c.usage.requests for kind in _XAI_TOOLS)
        ),
        known=True,
    ),
    "the provider's own cost counts more than a list price": Cause(
        lambda _, c: "provider_cost" in c.flags, known=True
    ),
    "the tier that the response states is left out there": Cause(
        lambda r, _: re.search(r'"service_tier": "(?:flex|priority|batch)"', _text(r))
    ),
    "a loop of searches is judged as one large request there": Cause(
        lambda _, c: "search_loop" in c.flags,
        rule="a loop of searches sums its inputs: no price step is judged by that sum",
    ),
    "OpenAI's web searches are left out there": Cause(
        lambda _, c: any(kind in c.usage.requests for kind in ("web_search", "web_search_preview")),
        rule="web searches are output items, not usage",
    ),
    "OpenAI's file searches are left out there": Cause(
        lambda _, c: "file_search" in c.usage.requests
    ),
    "a model that searches on every request has a fee": Cause(
        lambda _, c: "search-preview" in str(c.model)
    ),
    "images of a hosted tool are left out there": Cause(
        lambda _, c: any(kind.startswith("image_") for kind in c.usage.requests)
    ),
    "only the image tool's usage, of zero, was read there": Cause(
        lambda r, _: str(r["usage_path"]).endswith("tool_usage.image_gen"),
        rule="a hosted image tool has a usage of its own, to be added to the response's",
    ),
    "cached tokens are stated under a name that is not read there": Cause(
        lambda r, c: "num_cached_tokens" in _text(r) and c.usage.cache_read,
        rule="Mistral states cached tokens as num_cached_tokens",
    ),
    "seconds of audio are left out there": Cause(
        lambda _, c: c.usage.seconds,
        rule="Mistral states audio as prompt_audio_seconds, transcriptions as seconds",
    ),
    "audio is priced as text there": Cause(
        lambda _, c: str(c.model).endswith("audio-preview") and c.usage.audio_in
    ),
    "modalities are stated under a name that is not read there": Cause(
        lambda r, _: "promptTokenDetails" in _text(r)
    ),
    "a missing price is zero there": Cause(
        lambda _, c: c.model == "qwen-3-coder-480b", rule="what has no price is never free"
    ),
    "the response does not say which of a router's providers it was": Cause(
        lambda _, c: "provider_guessed" in c.flags
    ),
}


def cause_of(record: Record, cost: Cost | None) -> str | None:
    """Return why a cost differs; `None` where nothing explains it."""
    if cost is None:
        return None
    return next((name for name, cause in CAUSES.items() if cause.holds(record, cost)), None)
