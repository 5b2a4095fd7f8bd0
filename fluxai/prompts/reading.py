"""What a prompt says, whichever way it is written: text, messages of any provider, or a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

#: Deeper nesting is not read, and neither is more than this many parts: a bound on odd input.
_DEPTH_MAX: Final = 16
_PARTS_MAX: Final = 20_000
#: Where a request keeps its messages, and what is said beside them.
_MESSAGES: Final = ("messages", "contents", "input", "prompt")
_SYSTEM: Final = ("system", "instructions", "system_instruction", "systemInstruction")
#: Where a message or a part of it keeps its text.
_TEXTS: Final = ("content", "parts", "text", "thinking", "arguments", "output", "refusal")
#: Where it keeps a file, and a call of a tool or its result.
_MEDIA: Final = (
    "image_url",
    "source",
    "inline_data",
    "inlineData",
    "file_data",
    "fileData",
    "input_audio",
    "image",
    "document",
    "video",
    "file",
    "file_id",
    "file_url",
)
_CALLS: Final = (
    "tool_calls",
    "function",
    "function_call",
    "functionCall",
    "function_response",
    "functionResponse",
    "toolUse",
    "toolResult",
    "args",
    "response",
    "json",
)
#: Who speaks when a person, or the program, asks.
_ASKERS: Final = frozenset({"user", "human"})
_RESULTS: Final = frozenset({"tool_result", "function_call_output", "tool_use", "function_call"})


class Prompt(NamedTuple):
    """A prompt, read.

    Attributes:
        asked: The last thing that was asked for, as text.
        texts: All texts, in order.
        messages: How many messages there are.
        media: How many images and other files there are.
        tools: How many tools may be called.
    """

    asked: str
    texts: tuple[str, ...]
    messages: int
    media: int
    tools: int


def read_prompt(prompt: object) -> Prompt:
    """Read text, a message, a list of messages, or a whole request, as dicts or SDK objects.

    Never raises on odd input: what is not understood is left out.
    """
    if type(prompt) is str:
        return Prompt(prompt, (prompt,) if prompt else (), 1, 0, 0)
    reader = _Reader()
    tools = 0
    messages = prompt
    if not _is_text(prompt) and _get(prompt, "role") is None:
        inner = next((found for name in _MESSAGES if (found := _get(prompt, name))), None)
        if inner is not None:
            for name in _SYSTEM:
                reader.visit(_get(prompt, name), 0)
            tools = _tools_in(_get(prompt, "tools") or _get(_get(prompt, "config"), "tools"))
            messages = inner
    listed = messages if isinstance(messages, (list, tuple)) else (messages,)
    asked = ""
    spoken = ""
    for message in listed:
        before = len(reader.texts)
        reader.said = []
        reader.visit(message, 0)
        said = "\n".join(reader.said)
        role = _get(message, "role")
        if said and (role is None or role in _ASKERS):
            asked = said if role is not None or not asked else f"{asked}\n{said}"
        spoken = "\n".join(reader.texts[before:]) or spoken
    return Prompt(asked or spoken, tuple(reader.texts), len(listed), reader.media, tools)


class _Reader:
    def __init__(self) -> None:
        self.texts: list[str] = []
        #: Those of the current message that are no call of a tool and no result of one.
        self.said: list[str] = []
        self.media = 0
        self._left = _PARTS_MAX
        self._inside: set[int] = set()

    def visit(self, part: object, depth: int, *, call: bool = False) -> None:
        if part is None or isinstance(part, (int, float)):
            return
        self._left -= 1
        if self._left < 0 or depth > _DEPTH_MAX or id(part) in self._inside:
            return
        if isinstance(part, str):
            if part:
                self.texts.append(part)
                if not call:
                    self.said.append(part)
            return
        if isinstance(part, (bytes, bytearray, memoryview)):
            if depth == 0:
                self.visit(bytes(part).decode("utf-8", "replace"), depth + 1)
            else:
                self.media += 1
            return
        self._inside.add(id(part))
        if isinstance(part, (list, tuple)):
            for inner in part:
                self.visit(inner, depth + 1, call=call)
        else:
            self._visit_fields(part, depth, call=call)
        self._inside.discard(id(part))

    def _visit_fields(self, part: object, depth: int, *, call: bool) -> None:
        call = call or _get(part, "type") in _RESULTS or _get(part, "role") in {"tool", "function"}
        self.media += any(_get(part, name) is not None for name in _MEDIA)
        known = False
        for name in _TEXTS:
            inner = _get(part, name)
            if inner is not None:
                self.visit(inner, depth + 1, call=call)
                known = True
        for name in _CALLS:
            inner = _get(part, name)
            if inner is not None:
                self.visit(inner, depth + 1, call=True)
                known = True
        arguments = _get(part, "input") if call else None
        if arguments is not None:
            self.visit(arguments, depth + 1, call=True)
        elif call and not known and isinstance(part, Mapping):
            # The arguments of a call are whatever its tool takes.
            for inner in part.values():
                self.visit(inner, depth + 1, call=True)


def _tools_in(tools: object) -> int:
    """Count tools; Gemini puts several into one."""
    if not isinstance(tools, (list, tuple)):
        return 1 if tools else 0
    count = 0
    for tool in tools:
        declared = _get(tool, "function_declarations") or _get(tool, "functionDeclarations")
        count += len(declared) if isinstance(declared, (list, tuple)) else 1
    return count


def _is_text(value: object) -> bool:
    return isinstance(value, (str, bytes, bytearray, memoryview, list, tuple, int, float))


def _get(part: object, name: str) -> Any:
    """Return a field of a dict or an object; `None` where there is none, or only a method."""
    if isinstance(part, Mapping):
        value = part.get(name)
    elif part is None or isinstance(part, (str, bytes, int, float, list, tuple)):
        return None
    else:
        value = getattr(part, name, None)
    return None if callable(value) else value
