"""What results and chunks of streams say besides their usage: their text, and whether they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_USAGES = ("usage", "usage_metadata", "usageMetadata")
#: How the Responses API says that a response has ended.
_ENDED = ("completed", "incomplete", "failed", "cancelled")
_DEPTH_MAX = 12
_PARTS_MAX = 100_000
#: Where providers put an answer: the first of these that a part has holds the others.
_HOLDERS = (
    "choices",
    "candidates",
    "output",
    "steps",
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


def tells_final_usage(chunk: Any) -> bool:
    """Say whether a stream's chunk states the usage of the whole call.

    Some providers count along while they stream: what they state is final only in a chunk that says
    how the answer ended, or that holds no more of it.
    """
    body = _field(chunk, "response") or _field(chunk, "interaction") or chunk
    if not any(_field(body, name) for name in _USAGES):
        return False
    choices = _field(body, "choices")
    if choices is not None:
        return not choices or any(_field(choice, "finish_reason") for choice in choices)
    candidates = _field(body, "candidates") or ()
    return (
        any(_field(c, "finish_reason") or _field(c, "finishReason") for c in candidates)
        or bool(_field(_field(body, "delta"), "stop_reason"))
        or _field(body, "status") in _ENDED
        or _field(chunk, "event_type") == "interaction.completed"
        or _field(body, "done") is True
    )


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
