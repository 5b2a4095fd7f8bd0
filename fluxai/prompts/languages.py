"""Which script a text is written in, and in which language where that is plain."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Final

#: How many characters settle it.
_SAMPLE_MAX: Final = 80
_OTHER: Final = "other"
#: Where blocks of letters begin, by code point, and the script there; blocks between them are other.
_BLOCKS: Final = (
    (0x0000, "latin"),
    (0x0250, _OTHER),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "armenian"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0700, _OTHER),
    (0x0900, "devanagari"),
    (0x0980, "bengali"),
    (0x0A00, _OTHER),
    (0x0B80, "tamil"),
    (0x0C00, "telugu"),
    (0x0C80, _OTHER),
    (0x0E00, "thai"),
    (0x0E80, _OTHER),
    (0x10A0, "georgian"),
    (0x1100, "hangul"),
    (0x1200, _OTHER),
    (0x1E00, "latin"),
    (0x1F00, "greek"),
    (0x2000, _OTHER),
    (0x3040, "kana"),
    (0x3100, _OTHER),
    (0x3400, "han"),
    (0xA000, _OTHER),
    (0xAC00, "hangul"),
    (0xD7B0, _OTHER),
    (0xF900, "han"),
    (0xFB00, _OTHER),
    (0x20000, "han"),
    (0x32000, _OTHER),
)
_STARTS: Final = tuple(start for start, _ in _BLOCKS)
_SCRIPTS: Final = tuple(script for _, script in _BLOCKS)
#: Scripts that one widely used language is written in.
_LANGUAGE_OF: Final = {
    "greek": "el",
    "armenian": "hy",
    "hebrew": "he",
    "bengali": "bn",
    "tamil": "ta",
    "telugu": "te",
    "thai": "th",
    "georgian": "ka",
    "hangul": "ko",
    "kana": "ja",
    "han": "zh",
}
#: Small words that a text of the language can hardly do without.
_SMALL_WORDS: Final = {
    "en": "the of and is what to how are you with for that this write from i my your which it",
    "es": "el los las una del por qué cómo para y como con está",
    "fr": "le les des une du est et dans que pour avec vous qui quel quelle comment je au sur",
    "de": "der die das und ist ein eine nicht wie mit ich sie für von auf den zu bitte",
    "it": "il gli di che è della per un sono come perché nel questo",
    "pt": "o os da do em um uma não é com ao seu você",
    "nl": "het een van de en niet hoe wat ik zijn voor op met",
    "ru": "и в не на что как это с по для мне ты",
    "uk": "і що як це для та у від не ти",
}
_AMONG: Final = {
    script: tuple((language, frozenset(_SMALL_WORDS[language].split())) for language in languages)
    for script, languages in (
        ("latin", ("en", "es", "fr", "de", "it", "pt", "nl")),
        ("cyrillic", ("ru", "uk")),
    )
}


def script_of(text: str) -> str | None:
    """Return the script of most letters of a text, such as `latin`; `None` if it has no letter."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else None
    sample = text[:: len(text) // _SAMPLE_MAX + 1]
    if not any(map(str.isalpha, sample)):
        sample = text
    letters = [letter for letter in sample if letter.isalpha()]
    counts = Counter([_SCRIPTS[bisect_right(_STARTS, ord(letter)) - 1] for letter in letters])
    if not counts:
        return None
    # Japanese is kana among more Han than kana.
    if counts["kana"] * 10 > counts["han"]:
        counts["kana"] += counts.pop("han", 0)
    return counts.most_common(1)[0][0]


def language_of(words: set[str], script: str | None) -> str | None:
    """Return the ISO 639-1 code of a text's language, from its lower-case words.

    Returns:
        `None` where it is not plain.
    """
    if script is None:
        return None
    among = _AMONG.get(script)
    if among is None:
        return _LANGUAGE_OF.get(script)
    counts = sorted([(len(small & words), language) for language, small in among], reverse=True)
    return counts[0][1] if counts[0][0] > counts[1][0] else None
