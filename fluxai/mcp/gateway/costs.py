"""What a forwarded call costs: its units before, and the server's own figure after."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import mcp_types as types

from fluxai.core.errors import InvalidRequest
from fluxai.mcp.gateway.config import Terms

log = logging.getLogger("fluxai.mcp")

_UNITS_MAX = 10**9


def units_of(terms: Terms, arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> int:
    """Return how many units a call is: fixed, or what an argument says, or its length.

    An argument that says nothing usable counts as one unit; the server will refuse it or not.

    Args:
        terms: Which argument says so.
        arguments: Those of the call.
        schema: What the tool takes.

    Raises:
        InvalidRequest: It is more than anything can be, or a text where the tool takes a number:
            servers read the number from it, and its length says nothing of that.
    """
    if not isinstance(terms.units, str):
        return 1 if terms.units is None else terms.units
    said = arguments.get(terms.units)
    if isinstance(said, str) and not _takes_text(schema, terms.units):
        raise InvalidRequest(terms.units, "must be a number: it says what the call costs")
    if isinstance(said, (str, list, dict)):
        said = len(said)
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not said >= 1:
        return 1
    if said > _UNITS_MAX:
        raise InvalidRequest(terms.units, f"must be at most {_UNITS_MAX}")
    return -int(-said // 1)


def _takes_text(schema: Mapping[str, Any], argument: str) -> bool:
    """Say whether a tool may take a text for an argument. The schema is a server's own: anything."""
    properties = schema.get("properties")
    declared = properties.get(argument) if isinstance(properties, dict) else None
    if not isinstance(declared, dict):
        return True
    choices = [declared]
    for word in ("anyOf", "oneOf"):
        listed = declared.get(word)
        choices += listed if isinstance(listed, list) else []
    named = [choice.get("type") for choice in choices if isinstance(choice, dict)]
    kinds = {kind for types in named for kind in (types if isinstance(types, list) else [types])}
    return "string" in kinds or not kinds & {"integer", "number"}


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
    except (InvalidOperation, ValueError):  # the latter of integers with thousands of digits
        usable = False
    if not usable:
        log.warning("a server reports a cost that is no amount of USD")
        return None
    if cost > most:
        log.warning(
            "a server reports a cost of $%s; charging the $%s that were reserved", cost, most
        )
        return most
    return cost
