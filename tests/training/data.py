"""Read the routing data: outcomes of two or more models on prompts, and prompts with labels.

The files are in the folder `routing` of the one that `FLUXAI_TEST_DATA` names; none is committed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.training.tasks import task_of

FOLDS: Final = 5
#: The rows of this fold are left out of the shipped scorer, and judge it.
HELD_OUT: Final = 0
_STEM_CHARACTERS: Final = 200
_OPTION: Final = re.compile(r"\n[A-J][.)] [^\n]*")
_CLOSING: Final = re.compile(r"\s*Answer:\s*\Z")
_NO_WORD: Final = re.compile(r"[^a-z0-9]+")

#: Models of MMLU-Pro: the first three are cheap, the others dear.
CHEAP: Final = (
    "mistral_7b_instruct_v0_2",
    "mixtral_8x7b_instruct_v0_1",
    "meta_llama_3_1_8b_instruct",
)
DEAR: Final = ("meta_llama_3_1_70b_instruct", "gemini_1_5_pro_002")


class Outcome(NamedTuple):
    """A prompt, and how well cheap and dear models answered it: 0 to 1.

    Attributes:
        source: The benchmark.
        prompt: As it was given.
        bare: The same, without the layout of its options and the line that asks for the answer.
        stem: What tells questions apart, whatever their layout.
        cheap: The cheap model, or the mean of several.
        dear: The dear model, or the mean of several.
        suffices: How often the cheap model did as well, over all pairs of a cheap and a dear one.
        models: Each model by name.
    """

    source: str
    prompt: str
    bare: str
    stem: str
    cheap: float
    dear: float
    suffices: float
    models: dict[str, float]

    @property
    def gain(self) -> float:
        """How much better the dear model was."""
        return self.dear - self.cheap


class Labelled(NamedTuple):
    """A prompt and its task; `group` is the source and kind that it comes from."""

    prompt: str
    task: str
    group: str
    stem: str


def folder() -> Path | None:
    """Return where the data is, or `None` where it is not."""
    place = os.environ.get("FLUXAI_TEST_DATA")
    found = Path(place) / "routing" if place else None
    return found if found is not None and found.is_dir() else None


def _rows(name: str) -> Iterator[dict[str, Any]]:
    place = folder()
    if place is None:
        raise SystemExit("FLUXAI_TEST_DATA names no folder with routing data")
    with gzip.open(place / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def bare(prompt: str) -> str:
    """Remove what a benchmark puts around a question."""
    return _OPTION.sub("", _CLOSING.sub("", prompt)).strip()


def stem_of(prompt: str) -> str:
    """Return what two files share when they hold the same question."""
    return _NO_WORD.sub(" ", bare(prompt).lower()).strip()[:_STEM_CHARACTERS] or prompt.strip()


def fold_of(stem: str) -> int:
    """Return the fold of a stem; the same question is in one fold in all files."""
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4], "big") % FOLDS


def outcomes() -> list[Outcome]:
    """Return the prompts that two or more models answered."""
    found = []
    for source in ("mmlu", "gsm8k"):
        for row in _rows(f"routellm_{source}"):
            models = {"mixtral": row["q_mixtral"], "gpt4": row["q_gpt4"]}
            found.append(_outcome(source, row["prompt"], models, ("mixtral",), ("gpt4",)))
    for row in _rows("mmlu_pro"):
        models = {name[2:]: value for name, value in row.items() if name.startswith("q_")}
        found.append(_outcome("mmlu_pro", row["prompt"], models, CHEAP, DEAR))
    return found


def _outcome(
    source: str, prompt: str, models: dict[str, float], cheap: Sequence[str], dear: Sequence[str]
) -> Outcome:
    as_well = [models[one] >= models[other] for one in cheap for other in dear]
    return Outcome(
        source,
        prompt,
        bare(prompt),
        stem_of(prompt),
        statistics.fmean(models[name] for name in cheap),
        statistics.fmean(models[name] for name in dear),
        statistics.fmean(as_well),
        models,
    )


def labelled() -> list[Labelled]:
    """Return the prompts whose label settles their task."""
    found = []
    for row in _rows("task_type_sources"):
        task = task_of(row["label"])
        if task is not None:
            group = "arena_hard" if row["label"].startswith("arena_hard:") else row["label"]
            if task == "image":
                # Prompts that begin alike were made from one template: they are one group.
                opening = " ".join(row["prompt"].lower().split()[:2])
                group = f"image {fold_of(opening)}"
            found.append(Labelled(row["prompt"], task, group, stem_of(row["prompt"])))
    return found


def hardness() -> list[tuple[str, bool]]:
    """Return prompts of MixEval, and whether they are in its hard subset."""
    return [(row["prompt"], bool(row["hard"])) for row in _rows("mixeval_hardness")]
