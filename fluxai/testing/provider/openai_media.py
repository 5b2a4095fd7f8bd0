"""OpenAI's pictures, speech and transcriptions."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any, Final

from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request, event_stream, json_reply, sse
from fluxai.testing.provider.forms import fields_of
from fluxai.testing.provider.pictures import mp3, png
from fluxai.testing.provider.scripts import Answer
from fluxai.testing.provider.wire import Desk, only, usage_for, whole

Body = dict[str, Any]

#: What a picture is billed where no usage was told.
_TOKENS_PER_PICTURE: Final = 1000
#: A second of audio where no usage was told, as MPEG at 64 kbit/s, and what it is billed.
_BYTES_PER_SECOND: Final = 8000
_TOKENS_PER_SECOND: Final = 10


def images(request: Request, desk: Desk) -> Reply:
    """`POST /v1/images/generations` and `/edits`: DALL-E states no usage, its successors do."""
    options = request.options or fields_of(request)
    model = str(options.get("model") or "dall-e-2")
    count = options.get("n")
    number = (int(count) if isinstance(count, str) else whole(count)) or 1
    answer = desk.take()
    picture = base64.b64encode(png()).decode()
    if model.startswith("dall-e"):
        if answer.usage is not None:
            only(answer.usage, "the format of DALL-E")
        wanted = options.get("response_format") == "b64_json"
        shown = {"b64_json": picture} if wanted else {"url": "https://pictures.invalid/fake.png"}
        return json_reply({"created": desk.now(), "data": [shown] * number})
    usage = answer.usage or Usage(
        input=usage_for(Answer(), options.get("prompt")).input,
        image_out=_TOKENS_PER_PICTURE * number,
    )
    only(usage, "OpenAI's format of images", "input", "image_in", "output", "image_out")
    return json_reply(
        {
            "created": desk.now(),
            "background": "opaque",
            "data": [{"b64_json": picture}] * number,
            "output_format": "png",
            "quality": "low",
            "size": "1024x1024",
            "usage": {
                "input_tokens": usage.input_total,
                "input_tokens_details": {
                    "image_tokens": usage.image_in,
                    "text_tokens": usage.input,
                },
                "output_tokens": usage.output_total,
                "output_tokens_details": {
                    "image_tokens": usage.image_out,
                    "text_tokens": usage.output,
                },
                "total_tokens": usage.total,
            },
        }
    )


def speech(desk: Desk) -> Reply:
    """`POST /v1/audio/speech`: bytes, and no usage."""
    answer = desk.take()
    if answer.usage is not None:
        only(answer.usage, "OpenAI's format of speech")
    return Reply(content_type="audio/mpeg", chunks=(mp3(),), stream=True)


def transcription(request: Request, desk: Desk) -> Reply:
    """`POST /v1/audio/transcriptions`: Whisper is billed by seconds, its successors by tokens."""
    form = fields_of(request)
    answer = desk.take()
    kind = form.get("response_format", "json")
    if kind in {"text", "srt", "vtt"}:
        return Reply(content_type="text/plain; charset=utf-8", chunks=(answer.text.encode(),))
    seconds = max(1, len(request.body) // _BYTES_PER_SECOND)
    by_seconds = "whisper" in form.get("model", "")
    usage = _by_seconds(answer, seconds) if by_seconds else _by_tokens(answer, seconds)
    if form.get("stream") == "true" and not by_seconds:
        deltas = [{"type": "transcript.text.delta", "delta": piece} for piece in answer.pieces]
        done = {"type": "transcript.text.done", "text": answer.text, "usage": usage}
        return event_stream([*map(sse, [*deltas, done]), sse("[DONE]")])
    body: Body = {"text": answer.text, "usage": usage}
    if kind == "verbose_json":
        body |= {"task": "transcribe", "language": "english", "duration": float(seconds)}
    return json_reply(body)


def _by_seconds(answer: Answer, seconds: int) -> Body:
    usage = answer.usage or Usage(seconds=seconds)
    only(usage, "Whisper's format", "seconds")
    return {"type": "duration", "seconds": int(usage.seconds)}


def _by_tokens(answer: Answer, seconds: int) -> Body:
    usage = answer.usage or Usage(
        audio_in=seconds * _TOKENS_PER_SECOND,
        output=usage_for(replace(answer, usage=None)).output,
    )
    only(usage, "OpenAI's format of transcriptions", "input", "audio_in", "output")
    return {
        "type": "tokens",
        "total_tokens": usage.total,
        "input_tokens": usage.input_total,
        "input_token_details": {"text_tokens": usage.input, "audio_tokens": usage.audio_in},
        "output_tokens": usage.output,
    }
