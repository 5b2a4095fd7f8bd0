"""The shipped scorer's figures on questions that it was not trained on. Needs the routing data."""

from __future__ import annotations

import pytest

from tests.measure import original_heuristic, routing
from tests.measure.gains import apgr, macro_f1, noise, recall
from tests.training.data import Labelled, Outcome, folder, labelled, outcomes
from tests.training.tasks import ASKED_JUDGED

pytestmark = pytest.mark.skipif(
    folder() is None, reason="FLUXAI_TEST_DATA names no folder with routing data"
)


@pytest.fixture(scope="module")
def rows() -> list[Outcome]:
    """Outcomes on questions left out of training."""
    return routing.held_out(outcomes())


@pytest.fixture(scope="module")
def prompts() -> list[Labelled]:
    """Labelled prompts left out of training."""
    return routing.held_out(labelled())


@pytest.mark.parametrize(("source", "least"), [("mmlu", 0.64), ("gsm8k", 0.59), ("mmlu_pro", 0.53)])
@pytest.mark.parametrize("form", ["prompt", "bare"])
def test_the_gap_is_recovered(rows: list[Outcome], source: str, least: float, form: str) -> None:
    """One score for all benchmarks, with the layout of their options and without it."""
    these = routing.of_source(rows, source)
    gains = [row.gain for row in these]
    found = apgr([routing.shipped_gain(getattr(row, form)) for row in these], gains)
    assert found >= least
    assert found > original_heuristic.RECORDED[source] - noise(gains)


def test_tasks_are_told_apart(prompts: list[Labelled]) -> None:
    """Macro-F1 and the recall of pictures."""
    wanted = [row.task for row in prompts]
    found = [routing.found_task(row.prompt) for row in prompts]
    assert macro_f1(wanted, found) >= 0.85
    assert recall("image", wanted, found) >= 0.85


def test_pictures_are_recognised_in_sentences_never_seen(prompts: list[Labelled]) -> None:
    """Requests that share no sentence with those of training, over captions left out of it."""
    captions = [row.prompt for row in prompts if row.task == "image" and " " in row.prompt]
    texts = [sentence.format(caption) for sentence in ASKED_JUDGED for caption in captions]
    found = [routing.found_task(text) for text in texts]
    assert found.count("image") / len(found) >= 0.85
