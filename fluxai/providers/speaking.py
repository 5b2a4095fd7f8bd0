"""One question in the words of each SDK, and what its answer says. No import of any SDK."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fluxai.core.errors import InvalidRequest
from fluxai.core.ledger import DEFAULT_OUTPUT_TOKENS
from fluxai.providers.pictures import Picture, media_type
from fluxai.providers.stainless import cap_key

if TYPE_CHECKING:
    from fluxai.models import Model

#: What Anthropic takes at most as a temperature.
_ANTHROPIC_TEMPERATURE_MAX = 1.0
#: Anthropic's models that take one; those that came later refuse any.
_TAKES_TEMPERATURE = re.compile(r"claude-(3|(haiku|sonnet|opus)-4-[0-6]$)")
_SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, whoever answers.

    Attributes:
        prompt: The question.
        before: What was said before it: (role, text), with the roles `user` and `assistant`.
        system: The system's instruction.
        pictures: What goes with the prompt.
        max_tokens: How long the answer may be.
        temperature: From 0 to 2.
        size: Of a picture to be made, as `1024x1024`.
    """

    prompt: str
    before: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    pictures: tuple[Picture, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    size: str | None = None

    def messages(self) -> list[dict[str, Any]]:
        """Return it as messages in OpenAI's form, which is what is analysed as well."""
        said: list[dict[str, Any]] = []
        if self.system is not None:
            said.append({"role": "system", "content": self.system})
        said += [{"role": role, "content": text} for role, text in self.before]
        content: Any = self.prompt
        if self.pictures:
            urls = [f"data:{shown.media_type};base64,{shown.base64}" for shown in self.pictures]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content.append({"type": "text", "text": self.prompt})
        return [*said, {"role": "user", "content": content}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an answer says.

    Attributes:
        text: Its text; what a refusal says, where it is one.
        pictures: The pictures in it.
        finish: Why it ended, in the provider's own words.
    """

    text: str = ""
    pictures: tuple[Picture, ...] = ()
    finish: str | None = None


def ask(client: Any, model: Model, question: Question) -> Any:
    """Ask for a text; an async client returns what is to be awaited."""
    return _ASKING[model.provider](client, model, question)


def ask_picture(client: Any, model: Model, question: Question) -> Any:
    """Ask for a picture; an async client returns what is to be awaited."""
    return _DRAWING[model.provider](client, model, question)


def said_in(provider: str, answer: Any) -> Said:
    """Read the answer of an SDK to either."""
    return _READING[provider](answer)


# -- OpenAI -------------------------------------------------------------------------------------


def _ask_openai(client: Any, model: Model, question: Question) -> Any:
    body: dict[str, Any] = {"model": model.id, "messages": question.messages()}
    if question.max_tokens is not None:
        body[cap_key(client)] = question.max_tokens
    # Its reasoning models refuse any temperature but their own.
    if question.temperature is not None and "reasoning" not in model.capabilities:
        body["temperature"] = question.temperature
    return client.chat.completions.create(**body)


def _draw_openai(client: Any, model: Model, question: Question) -> Any:
    body: dict[str, Any] = {"model": model.id, "prompt": question.prompt, "n": 1}
    if question.size is not None:
        body["size"] = question.size
    if model.id.startswith("dall-e"):
        body["response_format"] = "b64_json"  # its successors always answer so
    return client.images.generate(**body)


def _read_openai(answer: Any) -> Said:
    if hasattr(answer, "data"):
        encoded = [item.b64_json for item in answer.data or () if item.b64_json]
        return Said(pictures=tuple(_picture(base64.b64decode(text), None) for text in encoded))
    choice = answer.choices[0]
    message = choice.message
    text = message.content or getattr(message, "refusal", None) or ""
    return Said(text=text, finish=choice.finish_reason)


# -- Anthropic ----------------------------------------------------------------------------------


def _ask_anthropic(client: Any, model: Model, question: Question) -> Any:
    content: Any = question.prompt
    if question.pictures:
        content = [
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": shown.media_type,
                    "data": shown.base64,
                },
            }
            for shown in question.pictures
        ]
        content.append({"type": "text", "text": question.prompt})
    said = [{"role": role, "content": text} for role, text in question.before]
    body: dict[str, Any] = {
        "model": model.id,
        "messages": [*said, {"role": "user", "content": content}],
        # It insists on a cap.
        "max_tokens": question.max_tokens
        or min(DEFAULT_OUTPUT_TOKENS, model.max_output or DEFAULT_OUTPUT_TOKENS),
        # Said, since its SDK otherwise refuses a large cap without a stream.
        "timeout": client.timeout,
    }
    if question.system is not None:
        body["system"] = question.system
    if question.temperature is not None and _TAKES_TEMPERATURE.match(model.id):
        # Its SDK has no argument for it any more.
        body["extra_body"] = {"temperature": min(question.temperature, _ANTHROPIC_TEMPERATURE_MAX)}
    return client.messages.create(**body)


def _read_anthropic(answer: Any) -> Said:
    text = "".join(block.text for block in answer.content if block.type == "text")
    return Said(text=text, finish=answer.stop_reason)


# -- Gemini -------------------------------------------------------------------------------------

_GEMINI_ROLES = {"assistant": "model"}


def _ask_gemini(client: Any, model: Model, question: Question) -> Any:
    config: dict[str, Any] = {}
    if question.system is not None:
        config["system_instruction"] = question.system
    if question.max_tokens is not None:
        config["max_output_tokens"] = question.max_tokens
    if question.temperature is not None:
        config["temperature"] = question.temperature
    return client.models.generate_content(
        model=model.id, contents=_contents(question), config=config
    )


def _draw_gemini(client: Any, model: Model, question: Question) -> Any:
    config: dict[str, Any] = {"response_modalities": ["TEXT", "IMAGE"]}
    if question.size is not None:
        config["image_config"] = {"aspect_ratio": _ratio(question.size)}
    return client.models.generate_content(
        model=model.id, contents=_contents(question), config=config
    )


def _contents(question: Question) -> list[dict[str, Any]]:
    said = [
        {"role": _GEMINI_ROLES.get(role, role), "parts": [{"text": text}]}
        for role, text in question.before
    ]
    parts: list[dict[str, Any]] = [
        {"inline_data": {"mime_type": shown.media_type, "data": shown.data}}
        for shown in question.pictures
    ]
    return [*said, {"role": "user", "parts": [*parts, {"text": question.prompt}]}]


def _read_gemini(answer: Any) -> Said:
    texts, pictures = [], []
    candidate = (answer.candidates or [None])[0]
    for part in _parts(candidate):
        if part.text and not part.thought:
            texts.append(part.text)
        shown = part.inline_data
        if shown is not None and shown.data and str(shown.mime_type).startswith("image/"):
            pictures.append(_picture(shown.data, shown.mime_type))
    finish = getattr(candidate, "finish_reason", None)
    return Said(
        text="".join(texts),
        pictures=tuple(pictures),
        finish=None if finish is None else str(getattr(finish, "value", finish)),
    )


def _parts(candidate: Any) -> Iterator[Any]:
    content = getattr(candidate, "content", None)
    yield from (content.parts or ()) if content is not None else ()


# -- shared -------------------------------------------------------------------------------------


def _picture(data: bytes, stated: str | None) -> Picture:
    """Go by a picture's first bytes: what a provider states is not always so."""
    return Picture(data, media_type(data) or stated or "application/octet-stream")


def _ratio(size: str) -> str:
    width, height = sides(size)
    divisor = math.gcd(width, height)
    return f"{width // divisor}:{height // divisor}"


def sides(size: str) -> tuple[int, int]:
    """Read a size such as `1024x1536`.

    Raises:
        InvalidRequest: It is none.
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise InvalidRequest(
            "size",
            f"must be a width and a height of 10 to 99999, such as '1024x1024', got {size!r:.40}",
        )
    return int(found[1]), int(found[2])


def said_before(context: object) -> tuple[tuple[str, str], ...]:
    """Read what was said before a prompt: a text, or messages with `role` and `content`.

    Raises:
        InvalidRequest: It is neither.
    """
    if context is None:
        return ()
    if isinstance(context, str):
        return (("user", context),) if context.strip() else ()
    found = []
    for message in context if isinstance(context, Sequence) else (context,):
        role = message.get("role") if isinstance(message, Mapping) else None
        text = message.get("content") if isinstance(message, Mapping) else None
        if role not in ("user", "assistant") or not isinstance(text, str) or not text:
            raise InvalidRequest(
                "context",
                "must be a text, or messages such as {'role': 'user', 'content': 'Hello'} by "
                "'user' and 'assistant'",
            )
        found.append((role, text))
    return tuple(found)


_ASKING: Mapping[str, Callable[[Any, Model, Question], Any]] = {
    "openai": _ask_openai,
    "anthropic": _ask_anthropic,
    "google": _ask_gemini,
}
_DRAWING: Mapping[str, Callable[[Any, Model, Question], Any]] = {
    "openai": _draw_openai,
    "google": _draw_gemini,
}
_READING: Mapping[str, Callable[[Any], Said]] = {
    "openai": _read_openai,
    "anthropic": _read_anthropic,
    "google": _read_gemini,
}
