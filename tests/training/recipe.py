"""How the scorer is made from rows: fixed, seeded, one thread."""

# ruff: noqa: N803, N806 -- X is what everybody calls a matrix of features

from __future__ import annotations

import hashlib
import inspect
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge

from fluxai.prompts import features as features_module
from fluxai.prompts import lexicon
from fluxai.prompts import scorer as scorer_module
from fluxai.prompts.features import WORKS, features
from fluxai.prompts.lexicon import IGNORED
from fluxai.prompts.scorer import FORMAT, HEADS, Scorer, length_of, packed
from tests.training import data, tasks
from tests.training.data import FOLDS, Labelled, Outcome, fold_of
from tests.training.tasks import ASKED_LEARNED, NOT_ASKED

SEED: Final = 20_261_127
LICENCES: Final = (
    "outcomes: RouteLLM (Apache-2.0), MMLU-Pro (Apache-2.0); labels: HumanEval (MIT), LLMRouter (MIT),"
    " PartiPrompts (Apache-2.0), arena-hard-auto (Apache-2.0)"
)
#: A word that fewer prompts have is not learned.
PROMPTS_MIN: Final = 3
#: A longer word is a name of something, or no word.
_WORD_MAX: Final = 24
#: How much a row counts, by source: many rows of one kind shall not drown the others.
ROW_WEIGHT: Final = {"mmlu": 1.0, "gsm8k": 2.0, "mmlu_pro": 0.55}
#: Ridge penalties of the two parts of the score.
_GAIN_PENALTY: Final = 5.0
_HARD_PENALTY: Final = 10.0
#: The score is the learned gain, plus these shares of how likely the cheap model is to fail and of
#: the length, each in spreads of the gain: they carry over to prompts whose words are not known.
_HARD_SHARE: Final = 0.1
_LENGTH_SHARE: Final = 0.5
#: What a word of large work adds. Set by hand: two of them make a short request a medium one, four a
#: complex one.
_WORK: Final = 0.03
#: Inverse penalty of the tasks.
_TASK_C: Final = 3.0
#: Of the words of a prompt's second copy, this share is forgotten, so that no word is relied on.
_FORGOTTEN: Final = 0.4
_COPIES_OF_NOT_ASKED: Final = 12
_BYTE_MAX: Final = 127

Matrix = Any


class Words:
    """The features that are learned, and their place in a row of the matrix."""

    def __init__(self, seen: Sequence[set[str]]) -> None:
        counts = Counter(feature for found in seen for feature in found)
        self.names = sorted(
            name for name, count in counts.items() if count >= PROMPTS_MIN and _learnable(name)
        )
        self.place = {name: place for place, name in enumerate(self.names)}
        # Frequent features are shrunk: a square root of the usual inverse document frequency.
        rarity = np.array([math.log(len(seen) / counts[name]) + 0.1 for name in self.names])
        self.scale = np.sqrt(rarity / rarity.mean())

    def matrix(self, seen: Sequence[set[str]]) -> Matrix:
        """Return one row per prompt, of length 1 before the frequent features are shrunk."""
        rows, columns, values = [], [], []
        for row, found in enumerate(seen):
            places = sorted(place for name in found if (place := self.place.get(name)) is not None)
            rows += [row] * len(places)
            columns += places
            values += [1 / math.sqrt(len(places) or 1)] * len(places)
        shape = (len(seen), len(self.names))
        plain = sparse.csr_matrix((values, (rows, columns)), shape=shape)
        return (plain @ sparse.diags(self.scale)).tocsr()


def _learnable(name: str) -> bool:
    if name in IGNORED or name in WORKS or len(name) > _WORD_MAX or name.isdecimal():
        return False
    # The letters of options are layout.
    return len(name) > 1 or not name.isalpha() or name in "ai"


def _centred(values: Matrix, sources: Matrix) -> Matrix:
    """Take each source's mean away: which benchmark a prompt is from is not to be learned."""
    values = values.copy()
    for source in set(sources):
        values[sources == source] -= values[sources == source].mean()
    return values


class Parts(NamedTuple):
    """A scorer before it is a file.

    Attributes:
        header: What the file says of itself.
        words: The features, sorted.
        weights: For each head a byte per feature.
        exact: The same before rounding, one row per head.
    """

    header: dict[str, Any]
    words: list[str]
    weights: bytes
    exact: Any

    def scorer(self) -> Scorer:
        """Return it ready for use."""
        return Scorer(self.header, self.words, self.weights)

    def file(self) -> bytes:
        """Return what is shipped."""
        return packed(self.header, self.words, self.weights)


def train(outcomes: Sequence[Outcome], labelled: Sequence[Labelled]) -> Parts:
    """Make a scorer of all the rows given.

    What turns its score into a probability is fitted on scores of rows that the score had not seen.
    """
    parts = fit(outcomes, labelled)
    unseen = np.zeros(len(outcomes))
    folds = np.array([fold_of(f"again {row.stem}") for row in outcomes])
    for fold in range(FOLDS):
        known = [row for row, its in zip(outcomes, folds, strict=True) if its != fold]
        scorer = fit(known, ()).scorer()
        for place in np.flatnonzero(folds == fold):
            unseen[place] = scorer.score(outcomes[place].prompt).gain
    parts.header.update(_calibrated(outcomes, unseen))
    parts.header.update(_levels(parts.scorer(), outcomes, labelled))
    return parts


def recipe_hash() -> str:
    """Return what tells recipes apart: a digest of the code that reads, trains and scores."""
    digest = hashlib.sha256()
    for module in (features_module, lexicon, scorer_module, data, tasks):
        digest.update(inspect.getsource(module).encode())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def fit(outcomes: Sequence[Outcome], labelled: Sequence[Labelled]) -> Parts:
    """Learn the weights; without labelled rows, those of the gain alone."""
    kept = [features(row.prompt) for row in outcomes]
    removed = [features(row.bare) for row in outcomes]
    prompts, names = _task_rows(labelled)
    words = Words([*kept, *prompts])
    columns = [np.zeros(len(words.names)) for _ in HEADS]
    biases = [0.0] * len(HEADS)
    length = 0.0
    if outcomes:
        columns[0], length = _gain_head(words, outcomes, kept, removed)
    if prompts:
        model = LogisticRegression(C=_TASK_C, max_iter=400, tol=1e-3)
        model.fit(words.matrix(prompts), names)
        for task, column, bias in zip(model.classes_, model.coef_, model.intercept_, strict=True):
            columns[HEADS.index(task)] = column * words.scale
            biases[HEADS.index(task)] = float(bias)
    scales = [float(np.abs(column).max()) / _BYTE_MAX or 1.0 for column in columns]
    weights = b"".join(
        bytes((np.rint(column / scale) + _BYTE_MAX + 1).astype(np.uint8))
        for column, scale in zip(columns, scales, strict=True)
    )
    header: dict[str, Any] = {
        "format": FORMAT,
        "heads": list(HEADS),
        "recipe": recipe_hash(),
        "licences": LICENCES,
        "scales": scales,
        "biases": biases,
        "length": length,
        "work": _WORK if outcomes else 0.0,
        "slope": 1.0,
        "offset": 0.0,
        "medium_from": 0.0,
        "complex_from": 0.0,
    }
    return Parts(header, words.names, weights, np.array(columns))


def _gain_head(
    words: Words,
    outcomes: Sequence[Outcome],
    kept: Sequence[set[str]],
    removed: Sequence[set[str]],
) -> tuple[Any, float]:
    """Return the weights of the gain, and what a doubling of the length adds to it."""
    # Each prompt is learned twice, with its layout and without.
    X = sparse.vstack([words.matrix(kept), words.matrix(removed)]).tocsr()
    sources = np.array([row.source for row in outcomes] * 2)
    weights = np.array([ROW_WEIGHT[source] for source in sources]) / 2
    gains = _centred(np.array([row.gain for row in outcomes] * 2), sources)
    failures = _centred(np.array([1 - row.cheap for row in outcomes] * 2), sources)
    by_gain = _ridge(X, gains, weights, _GAIN_PENALTY)
    by_failure = _ridge(X, failures, weights, _HARD_PENALTY)
    lengths = np.array([length_of(len(row.prompt)) for row in outcomes])
    doubling = _LENGTH_SHARE * float((X @ by_gain).std()) / float(lengths.std())
    return (by_gain + _HARD_SHARE * by_failure) * words.scale, doubling


def _ridge(X: Matrix, y: Matrix, weights: Matrix, penalty: float) -> Any:
    model = Ridge(alpha=penalty, solver="sparse_cg", tol=1e-3)
    return model.fit(X, y, weights).coef_


def _task_rows(labelled: Sequence[Labelled]) -> tuple[list[set[str]], list[str]]:
    """Return what is seen of the labelled prompts, and of what is added to them, with their tasks."""
    if not labelled:
        return [], []
    chance = random.Random(SEED)
    # A single word, such as "hope", is no request for a picture, though a benchmark may say so.
    texts = [(row.prompt, row.task) for row in labelled if row.task != "image" or " " in row.prompt]
    captions = [text.rstrip(". ") for text, task in texts if task == "image"]
    for place, caption in enumerate(captions):
        # One caption in three is asked for in a sentence as well.
        if place % 3 == 0:
            texts.append((chance.choice(ASKED_LEARNED).format(caption), "image"))
    for task, sentence in NOT_ASKED:
        for _ in range(_COPIES_OF_NOT_ASKED if captions else 1):
            shown = chance.choice(captions) if captions else "it"
            texts.append((sentence.format(shown), task))
    seen = [features(text) for text, _ in texts]
    # A mark stays: only words are forgotten, in an order that is the same each time.
    seen += [
        {name for name in sorted(found) if name[0] == "<" or chance.random() >= _FORGOTTEN}
        for found in list(seen)
    ]
    return seen, [task for _, task in texts] * 2


def _calibrated(outcomes: Sequence[Outcome], unseen: Any) -> dict[str, float]:
    """Return what makes of scores probabilities; every source counts the same."""
    counts = Counter(row.source for row in outcomes)
    weights = np.array([1 / counts[row.source] for row in outcomes])
    fails = np.array([1 - row.suffices for row in outcomes])
    model = LogisticRegression(C=1e6, tol=1e-6)
    model.fit(
        np.tile(unseen, 2).reshape(-1, 1),
        np.repeat([0, 1], len(outcomes)),
        sample_weight=np.concatenate([weights * (1 - fails), weights * fails]),
    )
    return {"slope": float(model.coef_[0, 0]), "offset": float(model.intercept_[0])}


def _levels(
    scorer: Scorer, outcomes: Sequence[Outcome], labelled: Sequence[Labelled]
) -> dict[str, float]:
    """Return the scores that part simple, medium and complex prompts: thirds of all prompts.

    Half of the weight is that of the labelled prompts, which are nearer to what people write.
    """
    scores = np.array(
        [
            scorer.score(text).gain
            for text in [r.bare for r in outcomes] + [r.prompt for r in labelled]
        ]
    )
    halves = [np.full(len(rows), 1 / len(rows)) for rows in (outcomes, labelled)]
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(np.concatenate(halves)[order]) / 2
    return {
        name: float(scores[order][np.searchsorted(reached, share)])
        for name, share in (("medium_from", 1 / 3), ("complex_from", 2 / 3))
    }
