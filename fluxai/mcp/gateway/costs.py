"""What a forwarded call costs: its units before, and the server's own figure after."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import mcp_types as types

from fluxai.mcp.gateway.config import Terms

log = logging.getLogger("fluxai.mcp")

_UNITS_MAX = 10**9


def units_of(terms: Terms, arguments: Mapping[str, Any]) -> int:
    """Return how many units a call is: fixed, or what an argument says, or its length.

    An argument that says nothing usable counts as one unit; the server will refuse it or not.
    """
    if not isinstance(terms.units, str):
        return 1 if terms.units is None else terms.units
    said = arguments.get(terms.units)
    if isinstance(said, (str, list, dict)):
        said = len(said)
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 1 <= said <= _UNITS_MAX:
        return 1
    return -int(-said // 1)


def reported_cost(terms: Terms, result: types.CallToolResult, *, most: Decimal) -> Decimal | None:
    """Return what a server says that a call cost, in USD; None where it says nothing usable.

    Args:
        terms: Where in `_meta` it says so.
        result: Its answer.
        most: What was reserved. A server's word is not money: it is never believed beyond that.
    """
    if terms.cost_meta is None or result.meta is None:
        return None
    said = dict(result.meta).get(terms.cost_meta)
    if said is None:
        return None
    try:
        # The shortest text of a JSON number is what the server wrote.
        cost = Decimal(str(said))
        usable = not isinstance(said, bool) and cost.is_finite() and cost >= 0
    except InvalidOperation:
        usable = False
    if not usable:
        log.warning("a server reports a cost that is no amount of USD: %r", said)
        return None
    if cost > most:
        log.warning(
            "a server reports a cost of $%s; charging the $%s that were reserved", cost, most
        )
        return most
    return cost
