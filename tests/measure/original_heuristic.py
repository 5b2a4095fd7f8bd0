"""The heuristic of the system that FluxAI grew out of, to compare with.

Its source is not at hand, only what was written down of it: it looked for key words anywhere in the
text, also inside other words ("fix" in "prefix"), told three levels apart, sent `complex` to the strong
model and the rest to the weak one. The lists below were put together anew from that description. What
the original itself scored, when it still could be run, is in `RECORDED`.
"""

from __future__ import annotations

from typing import Final

#: APGR of the original itself, on all rows, with their layout.
RECORDED: Final = {"mmlu": 0.527, "gsm8k": 0.519, "mmlu_pro": 0.497}
#: Task types with sources in and out of training: macro-F1 of the original itself.
RECORDED_TASKS: Final = (0.656, 0.552)

_COMPLEX: Final = [
    "analyze",
    "analysis",
    "architecture",
    "algorithm",
    "optimize",
    "design",
    "complex",
    "comprehensive",
    "detailed",
    "evaluate",
    "compare",
    "contrast",
    "research",
    "prove",
    "derive",
    "implement",
    "strategy",
    "debug",
    "refactor",
    "in-depth",
    "step-by-step",
    "trade-off",
    "system",
]
_SIMPLE: Final = [
    "what-is",
    "who-is",
    "when",
    "where",
    "define",
    "list",
    "translate",
    "hello",
    "hi",
    "thanks",
    "name",
    "yes",
    "no",
]
_CODE: Final = [
    "code",
    "function",
    "class",
    "bug",
    "fix",
    "debug",
    "python",
    "javascript",
    "typescript",
    "sql",
    "api",
    "script",
    "program",
    "implement",
    "compile",
    "error",
    "algorithm",
    "html",
    "css",
    "regex",
    "database",
]
_IMAGE: Final = [
    "image",
    "picture",
    "photo",
    "draw",
    "illustration",
    "logo",
    "paint",
    "sketch",
    "visual",
    "portrait",
]
_REASONING: Final = [
    "why",
    "prove",
    "explain",
    "solve",
    "calculate",
    "reason",
    "logic",
    "math",
    "equation",
    "derive",
    "analyze",
    "compare",
    "evaluate",
    "how-many",
    "probability",
    "step-by-step",
]
_LONG_WORDS: Final = 200
_MIDDLE_WORDS: Final = 50


def _count(text: str, keywords: list[str]) -> int:
    return sum(keyword.replace("-", " ") in text for keyword in keywords)


def complexity(prompt: str) -> int:
    """Return 0 for simple, 1 for medium, 2 for complex."""
    text = prompt.lower()
    words = len(text.split())
    score = _count(text, _COMPLEX) - _count(text, _SIMPLE)
    score += (words > _MIDDLE_WORDS) + 2 * (words > _LONG_WORDS)
    return 2 if score > 1 else 1 if score > 0 else 0


def task(prompt: str) -> str:
    """Return the task type: the first whose key words are found."""
    text = prompt.lower()
    if _count(text, _IMAGE):
        return "image"
    counts = {"code": _count(text, _CODE), "reasoning": _count(text, _REASONING)}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "text"
