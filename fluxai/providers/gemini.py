"""What a request to Google costs: its address and JSON as what `reserve` takes. Pure.

The Gemini API and Vertex AI are asked alike: the model is in the address, before a colon and the
verb. Facts are those of their API references, November 2026.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fluxai.core.usage import Usage
from fluxai.costs.counting import texts_of
from fluxai.guard import CallArguments
from fluxai.providers.besides import put_beside
from fluxai.providers.paid import Body, PaidCall

#: The most tokens of one image that Gemini makes: 4K.
IMAGE_TOKENS = 2_000
#: Imagen makes this many images unless told otherwise.
IMAGES = 4

_VERB = re.compile(r"/(?:models|endpoints|tunedModels)/([^/:]+):(\w+)$")
_FREE = re.compile(
    r".*(:(countTokens|computeTokens|cancel|fetchPredictOperation|register)"
    r"|/(files|webhooks|credentials|agents|fileSearchStores)"
    r"|/webhooks/[^/]+:\w+|/interactions/[^/]+/cancel)"
)


class Address(NamedTuple):
    """Which model is asked for what."""

    model: str
    verb: str


def address(path: str) -> Address | None:
    """Read an address such as `/v1beta/models/gemini-2.5-flash:generateContent`."""
    found = _VERB.search(path)
    return Address(found[1], found[2]) if found else None


def moved(url: str, asked: str, offered: str) -> str:
    """Return an address with another model in it."""
    return url.replace(f"/models/{asked}:", f"/models/{offered}:")


def is_free(method: str, path: str) -> bool:
    """Say whether a request costs nothing by itself."""
    method = method.lower()
    if method == "patch":
        # A context cache that lives on is paid by the hour.
        return "/cachedContents/" not in path
    return method != "post" or _FREE.fullmatch(path) is not None


def read(path: str, body: Body, carried: Mapping[str, int]) -> PaidCall | None:
    """Read a request that is paid; None where its cost can't be told.

    Args:
        path: The address, without the query.
        body: Its JSON.
        carried: By id, the tokens of conversations that may go on, and of context caches.
    """
    if path.endswith("/interactions"):
        return interaction(body, carried)
    if path.endswith("/decisions"):
        return decision(body)
    asked = address(path)
    if asked is None:
        return None
    match asked.verb:
        case "generateContent" | "streamGenerateContent":
            return content(asked.model, body, carried)
        case "embedContent":
            return embeddings(asked.model, body.get("content") or body.get("contents"))
        case "batchEmbedContents":
            requests = body.get("requests") or ()
            return embeddings(asked.model, [_get(request, "content") for request in requests])
        case "predict":
            return prediction(asked.model, body)
    return None


def content(model: str, body: Body, carried: Mapping[str, int]) -> PaidCall:
    """Read a request for `:generateContent` or `:streamGenerateContent`."""
    config_key, config = _either(body, "generationConfig")
    config = config if isinstance(config, Mapping) else {}
    choices = _whole(_either(config, "candidateCount")[1]) or 1
    said = [part for part in (_either(body, "systemInstruction")[1],) if part]
    contents = body.get("contents") or []
    said.extend(contents if isinstance(contents, list) else [contents])
    arguments = CallArguments(model=model)
    _put_messages(arguments, said)
    tools = [tool for tool in body.get("tools") or () if tool]
    schema = _either(config, "responseSchema")[1] or _either(config, "responseJsonSchema")[1]
    if tools or schema:
        shown = [{"name": "answer", "parameters": schema}] if schema else []
        arguments["tools"] = [*tools, *shown]
    cap_key, cap = _either(config, "maxOutputTokens")
    cap = _whole(cap)
    if cap:
        arguments["max_output_tokens"] = cap * choices
    beside: dict[str, Any] = {}
    cache = _either(body, "cachedContent")[1]
    if isinstance(cache, str) and cache in carried:
        beside["cache_read"] = carried[cache]
    made = {str(kind).upper() for kind in _either(config, "responseModalities")[1] or ()}
    if "IMAGE" in made:
        beside["image_out"] = IMAGE_TOKENS * choices
    if beside:
        arguments["beside"] = Usage(**beside)
    put_beside(arguments, body)
    if cache or made & {"IMAGE", "AUDIO"}:
        # A cache is one model's; and voices and pictures are none like another.
        arguments["fixed_tool"] = True
    needs = set(_media_in(said))
    if tools:
        needs.add("tools")
    thinking = _either(config, "thinkingConfig")[1]
    if isinstance(thinking, Mapping) and _either(thinking, "thinkingBudget")[1] != 0:
        needs.add("reasoning")
    return PaidCall(
        arguments,
        body,
        cap_key,
        cap_in=config_key,
        choices=choices,
        needs=frozenset(needs),
    )


def embeddings(model: str, contents: Any) -> PaidCall:
    """Read a request for vectors. Another model's mean nothing to whoever asked."""
    arguments = CallArguments(model=model, max_output_tokens=0, fixed_tool=True)
    texts, media = texts_of(contents)
    if media:
        _put_messages(arguments, [contents])
    elif any(texts):
        arguments["prompt"] = "\n".join(texts)
    else:
        arguments["input_tokens"] = 0
    return PaidCall(arguments, {})


def prediction(model: str, body: Body) -> PaidCall:
    """Read a request for `:predict`: Imagen's pictures, or the vectors of older models."""
    instances = body.get("instances")
    instances = instances if isinstance(instances, list) else []
    if any(_get(instance, "content") is not None for instance in instances):
        call = embeddings(model, [_get(instance, "content") for instance in instances])
        return PaidCall(call.arguments, body)
    parameters = body.get("parameters")
    images = _whole(_get(parameters, "sampleCount")) or IMAGES
    arguments = CallArguments(
        model=model,
        input_tokens=0,
        max_output_tokens=0,
        fixed_tool=True,
        beside=Usage(requests={"image": images}),
    )
    return PaidCall(arguments, body)


def interaction(body: Body, carried: Mapping[str, int]) -> PaidCall | None:
    """Read a request for `/interactions`; None for an agent, or what is done in the background.

    What an agent spends on its way is known to nobody before; and what is done in the background
    may never be asked for.
    """
    model = body.get("model")
    if not isinstance(model, str) or body.get("background"):
        return None
    config = body.get("generation_config")
    config = config if isinstance(config, Mapping) else {}
    arguments = CallArguments(model=model.removeprefix("models/"))
    said = [_as_parts(part) for part in (body.get("system_instruction"), body.get("input")) if part]
    _put_messages(arguments, said)
    tools = [tool for tool in body.get("tools") or () if tool]
    layout = body.get("response_format")
    if tools or layout:
        shown = [{"name": "answer", "parameters": layout}] if layout else []
        arguments["tools"] = [*tools, *shown]
    cap = _whole(config.get("max_output_tokens"))
    if cap:
        arguments["max_output_tokens"] = cap
    beside: dict[str, Any] = {}
    before = carried.get(str(body.get("previous_interaction_id")), 0)
    if before:
        beside["input"] = before
    made = {str(kind).lower() for kind in body.get("response_modalities") or ()}
    if "image" in made:
        beside["image_out"] = IMAGE_TOKENS
    if beside:
        arguments["beside"] = Usage(**beside)
    put_beside(arguments, body)
    if made & {"image", "audio"}:
        arguments["fixed_tool"] = True
    needs = set(_media_in(said))
    if tools:
        needs.add("tools")
    if config.get("thinking_level"):
        needs.add("reasoning")
    return PaidCall(
        arguments,
        body,
        "max_output_tokens",
        cap_in="generation_config",
        needs=frozenset(needs),
    )


def decision(body: Body) -> PaidCall | None:
    """Read a request for `/decisions`: several questions about one input."""
    model = body.get("model")
    if not isinstance(model, str):
        return None
    arguments = CallArguments(model=model.removeprefix("models/"), fixed_tool=True)
    questions = body.get("questions")
    said = [_as_parts(body.get("input")), str(questions) if questions else ""]
    _put_messages(arguments, [part for part in said if part])
    return PaidCall(arguments, body)


def _put_messages(arguments: CallArguments, said: list[Any]) -> None:
    if said:
        arguments["messages"] = [
            {"role": "user", "parts": [{"text": part}]} if isinstance(part, str) else part
            for part in said
        ]
    else:
        arguments["input_tokens"] = 0


def _as_parts(said: Any) -> Any:
    """Return what an interaction says in the form of Gemini's contents."""
    if isinstance(said, str):
        return {"role": "user", "parts": [{"text": said}]}
    if isinstance(said, list):
        return {"role": "user", "parts": [_as_part(item) for item in said]}
    return _as_part(said)


def _as_part(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return {"text": item} if isinstance(item, str) else item
    if item.get("data") is not None or item.get("uri") is not None:
        mime = item.get("mime_type") or f"{item.get('type')}/*"
        return {"fileData": {"mimeType": mime}}
    return {
        key: [_as_part(inner) for inner in value] if isinstance(value, list) else value
        for key, value in item.items()
    }


_MEDIA = {"image": "image", "audio": "audio", "video": "image"}


def _media_in(said: Any) -> Iterator[str]:
    """Say what a model has to take in: pictures, or sound."""
    if isinstance(said, list):
        for item in said:
            yield from _media_in(item)
    elif isinstance(said, Mapping):
        for key, value in said.items():
            if key in ("inlineData", "fileData"):
                mime = str(_get(value, "mimeType") or "").split("/", 1)[0]
                if mime in _MEDIA:
                    yield _MEDIA[mime]
            elif key in ("parts", "content"):
                yield from _media_in(value)


def _either(body: Body, name: str) -> tuple[str, Any]:
    """Return under which name a field is given, and what it is: Google takes two spellings."""
    if name in body:
        return name, body[name]
    other = _with_underscores(name)
    return (other, body[other]) if other in body else (name, None)


@functools.cache
def _with_underscores(name: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _whole(value: Any) -> int:
    """Return a number above 0, however it is written; else 0."""
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError):
        return 0
