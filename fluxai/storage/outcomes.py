"""What a caller settled with, as text: so that a repeat compares equal in any process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from fluxai.core.errors import InvalidRequest
from fluxai.core.usage import Usage


def outcome_text(outcome: object) -> str:
    """Write an outcome canonically.

    Args:
        outcome: None, a bool, int, str, `Decimal` or `Usage`, or a tuple, list or mapping of these.

    Returns:
        JSON text; equal outcomes give equal texts, and different ones different texts. Numbers that
        differ only in trailing zeros are equal.

    Raises:
        InvalidRequest: It is of another kind, which may not compare equal in another process.
    """
    return json.dumps(_plain(outcome), separators=(",", ":"), sort_keys=True)


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Decimal):
        return {"decimal": format(value.normalize(), "f")}
    if isinstance(value, Usage):
        return {"usage": value.to_dict()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key), _plain(value[key])] for key in sorted(value)]}
    raise InvalidRequest(
        "outcome", f"must be made of plain values, Decimal and Usage, got {type(value).__name__}"
    )
