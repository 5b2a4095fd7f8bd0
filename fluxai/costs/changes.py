"""What differs between two price tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fluxai.costs.book import in_force
from fluxai.costs.table import Line, PriceTable


class Change(NamedTuple):
    """One price that differs. Prices are nano-USD per million units.

    Attributes:
        provider: Who is paid.
        model: The model's id there.
        kind: What is priced; a tier's is `batch input`. `model` where it came or went as a whole.
        before: The price in the older table; `None` where there was none.
        after: The price in the newer one; `None` where there is none any more.
    """

    provider: str
    model: str
    kind: str
    before: int | None
    after: int | None


def changes(old: PriceTable, new: PriceTable, at_us: int) -> Iterator[Change]:
    """Yield every price at an instant that differs between two tables, by provider and model."""
    for provider in sorted({*old.providers, *new.providers}):
        before = _lines(old, provider)
        after = _lines(new, provider)
        for model in sorted({*before, *after}):
            yield from _changed(provider, model, before.get(model), after.get(model), at_us)


def _lines(table: PriceTable, provider: str) -> dict[str, Line]:
    home = table.providers.get(provider)
    return {} if home is None else {line["id"]: line for line in home.lines}


def _changed(
    provider: str, model: str, before: Line | None, after: Line | None, at_us: int
) -> Iterator[Change]:
    old, new = _prices(before, at_us), _prices(after, at_us)
    if before is None or after is None:
        kind = "input" if "input" in {**old, **new} else next(iter({**old, **new}), "input")
        yield Change(provider, model, "model", old.get(kind), new.get(kind))
        return
    for kind in {**old, **new}:
        if old.get(kind) != new.get(kind):
            yield Change(provider, model, kind, old.get(kind), new.get(kind))


def _prices(line: Line | None, at_us: int) -> dict[str, int]:
    if line is None or not line["prices"]:
        return {}
    found = dict(_flat("", in_force(line["prices"], at_us)))
    for tier, _, rates in line.get("variants", ()):
        found.update(_flat(f"{tier} ", rates))
    return found


def _flat(prefix: str, rates: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for kind, rate in rates.items():
        if type(rate) is int:
            yield prefix + kind, rate
        else:
            base, *steps = rate
            yield prefix + kind, base
            for start, step in steps:
                yield f"{prefix}{kind} over {start:,}", step
