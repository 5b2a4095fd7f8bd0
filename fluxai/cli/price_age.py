"""How old the prices are, wherever one is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fluxai.cli.figures import plural
from fluxai.cli.screen import Section, Text

if TYPE_CHECKING:
    from fluxai.costs.table import PriceTable


def about_prices(table: PriceTable) -> dict[str, Any]:
    """Return where a price table comes from, how old it is, and whether that is too old."""
    from fluxai.costs.table import STALE_DAYS

    days = table.age_days(datetime.now(UTC).date())
    return {
        "version": table.version,
        "source": table.source,
        "compiled_on": table.compiled_on,
        "age_days": days,
        "stale": days > STALE_DAYS,
        "providers": len(table.providers),
    }


def price_section(about: dict[str, Any]) -> Section:
    """Show what `about_prices` found."""
    age = plural(about["age_days"], "day")
    line = f"{about['source']}, compiled on {about['compiled_on']}, {age} ago"
    return Section(
        "Price table",
        [Text(f"{line}; {about['providers']} providers.", "dim"), *stale_prices(about)],
    )


def stale_prices(about: dict[str, Any]) -> list[Text]:
    """Return the warning that prices are stale; nothing while they are not."""
    if not about["stale"]:
        return []
    return [
        Text(
            f"These prices are stale, {plural(about['age_days'], 'day')} old: upgrade "
            f"genai-prices, then run `fluxai prices update`.",
            "warn",
        )
    ]
