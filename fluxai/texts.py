"""The text that a result, or the chunks of a stream, hold: what an estimate has to go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_DEPTH_MAX = 12
_PARTS_MAX = 100_000
#: Where providers put an answer: the first of these that a part has holds the others.
_HOLDERS = (
    "choices",
    "candidates",
    "output",
    "content_block",
    "content",
    "delta",
    "message",
    "parts",
    "text",
)
#: What is generated, and billed, beside it.
_BESIDE = (
    "tool_calls",
    "function",
    "function_call",
    "arguments",
    "args",
    "input",
    "partial_json",
    "thinking",
    "reasoning_content",
    "refusal",
)


def text_of(result: Any) -> str:
    """Collect the text that was generated; empty where nothing is understood.

    Args:
        result: Text, a response object or dict of any provider, or a list of them.
    """
    collector = _Collector()
    collector.visit(result, 0)
    return "".join(collector.texts)


class _Collector:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self._left = _PARTS_MAX
        self._inside: set[int] = set()

    def visit(self, part: Any, depth: int) -> None:
        if isinstance(part, str):
            self.texts.append(part)
            return
        self._left -= 1
        if (
            part is None
            or isinstance(part, (bytes, bytearray, int, float))
            or depth > _DEPTH_MAX
            or self._left < 0
            or id(part) in self._inside
        ):
            return
        self._inside.add(id(part))
        if isinstance(part, Sequence):
            for item in part:
                self.visit(item, depth + 1)
        else:
            self._visit_fields(part, depth)
        self._inside.discard(id(part))

    def _visit_fields(self, part: Any, depth: int) -> None:
        known = False
        for name in _HOLDERS:
            value = _field(part, name)
            if value is not None:
                self.visit(value, depth + 1)
                known = True
                break
        for name in _BESIDE:
            value = _field(part, name)
            if value is not None:
                self.visit(value, depth + 1)
                known = True
        if not known and depth and isinstance(part, Mapping):
            # The arguments of a tool call: generated as JSON, whatever they are called.
            self.texts.append(str(part))


def _field(part: Any, name: str) -> Any:
    value = part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)
    return None if callable(value) else value
