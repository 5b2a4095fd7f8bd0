"""What a provider adds to the text of a request, by generation of models.

`input tokens = text * T(messages) + message * messages + request
+ tools_text * T(tools) + tool * tools + any_tool`, where T is `tokens.text_tokens` and tools are
written as the model is given them: as TypeScript by OpenAI, as JSON by the others.

Source: fitted to half of the recorded requests (by file) and the input tokens that their providers
billed; `docs/explanation/costs.md` shows the error on the other half. Families with fewer than ten
records have the median of theirs, and a wider margin. Tools of others than OpenAI were fitted to
the length of their definitions only, which is all that those recordings keep.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple


class Framing(NamedTuple):
    """The numbers of one generation, in tokens.

    Attributes:
        text: Factor for the text of messages.
        message: For each message.
        request: For each request.
        tools_text: Factor for the definitions of tools.
        tool: For each tool.
        any_tool: Once, if there is any.
        margin: How far above the estimate few requests get.
        tools_margin: The same, with tools.
        slack: Tokens added to the upper estimate, for what short requests hide.
        media: For an image or another file whose size is not known: about a 1024-pixel image.
        typescript: Tools are given to the model as TypeScript, not as JSON.
    """

    text: float
    message: float = 0
    request: float = 0
    tools_text: float = 1.1
    tool: float = 0
    any_tool: float = 50
    margin: float = 1.3
    tools_margin: float = 1.7
    slack: int = 8
    typescript: bool = False
    media: int = 1_100


#: For a model that no line below knows.
DEFAULT: Final = Framing(1.1, 4, 6, margin=1.4, slack=40)

#: Models that can think are given instructions for it, about 30 tokens, when that is switched on.
_THINKING: Final = 30

_GPT_4O: Final = Framing(0.982, 4.09, 3.04, 0.78, 5, 7, 1.17, 1.6, slack=3, typescript=True)
_GPT_5: Final = Framing(1.016, 4.57, 1.35, 0.78, 0, 15, 1.17, 1.6, slack=3, typescript=True)

#: In order; the first whose pattern is found in the id, in lower case, holds.
_BY_PATTERN: Final = tuple(
    (re.compile(pattern), framing)
    for pattern, framing in (
        (r"embed|rerank|^voyage", Framing(1.0, margin=1.3, slack=4)),
        # They continue a text: nothing is put around it.
        (
            r"3[.]5-turbo-instruct|davinci|babbage|^(?:text-)?(?:ada|curie)(?:-|$)|gpt-image|dall-e",
            Framing(1.0, slack=6),
        ),
        (r"gpt-oss", Framing(0.98, 6, 62, margin=1.15)),
        # Cheap models count an image as many more tokens: OpenAI's guide to images and vision.
        (r"gpt-4o-mini", _GPT_4O._replace(media=25_500)),
        (r"gpt-4\.1-nano", _GPT_4O._replace(media=2_600)),
        (r"gpt-4\.1-mini", _GPT_4O._replace(media=1_700)),
        (r"gpt-4o|gpt-4\.1|chatgpt", _GPT_4O),
        (r"gpt-5[\w.]*-nano", _GPT_5._replace(media=2_600)),
        (r"gpt-5[\w.]*-mini|(?:^|[/.:-])o4-mini", _GPT_5._replace(media=1_800)),
        (r"gpt-[5-9]|(?:^|[/.:-])o[134](?:-|$)", _GPT_5),
        (
            r"gpt-(?:3|4|35)",
            Framing(0.95, 4.3, 3.0, 0.78, 5, 7, 1.17, 1.6, slack=3, typescript=True),
        ),
        (r"claude-3[-.]7", Framing(1.05, 2.5, 5.5, 1.1, 0, 345, 1.2, 1.5, slack=_THINKING)),
        (r"claude-(?:3|2|v2|instant)", Framing(1.05, 2.5, 5.5, 0.75, 0, 420, 1.2, 1.6)),
        (
            r"claude-(?:opus|sonnet)-4-(?:0|1|20)|claude-(?:opus|sonnet)-4[@]|claude-4-",
            Framing(1.105, 1.98, 4.64, 1.1, 0, 345, 1.2, 1.5, slack=_THINKING),
        ),
        (
            r"claude-(?:opus|sonnet|haiku)-4[-.][56]",
            Framing(1.115, 1.24, 5.31, 1.3, 0, 492, 1.2, 1.35, slack=_THINKING),
        ),
        # Few records: a newer tokenizer makes more tokens of the same text.
        (r"claude", Framing(1.25, 1.24, 5.31, 1.4, 0, 420, 1.4, 1.8, slack=_THINKING)),
        (r"gemini-(?:1|2\.0)", Framing(1.0, tools_text=0.4, any_tool=0, margin=1.25, slack=4)),
        (r"gemini-2\.5", Framing(1.105, tools_text=0.85, any_tool=0, margin=1.2, slack=2)),
        (r"gemini", Framing(1.08, 0, 0.5, 0.8, 0, 0, 1.3, slack=3)),
        (r"gemma", Framing(1.0, 0, 9)),
        (
            r"mistral-(?:small|medium)|magistral-small",
            Framing(0.986, 1.93, 12.9, 1.33, 0, 0, 1.2, 1.5),
        ),
        (
            r"mistral|codestral|pixtral|magistral|devstral|mixtral|voxtral",
            Framing(1.05, 0, 3, 1.33, 0, 0, 1.25, 1.7, slack=12),
        ),
        # Newer ones put a date and a role before everything.
        (r"llama-?3[.-][1-3]", Framing(1.05, 2, 34, 0.8, 0, 400, 1.2, 2.0, slack=12)),
        (r"llama", Framing(1.05, 2, 9, 0.8, 0, 100, slack=40)),
        (r"qwen", Framing(1.057, 7, 2.6, 0.8, 0, 200, 1.25, 1.8)),
        (r"command-a-plus", Framing(1.05, 0, 55, 0.6)),
        (r"command(?!-[ar])", Framing(1.1, 0, 0, 0.6, slack=50)),
        (r"command", Framing(1.05, 0, 0, 0.6)),
        (r"deepseek-v[4-9]", Framing(1.0, 1, 5, 0.7, 0, 250, margin=1.25, slack=90)),
        (r"deepseek", Framing(1.0, 1, 4, 0.7, 0, 250)),
        (r"nova-2", Framing(1.0, 1, 46, 0.9, 0, 600, 1.2, slack=12)),
        (r"nova-", Framing(0.98, 1, 0, 0.9, 0, 780, 1.2, slack=8)),
        (r"titan", Framing(1.065, 0.8, 0)),
        # xAI puts instructions of its own before the request.
        (r"grok-[4-9]", Framing(1.0, 2, 178, 0.5, 0, 150, 1.2)),
        (r"grok", Framing(1.0, 2, 6, 0.5, 0, 150)),
        (r"sonar", Framing(0.95, 0, 3)),
        (r"glm", Framing(0.93, 6.2, 0, 1.0, 0, 150, slack=8)),
    )
)


def framing_of(model: str) -> Framing:
    """Return the framing of a model's generation, known or not."""
    model = model.lower()
    for pattern, framing in _BY_PATTERN:
        if pattern.search(model):
            return framing
    return DEFAULT
