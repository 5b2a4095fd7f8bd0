"""See any provider's response as mappings: a dict, or an object of an SDK."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_EMPTY: Mapping[str, Any] = {}


def get(source: object, *names: str) -> Any:
    """Return the first of those fields that is there and not `None`.

    Works on mappings and on objects with attributes (pydantic, proto-plus, plain classes).
    """
    if type(source) is dict or isinstance(source, Mapping):
        for name in names:
            value = source.get(name)
            if value is not None:
                return value
        return None
    if source is None:
        return None
    for name in names:
        value = _attribute(source, name)
        if value is not None:
            return value
    return None


def opened(source: object) -> object:
    """Return a pydantic object's fields as a mapping; anything else as it is.

    Asking a pydantic object for a field that it lacks takes microseconds, and most are lacking.
    """
    return fields(source) if hasattr(type(source), "__pydantic_validator__") else source


def _attribute(source: object, name: str) -> Any:
    # A property of an SDK object may compute something and fail with anything; for the parser that
    # is a field which is not there. The outcome is visible: usage flagged `no_usage`.
    try:
        return getattr(source, name, None)
    except Exception:  # noqa: BLE001 -- boundary to foreign objects
        return None


def fields(source: object) -> Mapping[str, Any]:
    """Return the fields of a mapping or of an SDK's object, one level deep; empty if none."""
    if type(source) is dict:
        return source
    if source is None:
        return _EMPTY
    if hasattr(type(source), "__pydantic_validator__"):
        model: Any = source
        # Pydantic keeps the fields that its class does not know, such as OpenRouter's `cost`.
        known: Mapping[str, Any] = model.__dict__
        extra: Mapping[str, Any] | None = model.__pydantic_extra__
        return {**known, **extra} if extra else known
    if isinstance(source, Mapping):
        return source
    if isinstance(source, (str, bytes, int, float, Sequence)):
        return _EMPTY
    values = _attribute(source, "__dict__")
    if values:
        return _protobuf(values["_pb"]) if "_pb" in values else values
    if _attribute(source, "DESCRIPTOR") is not None:
        return _protobuf(source)
    slots = [slot for cls in type(source).__mro__ for slot in getattr(cls, "__slots__", ())]
    return {slot: _attribute(source, slot) for slot in slots if not slot.startswith("__")}


def _protobuf(message: Any) -> Mapping[str, Any]:
    """Return the fields of a protobuf message, enumerations by name."""
    values: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.enum_type is not None:
            names = field.enum_type.values_by_number
            if isinstance(value, int):
                value = names[value].name if value in names else value
            else:
                value = [names[item].name if item in names else item for item in value]
        values[field.name] = value
    return values


def items(source: object) -> Sequence[Any]:
    """Return a list-like value as a sequence; anything else as an empty one."""
    if isinstance(source, (list, tuple)):
        return source
    if source is None or isinstance(source, (str, bytes, Mapping, int, float)):
        return ()
    # Repeated fields of protobuf and proto-plus are sequences without being lists.
    if hasattr(type(source), "__len__") and hasattr(type(source), "__getitem__"):
        repeated: Any = source
        return tuple(repeated)
    return ()


def decoded(text: str | bytes | bytearray | memoryview) -> Any:
    """Decode JSON, server-sent events, or one JSON document per line; `None` if it is neither."""
    if not isinstance(text, str):
        text = bytes(text).decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    chunks = []
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        if data[:1] in {"{", "["}:
            try:
                chunks.append(json.loads(data))
            except (ValueError, RecursionError):
                continue
    return chunks or None
