"""`PromptAnalyzer`: what a prompt asks for, and how likely a cheaper model is to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from fluxai.core.tokens import text_tokens
from fluxai.prompts.features import capped, features
from fluxai.prompts.languages import language_of, script_of
from fluxai.prompts.reading import Prompt, read_prompt
from fluxai.prompts.scorer import TASKS, Scores, shipped

if TYPE_CHECKING:
    from fluxai.prompts.calibration import Calibration

Complexity = Literal["simple", "medium", "complex"]
TaskType = Literal["text", "code", "image", "reasoning"]

#: Around each message, and for an image or another file whose size is not known. Tokens.
_MESSAGE_TOKENS: Final = 4
_FILE_TOKENS: Final = 1_100
#: A longer text is counted by samples, since a prompt of a megabyte would take milliseconds.
_COUNTED_CHARACTERS_MAX: Final = 65_536
_SAMPLES: Final = 32
_IMAGE: Final = TASKS.index("image")
#: What is said of nothing: no task is likelier than another.
_NOTHING_CONFIDENCE: Final = 0.25
_LONG_CHARACTERS: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAnalysis:
    """What is known of a prompt before any model has seen it.

    Attributes:
        complexity: How much a dearer model is likely to gain: `simple`, `medium` or `complex`. Each
            is a third of the prompts that the scorer was made from.
        task_type: What is asked for: `text`, `code`, `image` (to make one) or `reasoning`.
        cheap_ok: The probability that a cheaper model does as well. Calibrated on exam questions and
            school arithmetic: on other work it is a rank, until it is calibrated by outcomes there.
        confidence: The probability that `task_type` is right.
        tokens: About how many input tokens the prompt is, without tools.
        language: ISO 639-1 code; `None` where it is not plain.
        script: The script of most letters, such as `latin` or `han`; `None` without letters.
        needs: Capabilities that a model must have: `tools`, `image` (to read one) or
            `image_generation`.
        gain: The score behind `complexity` and `cheap_ok`: no unit, larger is harder.
        reasons: Sentences that say why.
    """

    complexity: Complexity
    task_type: TaskType
    cheap_ok: float
    confidence: float
    tokens: int
    language: str | None
    script: str | None
    needs: frozenset[str]
    gain: float
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The analysis, JSON-ready."""
        return {
            "complexity": self.complexity,
            "task_type": self.task_type,
            "cheap_ok": self.cheap_ok,
            "confidence": self.confidence,
            "tokens": self.tokens,
            "language": self.language,
            "script": self.script,
            "needs": sorted(self.needs),
            "gain": self.gain,
            "reasons": list(self.reasons),
        }


class PromptAnalyzer:
    """Tells what prompts ask for, in a tenth of a millisecond and without any network.

    It is a small linear model over words, trained on public questions that cheap and dear models
    answered. `docs/explanation/routing.md` says how well it does, and what not to expect of it.
    Safe to use from several threads.

    Args:
        calibration: Corrects `cheap_ok`, from outcomes of your own; see `Calibration.fit`.
    """

    def __init__(self, calibration: Calibration | None = None) -> None:
        self._calibration = calibration

    def analyze(self, prompt: object) -> PromptAnalysis:
        """Say what a prompt asks for.

        What a prompt says of its own difficulty does not count.

        Args:
            prompt: Text; a list of messages of any provider, with images and tool calls; or a whole
                request as a dict or an object, with its `messages`, `system` and `tools`. Where there
                are several messages, the last one by the user is judged.

        Returns:
            The analysis; also of an empty prompt, and of one that can't be understood.
        """
        read = read_prompt(prompt)
        scorer = shipped()
        found = features(read.asked)
        scores = scorer.score_features(found, len(read.asked))
        script = script_of(capped(read.asked))
        task, confidence = _task(scores, read.asked)
        complexity: Complexity = (
            "complex"
            if scores.gain >= scorer.complex_from
            else "medium"
            if scores.gain >= scorer.medium_from
            else "simple"
        )
        cheap_ok = scorer.suffices(scores.gain)
        if self._calibration is not None:
            cheap_ok = self._calibration(cheap_ok)
        return PromptAnalysis(
            complexity=complexity,
            task_type=task,
            cheap_ok=cheap_ok,
            confidence=confidence,
            tokens=_tokens(read),
            language=language_of(found, script),
            script=script,
            needs=_needs(read, task),
            gain=scores.gain,
            reasons=_reasons(read, scores, complexity, task, cheap_ok, confidence),
        )


def _task(scores: Scores, asked: str) -> tuple[TaskType, float]:
    if not asked.strip():
        return "text", _NOTHING_CONFIDENCE
    tasks = list(scores.tasks)
    if not scores.known:
        # Without a word that is known, no picture is asked for.
        tasks[_IMAGE] = 0.0
    confidence = max(tasks)
    task: TaskType = TASKS[tasks.index(confidence)]
    return task, confidence


def _tokens(read: Prompt) -> int:
    total = float(_MESSAGE_TOKENS * read.messages + _FILE_TOKENS * read.media)
    for text in read.texts:
        total += _text_tokens(text)
    return int(total + 0.5)


def _text_tokens(text: str) -> float:
    length = len(text)
    if length <= _COUNTED_CHARACTERS_MAX:
        return text_tokens(text)
    size = _COUNTED_CHARACTERS_MAX // _SAMPLES
    stride = (length - size) // (_SAMPLES - 1)
    sample = "".join([text[place * stride : place * stride + size] for place in range(_SAMPLES)])
    return text_tokens(sample) * (length / len(sample))


_NO_NEEDS: Final[frozenset[str]] = frozenset()


def _needs(read: Prompt, task: TaskType) -> frozenset[str]:
    if not read.media and not read.tools and task != "image":
        return _NO_NEEDS
    found = set()
    if read.media:
        found.add("image")
    if read.tools:
        found.add("tools")
    if task == "image":
        found.add("image_generation")
    return frozenset(found)


_COMPLEXITY_REASON: Final = {
    "simple": "simple: a dearer model rarely gained on questions like this",
    "medium": "medium: a dearer model sometimes gained on questions like this",
    "complex": "complex: a dearer model often gained on questions like this",
}
_TASK_REASON: Final = {
    "text": "its words are those of questions and of writing",
    "code": "its words and signs are those of programs",
    "image": "it describes or asks for a picture",
    "reasoning": "its words are those of mathematics or puzzles",
}


def _reasons(
    read: Prompt,
    scores: Scores,
    complexity: Complexity,
    task: TaskType,
    cheap_ok: float,
    confidence: float,
) -> tuple[str, ...]:
    if not read.asked.strip():
        return ("there is no text to judge",)
    found = [
        f"{_COMPLEXITY_REASON[complexity]} ({cheap_ok:.0%} that a cheaper one suffices)",
        f"{task}: {_TASK_REASON[task]} ({confidence:.0%})",
    ]
    if scores.words:
        found.append(f"words that go with a gain: {', '.join(scores.words)}")
    if len(read.asked) > _LONG_CHARACTERS:
        found.append("long: its beginning and its end were judged")
    if not scores.known:
        found.append("none of its words is known, so this is little more than a guess")
    if read.media:
        found.append(f"files attached: {read.media}")
    if read.tools:
        found.append(f"tools offered: {read.tools}")
    return tuple(found)
