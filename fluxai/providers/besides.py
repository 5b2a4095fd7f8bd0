"""What a request may cost besides its own tokens: searches, other models, a faster tier. Pure.

Facts are those of the providers' API references, November 2026.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fluxai.core.ledger import DEFAULT_OUTPUT_TOKENS
from fluxai.core.usage import Usage
from fluxai.costs.counting import count
from fluxai.guard import CallArguments

Body = Mapping[str, Any]

#: How often a tool that runs at the provider is taken to be used, where the request sets no limit.
USES = 3
#: Tiers that are answered sooner, and cost up to two and a half times as much: gpt-5.5's do.
_FASTER = ("priority", "fast")
_FASTER_PERCENT = 150
#: What writing a prompt into Anthropic's cache costs on top of reading it.
_WRITTEN_PERCENT, _WRITTEN_1H_PERCENT = 25, 100
#: By the beginning of a tool's type, the fee that each use costs.
_FEES = {
    "web_search_preview": "web_search_preview",
    "web_search": "web_search",
    "file_search": "file_search",
    "code_interpreter": "code_interpreter",
}
#: No quality and size of an image take more characters than this.
_KIND_MAX = 40

#: Without any of these fields a request costs its tokens and what it writes into a cache.
_FIELDS = ("tools", "models", "fallbacks", "service_tier", "serviceTier", "speed")

Part = tuple[str, Usage]


def put_beside(arguments: CallArguments, body: Body, *, caches: bool = False) -> tuple[str, ...]:
    """Put what a request may cost besides its own tokens into what `reserve` takes.

    Args:
        arguments: What `reserve` takes so far: model, messages and cap.
        body: The request's JSON.
        caches: Its blocks may be marked to be kept in Anthropic's cache.

    Returns:
        The other models that may answer, be asked, or draw.
    """
    written = _written(body) if caches else 0
    if not written and not any(map(body.get, _FIELDS)):
        return ()
    tools = [tool for tool in body.get("tools") or () if isinstance(tool, Mapping)]
    hosted = [tool for tool in tools if tool.get("type") not in (None, "function", "custom")]
    stand_ins = [*_stand_ins(body)]
    percent = _FASTER_PERCENT if _is_faster(body) else 0
    if not (hosted or stand_ins or percent or written):
        return ()
    before = arguments.get("beside") or Usage()
    entering = before.input + _entering(arguments)
    leaving = arguments.get("max_output_tokens")
    leaving = DEFAULT_OUTPUT_TOKENS if leaving is None else leaving
    limit = body.get("max_tool_calls")
    own = before + Usage(
        input=-(-entering * (percent + written) // 100),
        output=-(-leaving * percent // 100),
        requests=_fees(hosted, limit),
    )
    answering = Usage(input=entering, output=leaving)
    answers = [(model, answering) for model in stand_ins]
    others = [*answers, *_advisors(hosted, entering), *_pictures(hosted, limit)]
    arguments["beside"] = Usage(parts=((None, own), *others)) if others else own
    return tuple(dict.fromkeys(model for model, _ in others))


def image_kind(model: str, asked: Mapping[str, Any]) -> str:
    """Return by what an image is charged: its quality and size, where they are certain."""
    quality, size = asked.get("quality"), asked.get("size")
    if "dall-e" in model:
        quality, size = quality or "standard", size or "1024x1024"
    if not isinstance(quality, str) or not isinstance(size, str) or "auto" in (quality, size):
        return "image"
    return f"image_{quality}_{size}"[:_KIND_MAX]


def _is_faster(body: Body) -> bool:
    tiers = (body.get(name) for name in ("service_tier", "serviceTier", "speed") if name in body)
    return any(isinstance(tier, str) and tier.lower() in _FASTER for tier in tiers)


def _entering(arguments: CallArguments) -> int:
    stated = arguments.get("input_tokens")
    if stated is not None:
        return stated
    asked = arguments.get("messages"), arguments.get("tools")
    return count(str(arguments["model"]), None, *asked).upper


def _stand_ins(body: Body) -> Iterator[str]:
    """Return the models that answer where the first one does not: OpenRouter's, and Anthropic's."""
    asked = body.get("model")
    for field in ("models", "fallbacks"):
        entries = body.get(field)
        for entry in entries if isinstance(entries, Sequence) else ():
            model = entry.get("model") if isinstance(entry, Mapping) else entry
            # One character of a word that is no list of models is none either.
            if isinstance(model, str) and not isinstance(entries, str) and model != asked:
                yield model


def _fees(hosted: Sequence[Body], limit: object) -> dict[str, int]:
    """Return the fees of the tools that run at the provider, as often as each may be used."""
    found: dict[str, int] = {}
    for tool in hosted:
        kind = str(tool["type"])
        fee = next((fee for begin, fee in _FEES.items() if kind.startswith(begin)), None)
        if fee == "code_interpreter":
            found[fee] = 1  # paid by the container, which all of its uses share
        elif fee is not None:
            found[fee] = _uses(tool.get("max_uses"), limit)
    return found


def _advisors(hosted: Sequence[Body], entering: int) -> Iterator[Part]:
    """Return the models that Anthropic's tool of that name asks, and what each may be asked."""
    for tool in hosted:
        model = tool.get("model")
        if str(tool["type"]).startswith("advisor") and isinstance(model, str):
            uses, cap = _uses(tool.get("max_uses")), tool.get("max_tokens")
            said = cap if type(cap) is int and cap > 0 else DEFAULT_OUTPUT_TOKENS
            yield model, Usage(input=uses * entering, output=uses * said)


def _pictures(hosted: Sequence[Body], limit: object) -> Iterator[Part]:
    """Return the models that draw for the one that answers: a picture, unless more are allowed."""
    for tool in hosted:
        if tool["type"] == "image_generation":
            model = str(tool.get("model") or "gpt-image-1")
            pictures = limit if type(limit) is int and limit > 0 else 1
            yield model, Usage(requests={image_kind(model, tool): pictures})


def _uses(*limits: object) -> int:
    """Return the smallest limit on how often a tool is used."""
    stated = [limit for limit in limits if type(limit) is int and limit >= 0]
    return min(stated, default=USES)


def _written(body: Body) -> int:
    """Return what share of the prompt's price is due for writing it into the cache.

    What is to be cached is marked: all, a tool, or a block of text.
    """
    messages = body.get("messages") or ()
    said = [message.get("content") for message in messages if isinstance(message, Mapping)]
    blocks = [body]
    for listed in (body.get("tools"), body.get("system"), *said):
        if isinstance(listed, list):
            blocks.extend(block for block in listed if isinstance(block, Mapping))
    marks = [block["cache_control"] for block in blocks if "cache_control" in block]
    found = 0
    for mark in marks:
        if isinstance(mark, Mapping):  # else it is what an SDK has in place of nothing
            percent = _WRITTEN_1H_PERCENT if mark.get("ttl") == "1h" else _WRITTEN_PERCENT
            found = max(found, percent)
    return found
