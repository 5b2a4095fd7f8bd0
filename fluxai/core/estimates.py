"""What a call costs, shown by kind: before it as an estimate, after it as the lines of a bill."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from fluxai.core.money import PER_MILLION

_INTEGER = Decimal(1)


class CostLine(NamedTuple):
    """One kind of what was used, or will be, and its price.

    Attributes:
        kind: A token kind of `Usage`, a fee kind, `seconds`, `characters`, `units`, or `call`.
        quantity: How many.
        unit_price: USD for one.
        amount: USD, exact; the call's total is the sum, rounded up to whole nano-USD.
        source: Where the price is from, with date; `provider` when the provider stated the cost.
        found: How the quantity was found: `reported` by the provider; before the call the method of
            the count (see `Estimate`), `cap` for the limit that the request sets on its answer,
            `granted` for one that was chosen, or `fixed`.
    """

    kind: str
    quantity: Decimal | int
    unit_price: Decimal
    amount: Decimal
    source: str
    found: str = "reported"

    def to_dict(self) -> dict[str, Any]:
        """The line, JSON-ready."""
        quantity = self.quantity
        return {
            "kind": self.kind,
            "quantity": quantity if isinstance(quantity, int) else f"{quantity:f}",
            "unit_price": f"{self.unit_price:f}",
            "amount": f"{self.amount:f}",
            "source": self.source,
            "found": self.found,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> CostLine:
        """Read what `to_dict` wrote."""
        quantity = row["quantity"]
        return cls(
            row["kind"],
            quantity if isinstance(quantity, int) else Decimal(quantity),
            Decimal(row["unit_price"]),
            Decimal(row["amount"]),
            row["source"],
            row["found"],
        )


def cost_line(
    kind: str, quantity: Decimal | int, rate: int, source: str, found: str = "reported"
) -> CostLine:
    """Price a quantity.

    Args:
        kind: Of what.
        quantity: How many.
        rate: Nano-USD per million of them.
        source: Where the rate is from.
        found: How the quantity was found.
    """
    price = Decimal(rate).scaleb(-15)
    return CostLine(kind, quantity, _short(price), _short(quantity * price), source, found)


def fixed_line(kind: str, nanousd: int, source: str) -> CostLine:
    """Price what is charged once for each call, in nano-USD."""
    return cost_line(kind, 1, nanousd * PER_MILLION, source, "fixed")


def _short(amount: Decimal) -> Decimal:
    """Drop trailing zeros without turning 100 into 1E+2."""
    return amount.quantize(_INTEGER) if amount == amount.to_integral() else amount.normalize()


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call will cost: likely, and at most.

    Attributes:
        expected: USD, most likely.
        highest: USD that few calls exceed; this is what a reservation holds.
        input_tokens: The expected input tokens; the upper number that is held is in `lines`.
        method: How the input was counted: `exact` (as given), `continued` (what the same
            conversation was billed last, and its new messages), `learned` (corrected by what calls
            with the same tools were billed), `encoder` (a tokenizer), `heuristic` (classes of
            bytes), or `units`.
        confidence: `high`, `medium` or `low`: low where the request does not show all that will be
            billed.
        lines: What the highest cost is made of, a line per kind.
    """

    expected: Decimal
    highest: Decimal
    input_tokens: int = 0
    method: str = "exact"
    confidence: str = "high"
    lines: tuple[CostLine, ...] = ()
