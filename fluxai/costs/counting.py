"""Count the tokens of a request before a call: its messages, tools and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Final, NamedTuple

from fluxai.core.tokens import text_tokens
from fluxai.costs import tooltext
from fluxai.costs.framing import DEFAULT, Framing, framing_of
from fluxai.costs.plain import fields

#: Nested messages deeper than this are counted as their text.
_DEPTH_MAX: Final = 64


#: A tokenizer, such as `tiktoken.get_encoding("o200k_base").encode_ordinary`.
Encoder = Callable[[str], Sized]


class TokenCount(NamedTuple):
    """An estimate of input tokens.

    Attributes:
        expected: The most likely number.
        upper: A number that few requests exceed: what to hold.
        method: `exact` (as given), `encoder` (a tokenizer), `heuristic` (classes of bytes),
            `learned` (corrected by what calls with the same tools were billed) or `continued`
            (what the same conversation was billed last, and its new messages).
        confidence: `high`, `medium` or `low`.
    """

    expected: int
    upper: int
    method: str
    confidence: str


#: How far a request may exceed its estimate that does not show all that is billed.
_UNSEEN_MARGIN: Final = 2.0
#: A tokenizer takes 50 to 200 µs for 1,000 characters: beyond this it would be felt.
_ENCODED_CHARACTERS_MAX: Final = 100_000
_TEXT_KEYS: Final = (
    "text",
    "content",
    "parts",
    "input",
    "arguments",
    "output",
    "thinking",
    "function",
    "tool_calls",
    "functionCall",
    "functionResponse",
    "args",
    "response",
    "name",
    "refusal",
    "toolUse",
    "toolResult",
    "json",
)
_MEDIA_KEYS: Final = frozenset(
    {
        "image_url",
        "source",
        "inlineData",
        "inline_data",
        "fileData",
        "file_data",
        "input_audio",
        "image",
        "document",
        "video",
        "file",
        "file_id",
        "file_url",
    }
)
#: Those that are media also as a text: an address or an id.
_MEDIA_TEXTS: Final = frozenset({"image_url", "file_id", "file_url"})


class Size(NamedTuple):
    """What a request is made of, before it is known how sure that is. Tokens.

    Attributes:
        plain: The messages, and what is put around them.
        tools: What a set of tools adds; 0 without any.
        tools_text: The tools as JSON, which tells sets of tools apart.
        media: Files among the messages, whose size is not known.
        hosted: Some tool runs at the provider, and brings in text that is billed too.
    """

    plain: float
    tools: float
    tools_text: str
    media: int
    hosted: bool


def count(
    model: str,
    prompt: object = None,
    messages: object = None,
    tools: object = None,
    framing: Framing | None = None,
    encoder: Encoder | None = None,
) -> TokenCount:
    """Estimate the input tokens that a request will be billed.

    Args:
        model: Picks the framing.
        prompt: The text of a single message, or what the SDK takes in its place.
        messages: Messages in any provider's form, or a text.
        tools: Tool definitions in any provider's form.
        framing: Instead of looking it up by model.
        encoder: Counts by a tokenizer instead of by classes of bytes.
    """
    framing = framing or framing_of(model)
    if type(prompt) is str and messages is None and not tools and encoder is None:
        likely = framing.text * text_tokens(prompt) + framing.message + framing.request
        return TokenCount(
            int(likely + 0.5) or 1,
            int(likely * framing.margin) + framing.slack,
            "heuristic",
            "low" if framing is DEFAULT else "high",
        )
    return judged(size(framing, prompt, messages, tools, encoder), framing, encoder)


def size(
    framing: Framing, prompt: object, messages: object, tools: object, encoder: Encoder | None
) -> Size:
    """Measure a request: its messages, and its tools."""
    measure = measured_by(encoder)
    plain = framing.request
    media = 0
    for message in listed(prompt, messages):
        tokens, files = weigh(message, framing, measure)
        plain += tokens
        media += files
    if not tools:
        return Size(plain, 0, "", media, hosted=False)
    each = tooltext.each(tools)
    text = "".join(map(tooltext.as_json, each))
    factor = framing.tools_text
    given = text
    if framing.typescript:
        given = "".join(map(tooltext.as_signature, each))
        # The factor makes up for what classes of bytes see in such short lines.
        factor = factor if encoder is None else 1.0
    added = factor * measure(given) + framing.tool * len(each) + framing.any_tool
    return Size(plain, added, text, media, any(map(tooltext.is_hosted, each)))


def judged(found: Size, framing: Framing, encoder: Encoder | None) -> TokenCount:
    """Turn a size into an estimate: how sure it is, and what few requests exceed."""
    expected = found.plain + found.tools + found.media * framing.media
    margin = framing.tools_margin if found.tools else framing.margin
    unseen = found.media or found.hosted
    if unseen:
        margin = max(margin, _UNSEEN_MARGIN)
    low = unseen or framing is DEFAULT
    return TokenCount(
        int(expected + 0.5) or 1,
        int(expected * margin) + framing.slack,
        "heuristic" if encoder is None else "encoder",
        "low" if low else "medium" if found.tools else "high",
    )


def listed(prompt: object, messages: object) -> Sequence[object]:
    """Return the messages of a request one by one."""
    first: Sequence[object] = ()
    if prompt is not None:
        first = prompt if isinstance(prompt, (list, tuple)) else (prompt,)
    if messages is None:
        return first
    return (*first, *(messages if isinstance(messages, (list, tuple)) else (messages,)))


def measured_by(encoder: Encoder | None) -> Callable[[str], float]:
    """Return what measures a text: the tokenizer up to a length, classes of bytes beyond."""
    if encoder is None:
        return text_tokens

    def measure(text: str) -> float:
        if len(text) > _ENCODED_CHARACTERS_MAX:
            return text_tokens(text)
        return float(len(encoder(text)))

    return measure


def weigh(message: object, framing: Framing, measure: Callable[[str], float]) -> tuple[float, int]:
    """Return the tokens of one message, and how many files it has besides."""
    if type(message) is str:
        return framing.text * measure(message) + framing.message, 0
    texts, media = texts_of(message)
    return framing.text * sum(map(measure, texts)) + framing.message, media


def texts_of(message: object) -> tuple[list[str], int]:
    """Return the texts in one message, and how many files it has besides."""
    if type(message) is dict and len(message) == 2 and "role" in message:
        content = message.get("content")
        if type(content) is str:  # by far the commonest
            return [content], 0
    texts: list[str] = []
    return texts, _gather(message, texts, 0)


def _gather(value: object, texts: list[str], depth: int) -> int:
    """Collect the texts inside messages; return how many media files there are."""
    if isinstance(value, str):
        texts.append(value)
        return 0
    if depth > _DEPTH_MAX or value is None:
        return 0
    if isinstance(value, (list, tuple)):
        return sum(_gather(item, texts, depth + 1) for item in value)
    source = fields(value)
    if not source:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return 1
        if not isinstance(value, Mapping):
            texts.append(str(value))
        return 0
    media = 0
    for key in source:
        if key in _MEDIA_KEYS and source[key] is not None:
            media += key in _MEDIA_TEXTS or not isinstance(source[key], str)
    for key in _TEXT_KEYS:
        inner = source.get(key)
        if inner is not None:
            if key in {"args", "json", "response", "input"} and isinstance(inner, Mapping):
                texts.append(tooltext.json_text(inner))
            else:
                media += _gather(inner, texts, depth + 1)
    return media
