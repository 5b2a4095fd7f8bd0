"""The trained file: what it weighs, what it needs, and that it is read as it was written."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import zlib
from importlib.resources import files

import pytest

from fluxai.prompts.features import features
from fluxai.prompts.lexicon import IGNORED
from fluxai.prompts.scorer import HEADS, Scorer, length_of, packed, shipped, unpacked

FILE = files("fluxai.prompts").joinpath("data", "router.bin")
HEADER = {
    "format": 1,
    "heads": list(HEADS),
    "scales": [0.01, 0.02, 0.02, 0.02, 0.02],
    "biases": [0.0, 0.1, 0.0, -0.1, 0.0],
    "length": 0.01,
    "work": 0.0,
    "slope": 2.0,
    "offset": -1.0,
    "medium_from": 0.1,
    "complex_from": 0.2,
}


def test_it_is_small_and_says_what_it_is_made_of() -> None:
    """At most 250 KB in the wheel; its first line names the recipe and the licences of the data."""
    data = FILE.read_bytes()
    assert len(data) <= 250_000
    header = json.loads(zlib.decompress(data).partition(b"\n")[0])
    assert header["heads"] == list(HEADS)
    assert "Apache-2.0" in header["licences"]
    assert len(header["recipe"]) == 16


def test_it_is_the_same_when_written_again() -> None:
    """Reading loses nothing."""
    data = FILE.read_bytes()
    front, _, rest = zlib.decompress(data).partition(b"\n")
    header = json.loads(front)
    count = header["words"]
    weights = rest[-count * len(HEADS) :]
    words = rest[: -len(weights)].decode().splitlines()
    assert packed(header, words, weights) == data


def test_words_about_difficulty_are_not_among_its_features() -> None:
    """What a prompt says of itself can't be weighed, since it is not there."""
    assert not IGNORED & set(shipped()._rows)


def test_scores_are_those_of_the_weights_before_they_were_packed() -> None:
    """All heads at once in one integer: the same as a sum in floats for each head."""
    chance = random.Random(7)
    words = sorted({*features("how many red apples are in the box ?"), "unseen"})
    bytes_of = [[chance.randrange(1, 256) for _ in words] for _ in HEADS]
    scorer = Scorer(HEADER, words, b"".join(map(bytes, bytes_of)))
    text = "how many red apples are in the box ?"
    present = [place for place, word in enumerate(words) if word in features(text)]
    sums = [
        sum(row[place] - 128 for place in present) * scale / math.sqrt(len(present)) + bias
        for row, scale, bias in zip(bytes_of, HEADER["scales"], HEADER["biases"], strict=True)  # type: ignore[call-overload]
    ]
    scores = scorer.score(text)
    assert scores.gain == pytest.approx(sums[0] + 0.01 * length_of(len(text)))
    powers = [math.exp(value) for value in sums[1:]]
    assert scores.tasks == pytest.approx([power / sum(powers) for power in powers])


def test_a_file_of_another_format_is_refused() -> None:
    """An old program does not guess what a newer file means."""
    with pytest.raises(ValueError, match="format 2, not 1"):
        unpacked(packed({**HEADER, "format": 2}, ["a"], bytes(5)))


def test_it_is_loaded_when_it_is_first_needed_and_without_any_package() -> None:
    """Neither an import nor an analyzer reads it; analysing loads nothing but the standard library."""
    code = (
        "import sys, fluxai; a = fluxai.PromptAnalyzer();"
        "from fluxai.prompts.scorer import shipped; assert shipped.cache_info().currsize == 0;"
        "a.analyze('hello'); assert shipped.cache_info().misses == 1;"
        "a.analyze('again'); assert shipped.cache_info().misses == 1;"
        "found = {name.partition('.')[0] for name in sys.modules};"
        "assert not found & {'numpy', 'sklearn', 'pydantic', 'sqlalchemy', 'pickle', 'tiktoken'}, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
