"""Make the scorer of prompts: `python -m tests.training.train_router`.

It needs scikit-learn (a development dependency), and the data that `FLUXAI_TEST_DATA` names. The same
data and versions give the same bytes. It writes `fluxai/prompts/data/router.bin`, judges what it wrote,
and puts the tables into `docs/explanation/routing.md`.
"""

# ruff: noqa: T201 -- it says what it does
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from threadpoolctl import threadpool_limits

from fluxai.prompts import scorer as scorer_module
from fluxai.prompts.scorer import TASKS, Scorer, shipped
from tests.measure import original_heuristic, routing
from tests.measure.gains import macro_f1, recall
from tests.measure.rivals import PLAIN
from tests.training.data import FOLDS, HELD_OUT, Labelled, Outcome, fold_of, labelled, outcomes
from tests.training.recipe import fit, train

SHIPPED: Final = Path(scorer_module.__file__).parent / "data" / "router.bin"
PAGE: Final = Path(__file__).parents[2] / "docs" / "explanation" / "routing.md"


def _judged_on_each_fold(rows: Sequence[Outcome]) -> Iterator[tuple[str, str]]:
    """Score every row by a scorer that was not trained on its fold, the shipped recipe each time."""
    scorers = {
        fold: fit([row for row in rows if fold_of(row.stem) != fold], ()).scorer()
        for fold in range(FOLDS)
    }
    yield (
        "folds",
        _compared(rows, "every row once, by five scorers", lambda row: scorers[fold_of(row.stem)]),
    )

    def probability(row: Outcome) -> float:
        return shipped().suffices(scorers[fold_of(row.stem)].score(row.prompt).gain)

    yield "calibration", routing.calibration(rows, probability)


def _judged_on_each_source(rows: Sequence[Outcome]) -> str:
    """Score every benchmark by a scorer that saw none of its rows, nor its questions elsewhere."""
    scorers = {}
    for source in routing.SOURCES:
        stems = {row.stem for row in rows if row.source == source}
        known = [row for row in rows if row.source != source and row.stem not in stems]
        scorers[source] = fit(known, ()).scorer()
    return _compared(rows, "whole benchmark left out", lambda row: scorers[row.source])


def _compared(rows: Sequence[Outcome], name: str, chosen: Callable[[Outcome], Scorer]) -> str:
    def score(row: Outcome, text: str) -> float:
        return chosen(row).score(text).gain

    shown: list[Sequence[object]] = [
        (rival, *routing.figures(rows, routing.by_text(by))) for rival, by in PLAIN.items()
    ]
    recorded = original_heuristic.RECORDED
    shown.append(("original heuristic, recorded", *(f"{recorded[s]:.3f}" for s in routing.SOURCES)))
    shown.append((f"**{name}**", *routing.figures(rows, score)))
    return routing.table(("score", *routing.SOURCES), shown)


def _tasks_of_unseen_sources(rows: Sequence[Labelled]) -> str:
    """Find the tasks of each group of prompts by a scorer that saw none of the group."""
    found: dict[str, list[tuple[str, str]]] = {}
    for group in sorted({row.group for row in rows}):
        stems = {row.stem for row in rows if row.group == group}
        scorer = fit((), [r for r in rows if r.group != group and r.stem not in stems]).scorer()
        found[group] = [
            (row.task, _likeliest(scorer, row.prompt)) for row in rows if row.group == group
        ]
    pairs = [pair for some in found.values() for pair in some]
    wanted, given = [w for w, _ in pairs], [f for _, f in pairs]
    before = [original_heuristic.task(row.prompt) for row in rows]
    shown = [
        (group, len(some), f"{sum(w == f for w, f in some) / len(some):.3f}")
        for group, some in found.items()
    ]
    _, recorded = original_heuristic.RECORDED_TASKS
    return (
        routing.table(("left out of training", "rows", "right"), shown)
        + f"\nMacro-F1 over all of them: **{macro_f1(wanted, given):.3f}**; image recall, templates never seen:"
        f" **{recall('image', wanted, given):.3f}**. Original heuristic, rebuilt:"
        f" {macro_f1([row.task for row in rows], before):.3f}; recorded: {recorded:.3f}.\n"
    )


def _likeliest(scorer: Scorer, text: str) -> str:
    tasks = scorer.score(text).tasks
    return TASKS[tasks.index(max(tasks))]


def _write(tables: dict[str, str]) -> None:
    """Put each table between its two marks on the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, shown in tables.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        places = list(marks.finditer(text))
        if len(places) != 1:
            raise SystemExit(f"{PAGE.name} has {len(places)} places for the table {name!r}")
        place = places[0]
        text = f"{text[: place.end(1)]}\n{shown}\n{text[place.start(2) :]}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Train, write, judge, report."""
    rows, prompts = outcomes(), labelled()
    parts = train(
        [row for row in rows if fold_of(row.stem) != HELD_OUT],
        [row for row in prompts if fold_of(row.stem) != HELD_OUT],
    )
    SHIPPED.parent.mkdir(exist_ok=True)
    SHIPPED.write_bytes(parts.file())
    shipped.cache_clear()
    print(
        f"{SHIPPED.name}: {SHIPPED.stat().st_size:,} bytes, {len(parts.words):,} features",
        flush=True,
    )
    tables = {}
    for name, shown in _tables(rows, prompts):
        print(f"## {name}\n\n{shown}", flush=True)
        tables[name] = shown
    _write(tables)


def _tables(rows: Sequence[Outcome], prompts: Sequence[Labelled]) -> Iterator[tuple[str, str]]:
    yield from ((name, shown) for name, shown in routing.report() if name != "calibration")
    yield "sources", _judged_on_each_source(rows)
    yield from _judged_on_each_fold(rows)
    yield "groups", _tasks_of_unseen_sources(prompts)


if __name__ == "__main__":
    # Sums in one order are the same sums each time.
    with threadpool_limits(1):
        main()
