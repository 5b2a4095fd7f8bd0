"""What is seen of a text: which words and signs it has, and how much of some things.

Training and scoring read a text by this one function, so that both see the same.
"""

from __future__ import annotations

import re
from typing import Final

from fluxai.prompts.lexicon import ARTICLES, MARKS

#: A longer text is judged by its beginning and its end.
CHARACTERS_MAX: Final = 4_000
_HALF: Final = CHARACTERS_MAX // 2
#: One alternative can match at each place, so no text makes it slow.
_TOKEN: Final = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
#: The same, found in less time where all is ASCII.
_ASCII_TOKEN: Final = re.compile(r"[a-z]+|\d+|[^\w\s]", re.ASCII)
#: How far into a text the words are that say what it is about to be.
_OPENING: Final = 8
#: A description of a scene is rarely longer. Words.
_CAPTION_MAX: Final = 60
_SIGNS: Final = ("{", "}", ";", "=", "\\", "$", "(", "_", "^")
#: From here on a sign is there often.
_OFTEN: Final = 3


def _steps(name: str, count: int) -> tuple[frozenset[str], ...]:
    """Return, for each step of an amount, the features of that step and all below it."""
    names = [f"<{name} {step}>" for step in range(1, count + 1)]
    return tuple(frozenset(names[:step]) for step in range(count + 1))


_WORDS: Final = _steps("words", 18)
_NUMBERS: Final = _steps("numbers", 10)
_SENTENCES: Final = _steps("sentences", 10)
#: One step for each word of large work.
WORKS: Final = frozenset(f"<works {step}>" for step in range(1, 5))
_WORKS: Final = tuple(frozenset(sorted(WORKS)[:step]) for step in range(len(WORKS) + 1))


def _reached(steps: tuple[frozenset[str], ...], amount: int) -> frozenset[str]:
    """Pick the step of an amount: two for each doubling."""
    doublings = (amount * amount + 2 * amount + 1).bit_length() - 1
    return steps[min(doublings, len(steps) - 1)]


def capped(text: str) -> str:
    """Return the part of a text that is looked at."""
    if len(text) <= CHARACTERS_MAX:
        return text
    return f"{text[:_HALF]}\n{text[-_HALF:]}"


def features(text: str) -> set[str]:
    """Return what is seen of a text: lower-case words, signs, and marks in angle brackets.

    Words stand for themselves; a mark can't be mistaken for one, as no word has a bracket.
    """
    text = capped(text).lower()
    tokens = (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)
    found = set(tokens)
    marks: set[str] = set()
    works = 0
    for named in filter(None, map(MARKS.get, found)):
        marks.update(named)
        works += "<works>" in named
    asks = "?" in found or "<asks>" in marks
    marks.add("<asks or tells>" if asks else "<states>")
    opening = [token for token in tokens[: 2 * _OPENING] if token.isalpha()][:_OPENING]
    early = {mark for word in opening for mark in MARKS.get(word, ())}
    if "<draws>" in early or ("<makes>" in early and "<picture>" in marks):
        marks.add("<asks for a picture>")
    if opening:
        first = opening[0]
        if "<asks>" in MARKS.get(first, ()):
            marks.add("<asks at once>")
        elif not asks and len(tokens) < _CAPTION_MAX:
            noun = len(opening) > 1 and first in ARTICLES and tokens[1].isalpha()
            marks.add("<caption>" if noun else "<phrase>")
            if "<picture>" in early:
                marks.add("<begins with a picture>")
    else:
        marks.add("<no words>")
    for sign in _SIGNS:
        if text.count(sign) >= _OFTEN:
            marks.add(f"<often {sign}>")
    numbers = sum(map(str.isdecimal, tokens))
    sentences = text.count(".") + text.count("?") + text.count("!")
    found.update(
        marks,
        _reached(_WORDS, len(tokens)),
        _reached(_NUMBERS, numbers),
        _reached(_SENTENCES, sentences),
        _WORKS[min(works, len(WORKS))],
    )
    return found
