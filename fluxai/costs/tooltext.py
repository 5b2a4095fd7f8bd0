"""Write tool definitions as the text that a model is given in their place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fluxai.costs.plain import fields, get

#: Schemas nested deeper than this are written as `object`.
_DEPTH_MAX: Final = 16
_SCHEMAS: Final = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema")
#: Fields that tools which the caller runs have, one or the other.
_NAMED: Final = frozenset({"name", "function", "toolSpec", "description"})


def each(tools: object) -> Sequence[Any]:
    """Return the single tools of any provider's form: lists, Gemini's declarations, mappings."""
    if isinstance(tools, Mapping):
        listed = get(tools, "tools")
        tools = listed if listed is not None else [tools]
    if isinstance(tools, str) or not isinstance(tools, Iterable):
        return [tools]
    found: list[Any] = []
    for tool in tools:
        declared = None
        if not callable(tool):
            declared = get(tool, "functionDeclarations", "function_declarations")
        found.extend(declared if isinstance(declared, (list, tuple)) else [tool])
    return found


def is_hosted(tool: object) -> bool:
    """Say whether a tool runs at the provider, and so is not all that is billed for it."""
    if callable(tool) or isinstance(tool, str):
        return False
    source = fields(tool)
    kind = source.get("type")
    if isinstance(kind, str):
        return kind not in {"function", "custom"} and not any(key in source for key in _SCHEMAS)
    return not source.keys() & _NAMED


def as_json(tool: object) -> str:
    """Write a tool as JSON, which most models are given."""
    if callable(tool) or isinstance(tool, str):
        return _described(tool)
    inner = get(tool, "function", "toolSpec")
    return json_text(fields(tool if inner is None else inner) or tool)


def json_text(value: object) -> str:
    """Write anything as JSON; what JSON can't hold, as its text."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_opened, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _opened(value: object) -> object:
    return fields(value) or str(value)


def as_signature(tool: object) -> str:
    """Write a tool as the TypeScript that OpenAI's models are given.

    Source: the prompt format that OpenAI published with its open models.
    """
    if callable(tool) or isinstance(tool, str):
        return _described(tool)
    inner = get(tool, "function", "toolSpec")
    source = fields(tool if inner is None else inner)
    about = source.get("description") or ""
    name = source.get("name") or source.get("type") or ""
    schema = next((source[key] for key in _SCHEMAS if source.get(key) is not None), None)
    text = f"// {about}\n" if about else ""
    properties = fields(get(schema, "properties"))
    if not properties:
        return f"{text}type {name} = () => any;\n\n"
    return f"{text}type {name} = (_: {_object(schema, properties, 0)}) => any;\n\n"


def _object(schema: object, properties: Mapping[str, Any], depth: int) -> str:
    required = get(schema, "required") or ()
    lines = ["{"]
    for key, value in properties.items():
        about = get(value, "description")
        if isinstance(about, str):
            lines.append(f"// {about}")
        lines.append(f"{key}{'' if key in required else '?'}: {_type(value, depth + 1)},")
    return "\n".join([*lines, "}"])


def _type(schema: object, depth: int) -> str:
    if depth > _DEPTH_MAX:
        return "object"
    choices = get(schema, "enum")
    if isinstance(choices, (list, tuple)):
        return " | ".join(json_text(choice) for choice in choices)
    several = get(schema, "anyOf", "oneOf", "allOf")
    if isinstance(several, (list, tuple)):
        return " | ".join(_type(one, depth + 1) for one in several)
    kind = get(schema, "type")
    if kind == "array":
        return f"{_type(get(schema, 'items'), depth + 1)}[]"
    properties = fields(get(schema, "properties"))
    if properties:
        return _object(schema, properties, depth)
    if isinstance(kind, (list, tuple)):
        return " | ".join(map(str, kind))
    return "number" if kind == "integer" else str(kind or "any")


def _described(tool: object) -> str:
    if isinstance(tool, str):
        return tool
    return f"{getattr(tool, '__name__', '')} {getattr(tool, '__doc__', '') or ''}"
