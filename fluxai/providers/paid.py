"""What a request of an SDK costs: its path and JSON body as what `reserve` takes. Pure.

Facts are those of the providers' API references, November 2026.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fluxai.core.ledger import DEFAULT_OUTPUT_TOKENS
from fluxai.core.usage import Usage
from fluxai.guard import CallArguments
from fluxai.providers.besides import image_kind, put_beside

Body = Mapping[str, Any]

_NOTHING: frozenset[str] = frozenset()
#: `/completions` generates this many tokens unless told otherwise.
COMPLETION_TOKENS = 16
#: The most output tokens of one image of the GPT image models: high quality, 1024 × 1536.
IMAGE_TOKENS = 6_240
#: A recording has at least this many bytes a second: 16 kbit/s, less than any speech codec in use.
AUDIO_BYTES_PER_S = 2_000
#: The same for sound in a message: an mp3 of 32 kbit/s, and a wav of 8 kHz and 16 bit.
SOUND_BYTES_PER_S, WAV_BYTES_PER_S = 4_000, 16_000
#: What OpenAI makes of a second of sound that it hears.
AUDIO_TOKENS_PER_S = 10


@dataclass(slots=True)  # made for every request: read-only by convention, which costs nothing
class PaidCall:
    """One request that costs money.

    Attributes:
        arguments: What `reserve` takes, without the subject.
        body: The request's JSON, never changed: it is the caller's.
        cap: Under which key the output cap is sent; None where there is no such thing.
        also: Under which other key the caller has set a smaller one.
        cap_in: In which object of the body the cap is; None is the body itself.
        choices: How many answers are asked for; each may use the cap.
        asks_usage: Its stream tells its usage only when asked.
        hides_usage: … and the caller has not asked.
        needs: What a model that stands in for it must be able to do.
        deferred: It is answered later, by another request.
        image: By what each image is charged that is asked for.
        others: Further models that may answer, or be asked or draw on the way.
    """

    arguments: CallArguments
    body: Body
    cap: str | None = None
    also: str | None = None
    cap_in: str | None = None
    choices: int = 1
    asks_usage: bool = False
    hides_usage: bool = False
    needs: frozenset[str] = _NOTHING
    deferred: bool = False
    image: str | None = None
    others: tuple[str, ...] = ()

    def granted(self, model: str | None, max_output_tokens: int | None) -> dict[str, Any]:
        """Return the body to send.

        Args:
            model: What to send as the model; None leaves it.
            max_output_tokens: The granted cap, of all answers together; None leaves it.
        """
        body = dict(self.body)
        if model is not None:
            body["model"] = model
        if self.cap is not None and max_output_tokens is not None:
            each = max(1, max_output_tokens // self.choices)
            if self.cap_in is None:
                body[self.cap] = each
            else:
                body[self.cap_in] = {**(body.get(self.cap_in) or {}), self.cap: each}
            if self.also is not None:
                body[self.also] = min(each, _count(body[self.also]))
        if self.asks_usage:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        return body

    def told(self, answer: Any) -> Any:
        """Return what an answer tells of its cost, with what only the request knows of it."""
        if self.image is None:
            return answer
        usage = Usage.parse(answer)
        count = usage.requests.get("image")
        # Some say how many there are, and neither how large nor how good.
        return answer if usage.total or not count else Usage(requests={self.image: count})


def chat(body: Body, *, cap: Callable[[], str]) -> PaidCall:
    """Read a request for `/chat/completions`.

    Args:
        body: Its JSON.
        cap: Says under which key this server takes the output cap, if the request does not show it.
    """
    caps = [key for key in ("max_completion_tokens", "max_tokens") if body.get(key)]
    cap_given, also = caps[0] if caps else None, None
    if len(caps) > 1:
        # Some servers know but one of them: so the larger one is held.
        also, cap_given = sorted(caps, key=lambda key: _count(body[key]))
    choices = _count(body.get("n"))
    arguments = _arguments(
        body, messages=body.get("messages"), tools=_tools(body), cap=cap_given, choices=choices
    )
    needs = _needs(body, body.get("messages"))
    speaks = "audio" in (body.get("modalities") or ())
    if speaks or "audio" in needs:
        # Sound costs several times what text does, and any part of the answer may be sound.
        said = arguments.get("max_output_tokens") or DEFAULT_OUTPUT_TOKENS * choices
        heard = _sound_tokens(body.get("messages"))
        arguments["beside"] = Usage(audio_in=heard, audio_out=said if speaks else 0)
    if speaks:
        arguments["fixed_tool"] = True
    others = put_beside(arguments, body)
    options = body.get("stream_options")
    asked = isinstance(options, Mapping) and bool(options.get("include_usage"))
    streams = bool(body.get("stream"))
    if body.get("reasoning_effort"):
        needs |= {"reasoning"}
    return PaidCall(
        arguments,
        body,
        cap_given or cap(),
        also=also,
        choices=choices,
        asks_usage=streams and not asked,
        hides_usage=streams and not asked,
        needs=needs,
        others=others,
    )


def responses(body: Body, carried: Mapping[str, int]) -> PaidCall:
    """Read a request for `/responses`.

    Args:
        body: Its JSON.
        carried: By id of a response or a conversation, the tokens that it goes on with.
    """
    messages: list[Any] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    said = body.get("input")
    if isinstance(said, str):
        messages.append({"role": "user", "content": said})
    elif isinstance(said, Sequence):
        messages.extend(said)
    arguments = _arguments(body, messages=messages, tools=_tools(body), cap="max_output_tokens")
    conversation = body.get("conversation")
    if isinstance(conversation, Mapping):
        conversation = conversation.get("id")
    before = carried.get(str(body.get("previous_response_id") or conversation), 0)
    if before:
        arguments["beside"] = Usage(input=before)
    others = put_beside(arguments, body)
    needs = _needs(body, messages)
    if body.get("reasoning"):
        needs |= {"reasoning"}
    return PaidCall(
        arguments,
        body,
        "max_output_tokens",
        needs=needs,
        deferred=bool(body.get("background")),
        others=others,
    )


def completions(body: Body) -> PaidCall:
    """Read a request for the older `/completions`."""
    choices = max(_count(body.get("n")), _count(body.get("best_of")))
    prompts = body.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and not _numbers(prompts) else 1
    arguments = CallArguments(model=_model(body))
    _put_text(arguments, prompts)
    each = body.get("max_tokens")
    each = each if type(each) is int else COMPLETION_TOKENS
    arguments["max_output_tokens"] = each * choices * several
    options = body.get("stream_options")
    asked = isinstance(options, Mapping) and bool(options.get("include_usage"))
    streams = bool(body.get("stream"))
    return PaidCall(
        arguments,
        body,
        "max_tokens",
        choices=choices * several,
        asks_usage=streams and not asked,
        hides_usage=streams and not asked,
    )


def embeddings(body: Body) -> PaidCall:
    """Read a request for `/embeddings`. Another model's vectors mean nothing to whoever asked."""
    arguments = CallArguments(model=_model(body), max_output_tokens=0, fixed_tool=True)
    _put_text(arguments, body.get("input"))
    return PaidCall(arguments, body)


def images(body: Body) -> PaidCall:
    """Read a request for `/images/…`: paid by the image, or by tokens."""
    count = _count(body.get("n"))
    model = _model(body, "gpt-image-1")
    kind = image_kind(model, body)
    arguments = CallArguments(
        model=model,
        max_output_tokens=count * IMAGE_TOKENS,
        fixed_tool=True,
        beside=Usage(requests={kind: count}),
    )
    _put_text(arguments, body.get("prompt"))
    return PaidCall(arguments, body, image=kind)


def speech(body: Body) -> PaidCall:
    """Read a request for `/audio/speech`: paid by the character, or by tokens."""
    text = str(body.get("input") or "")
    arguments = CallArguments(
        model=_model(body), fixed_tool=True, beside=Usage(characters=len(text))
    )
    _put_text(arguments, text)
    return PaidCall(arguments, body)


def recording(body: Body, bytes_sent: int) -> PaidCall:
    """Read a request for a transcription: paid by the second, or by tokens.

    Args:
        body: Its JSON.
        bytes_sent: How long the recording is; its seconds are estimated from that.
    """
    seconds = max(1, -(-bytes_sent // AUDIO_BYTES_PER_S))
    arguments = CallArguments(
        model=_model(body),
        input_tokens=AUDIO_TOKENS_PER_S * seconds,
        fixed_tool=True,
        beside=Usage(seconds=seconds),
    )
    return PaidCall(arguments, body)


def messages(body: Body) -> PaidCall:
    """Read a request for Anthropic's `/v1/messages`."""
    said = list(body.get("messages") or ())
    if body.get("system"):
        said.insert(0, {"role": "system", "content": body["system"]})
    arguments = _arguments(body, messages=said, tools=body.get("tools"), cap="max_tokens")
    others = put_beside(arguments, body, caches=True)
    needs = _needs(body, said)
    thinking = body.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") != "disabled":
        needs |= {"reasoning"}
    return PaidCall(arguments, body, "max_tokens", needs=needs, others=others)


def batch_requests(body: Body) -> list[PaidCall]:
    """Read a request for Anthropic's `/v1/messages/batches`: one call a request in it."""
    found = []
    for request in body.get("requests") or ():
        params = request.get("params") if isinstance(request, Mapping) else None
        if isinstance(params, Mapping):
            found.append(messages(params))
    return found


def _arguments(
    body: Body, *, messages: Any, tools: Any, cap: str | None, choices: int = 1
) -> CallArguments:
    arguments = CallArguments(model=_model(body))
    if messages:
        arguments["messages"] = messages
    else:
        arguments["input_tokens"] = 0
    if tools:
        arguments["tools"] = tools
    given = body.get(cap) if cap is not None else None
    if type(given) is int:
        arguments["max_output_tokens"] = given * choices
    return arguments


def _model(body: Body, default: str = "") -> str:
    model = body.get("model")
    return model if isinstance(model, str) else default


def _count(value: Any) -> int:
    """Return how many are asked for: servers take a whole number in any spelling, such as 3.0."""
    if value is None:
        return 1
    try:
        return max(1, int(value))
    except (TypeError, ValueError, OverflowError):
        return 1


def _tools(body: Body) -> list[Any]:
    """Return what is sent, and billed, as tools: functions and schemas too."""
    tools = list(body.get("tools") or ())
    tools.extend(body.get("functions") or ())
    layout = body.get("response_format")
    text = body.get("text")
    if layout is None and isinstance(text, Mapping):
        layout = text.get("format")
    if isinstance(layout, Mapping) and layout.get("type") == "json_schema":
        schema = layout.get("json_schema") or layout
        tools.append({"name": schema.get("name"), "parameters": schema.get("schema")})
    return tools


def _put_text(arguments: CallArguments, text: Any) -> None:
    """Put a text, several, or tokens that were counted already, into what `reserve` takes."""
    if isinstance(text, str) and text:
        arguments["prompt"] = text
    elif isinstance(text, Sequence) and text and not isinstance(text, str):
        if _numbers(text):
            arguments["input_tokens"] = len(text)
        elif all(isinstance(part, Sequence) and _numbers(part) for part in text):
            arguments["input_tokens"] = sum(len(part) for part in text)
        else:
            arguments["prompt"] = "\n".join(map(str, text)) or " "
    else:
        arguments["input_tokens"] = 0


def _numbers(values: Sequence[Any]) -> bool:
    return not isinstance(values, str) and all(type(value) is int for value in values)


def _sound_tokens(messages: Any) -> int:
    """Return how many tokens the recordings in messages are at most, by their lengths."""
    tokens = 0
    for part in _parts(messages):
        sound = part.get("input_audio")
        if not isinstance(sound, Mapping):
            continue
        data = sound.get("data")
        if isinstance(data, str):
            each = WAV_BYTES_PER_S if sound.get("format") == "wav" else SOUND_BYTES_PER_S
            seconds = -(-len(data) * 3 // 4 // each)  # four characters of Base64 hold three bytes
            tokens += AUDIO_TOKENS_PER_S * seconds
    return tokens


_IMAGE = re.compile(r'^"?(image|image_url|input_image)"?$')


def _needs(body: Body, messages: Any) -> frozenset[str]:
    """Say what a model must be able to do, for a request."""
    kinds = _part_kinds(messages)
    offers_tools = body.get("tools") or body.get("functions")
    if not kinds and not offers_tools:
        return _NOTHING
    needs = {"tools"} if offers_tools else set()
    for kind in kinds:
        if _IMAGE.match(kind):
            needs.add("image")
        elif kind in ("input_audio", "audio"):
            needs.add("audio")
    return frozenset(needs)


def _part_kinds(messages: Any) -> set[str]:
    return {str(part.get("type")) for part in _parts(messages)}


def _parts(messages: Any) -> Iterator[Mapping[str, Any]]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                yield part
