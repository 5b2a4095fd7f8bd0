"""The trained scorer: one look-up per word, and a sum.

The file holds words and one signed byte per word and head. When it is loaded, the bytes of a word's
heads are packed into the fields of one integer, so that adding integers adds all heads at once.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from fluxai.prompts.features import WORKS, features

#: What is scored, in the order of the file: how much a dearer model is likely to gain, and the task.
HEADS: Final = ("gain", "text", "code", "image", "reasoning")
TASKS: Final = HEADS[1:]
FORMAT: Final = 1
#: Wide enough for the sum over every feature that a capped text can have.
_FIELD_BYTES: Final = 4
_ROW: Final = struct.Struct(f"<{len(HEADS)}I")
#: Added to each byte, so that no field is negative and borrows from the next one.
_ZERO: Final = 128
#: A weight from here on is worth mentioning, and how many are mentioned.
_TELLING_FROM: Final = _ZERO + 24
_TELLING_MAX: Final = 3
#: Longer texts are no harder for it.
_LENGTH_MAX: Final = 1 << 17
#: Keeps the logarithm of a short text from being all there is.
_LENGTH_ADDED: Final = 20


class Scores(NamedTuple):
    """What the scorer says of a text.

    Attributes:
        gain: How much a dearer model is likely to gain: no unit, larger is more.
        tasks: A probability for each of `TASKS`.
        words: The known words that speak most for a gain, most first.
        known: Whether any word was known.
    """

    gain: float
    tasks: tuple[float, ...]
    words: tuple[str, ...]
    known: bool


def length_of(characters: int) -> float:
    """Return the length of a text as the scorer counts it: doublings."""
    return math.log2(min(characters, _LENGTH_MAX) + _LENGTH_ADDED)


class Scorer:
    """Words, their weights, and what turns sums into scores.

    Attributes:
        header: What the file says of itself: version, recipe, licences, and the numbers below.
    """

    def __init__(self, header: Mapping[str, Any], words: Sequence[str], weights: bytes) -> None:
        self.header = header
        rows = bytearray(len(words) * _ROW.size)
        for head in range(len(HEADS)):
            start = head * len(words)
            rows[head * _FIELD_BYTES :: _ROW.size] = weights[start : start + len(words)]
        size = _ROW.size
        self._rows = {
            word: int.from_bytes(rows[place * size : (place + 1) * size], "little")
            for place, word in enumerate(words)
        }
        self._scales: list[float] = header["scales"]
        self._biases: list[float] = header["biases"]
        self._length: float = header["length"]
        self._work: float = header["work"]
        gains = weights[: len(words)]
        self._telling = frozenset(
            word
            for word, weight in zip(words, gains, strict=True)
            if weight >= _TELLING_FROM and word.isalpha()
        )
        self.slope: float = header["slope"]
        self.offset: float = header["offset"]
        self.medium_from: float = header["medium_from"]
        self.complex_from: float = header["complex_from"]

    def score(self, text: str) -> Scores:
        """Score a text."""
        return self.score_features(features(text), len(text))

    def score_features(self, found: set[str], characters: int) -> Scores:
        """Score what `features` found in a text of a length."""
        rows = list(filter(None, map(self._rows.get, found)))
        sums = _ROW.unpack(sum(rows).to_bytes(_ROW.size, "little"))
        zero = _ZERO * len(rows)
        norm = math.sqrt(len(rows)) or 1.0
        gain, *logits = [
            scale * (total - zero) / norm + bias
            for total, scale, bias in zip(sums, self._scales, self._biases, strict=True)
        ]
        top = max(logits)
        powers = [math.exp(logit - top) for logit in logits]
        whole = sum(powers)
        return Scores(
            gain + self._length * length_of(characters) + self._work * len(WORKS & found),
            tuple([power / whole for power in powers]),
            tuple(sorted(self._telling & found, key=self._told, reverse=True)[:_TELLING_MAX]),
            any(word in self._rows for word in found if word.isalpha()),
        )

    def _told(self, word: str) -> int:
        return self._rows[word] & 0xFF

    def suffices(self, gain: float) -> float:
        """Return the probability that a cheaper model does as well, for a score of `gain`."""
        return 1 / (1 + math.exp(min(500.0, self.slope * gain + self.offset)))


def packed(header: Mapping[str, Any], words: Sequence[str], weights: bytes) -> bytes:
    """Return the file of a scorer; `weights` holds each head's bytes, 128 meaning zero."""
    front = json.dumps({**header, "words": len(words)}, sort_keys=True)
    text = "\n".join((front, *words)) + "\n"
    return zlib.compress(text.encode() + weights, 9)


def unpacked(data: bytes) -> Scorer:
    """Read what `packed` made."""
    data = zlib.decompress(data)
    front, _, rest = data.partition(b"\n")
    header = json.loads(front)
    count = header["words"]
    if header["format"] != FORMAT or header["heads"] != list(HEADS):
        raise ValueError(f"the scorer's file has format {header['format']}, not {FORMAT}")
    weights = rest[len(rest) - count * len(HEADS) :]
    words = rest[: len(rest) - len(weights)].decode().split("\n")[:count]
    return Scorer(header, words, weights)


@cache
def shipped() -> Scorer:
    """Load the scorer that comes with the package; once."""
    return unpacked(files("fluxai.prompts").joinpath("data", "router.bin").read_bytes())
