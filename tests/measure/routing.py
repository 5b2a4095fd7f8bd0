"""Print how good the shipped prompt analysis is: `python -m tests.measure.routing`.

It reads outcomes and labels from the folder that `FLUXAI_TEST_DATA` names. A fifth of the questions,
by a digest of their text, was left out of training; every figure is of that fifth. With LiteLLM
installed, its routers are compared too.
"""

# ruff: noqa: T201 -- printing figures is the purpose
from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from fluxai.prompts import Calibration, PromptAnalyzer
from fluxai.prompts.scorer import shipped
from fluxai.routing import Pair, certify
from tests.measure import original_heuristic
from tests.measure.gains import apgr, calibration_error, calls_needed, macro_f1, noise, recall
from tests.measure.rivals import rivals
from tests.training.data import (
    HELD_OUT,
    Labelled,
    Outcome,
    fold_of,
    hardness,
    labelled,
    outcomes,
)
from tests.training.tasks import ASKED_JUDGED

SOURCES: Final = ("mmlu", "gsm8k", "mmlu_pro")
#: Pairs of models of MMLU-Pro that are shown on their own: a cheap and a dear one.
PAIRS: Final = (
    ("mistral_7b_instruct_v0_2", "meta_llama_3_1_70b_instruct"),
    ("mixtral_8x7b_instruct_v0_1", "gemini_1_5_pro_002"),
    ("meta_llama_3_1_8b_instruct", "meta_llama_3_1_70b_instruct"),
    ("meta_llama_3_1_8b_instruct", "gemini_1_5_pro_002"),
)
#: Risks and numbers of outcomes of which certificates are tried.
CERTIFIED: Final = ((0.10, 500), (0.05, 500), (0.02, 200))
_CONFIDENCE: Final = 0.9
_SPLITS: Final = 400
_OUTCOMES: Final = 200
_DRAWS: Final = 100
_RESAMPLES: Final = 200
_MICROS: Final = 1_000_000

Score = Callable[[str], float]
Row = TypeVar("Row", Outcome, Labelled)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def of_source(rows: Sequence[Outcome], source: str) -> list[Outcome]:
    """Return the rows of one benchmark."""
    return [row for row in rows if row.source == source]


def held_out(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that the shipped scorer has not seen."""
    return [row for row in rows if fold_of(row.stem) == HELD_OUT]


def figures(rows: Sequence[Outcome], score: Callable[[Outcome, str], float]) -> list[str]:
    """Return, for each benchmark, the APGR with layout and without, and the calls for 50 and 80 %."""
    found = []
    for source in SOURCES:
        these = of_source(rows, source)
        gains = [row.gain for row in these]
        kept = [score(row, row.prompt) for row in these]
        removed = [score(row, row.bare) for row in these]
        found.append(
            f"{apgr(kept, gains):.3f} / {apgr(removed, gains):.3f}"
            f" ({calls_needed(0.5, kept, gains):.0%}, {calls_needed(0.8, kept, gains):.0%})"
        )
    return found


def by_text(score: Score) -> Callable[[Outcome, str], float]:
    """Return a score that goes by the text alone."""
    return lambda _, text: score(text)


def shipped_gain(text: str) -> float:
    """Return the shipped score."""
    return shipped().score(text).gain


def ranking(rows: Sequence[Outcome]) -> str:
    """Compare scores on rows that the shipped one has not seen."""
    shown: list[Sequence[object]] = [
        ("random", *(f"0.500 ± {noise([r.gain for r in of_source(rows, s)]):.3f}" for s in SOURCES))
    ]
    for name, score in rivals().items():
        shown.append((name, *figures(rows, by_text(score))))
    recorded = original_heuristic.RECORDED
    shown.append(
        ("original heuristic, recorded (all rows)", *(f"{recorded[s]:.3f}" for s in SOURCES))
    )
    shown.append(("**shipped**", *figures(rows, by_text(shipped_gain))))
    shown.append(("shipped, 90 % interval", *(_interval(of_source(rows, s)) for s in SOURCES)))
    shown.append(("oracle", *(f"{_oracle(of_source(rows, s)):.3f}" for s in SOURCES)))
    counts = [f"{source}, {len(of_source(rows, source)):,} rows" for source in SOURCES]
    return table(("score", *counts), shown)


def _interval(rows: Sequence[Outcome]) -> str:
    chance = random.Random(1)
    scored = [(shipped_gain(row.prompt), row.gain) for row in rows]
    found = []
    for _ in range(_RESAMPLES):
        drawn = chance.choices(scored, k=len(scored))
        found.append(apgr([score for score, _ in drawn], [gain for _, gain in drawn]))
    found.sort()
    return f"{found[_RESAMPLES // 20]:.3f} to {found[-_RESAMPLES // 20 - 1]:.3f}"


def _oracle(rows: Sequence[Outcome]) -> float:
    gains = [row.gain for row in rows]
    return apgr(gains, gains)


def pairs(rows: Sequence[Outcome]) -> str:
    """Show MMLU-Pro for pairs of models, each on its own."""
    these = of_source(rows, "mmlu_pro")
    kept = [shipped_gain(row.prompt) for row in these]
    removed = [shipped_gain(row.bare) for row in these]
    lengths = [len(row.prompt) for row in these]
    shown = []
    for cheap, dear in PAIRS:
        gains = [row.models[dear] - row.models[cheap] for row in these]
        shown.append(
            (
                cheap,
                dear,
                f"± {noise(gains):.3f}",
                f"{apgr(lengths, gains):.3f}",
                f"{apgr(kept, gains):.3f} / {apgr(removed, gains):.3f}",
            )
        )
    return table(("cheap", "dear", "noise", "prompt length", "shipped"), shown)


def shipped_probability(row: Outcome) -> float:
    """Return the shipped probability that a cheaper model does."""
    return PromptAnalyzer().analyze(row.prompt).cheap_ok


def calibration(
    rows: Sequence[Outcome], probability: Callable[[Outcome], float] = shipped_probability
) -> str:
    """Show how far a probability is off, as it is and after outcomes of the same kind."""
    shown = []
    for source in SOURCES:
        these = of_source(rows, source)
        scored = [probability(row) for row in these]
        for what, happened in (
            ("the cheap model does as well", [row.suffices for row in these]),
            ("the cheap model is right", [row.cheap for row in these]),
        ):
            shown.append(
                (
                    source,
                    what,
                    f"{calibration_error(scored, happened):.3f}",
                    *_after_outcomes(scored, happened),
                )
            )
    return table(
        ("rows", "probability that", "as shipped", "after outcomes", "kept as shipped"), shown
    )


def _after_outcomes(scored: Sequence[float], happened: Sequence[float]) -> tuple[str, str]:
    count = min(_OUTCOMES, len(scored) // 2)
    errors = []
    kept = 0
    for seed in range(_DRAWS):
        order = list(range(len(scored)))
        random.Random(seed).shuffle(order)
        fitted = Calibration.fit((scored[place], happened[place]) for place in order[:count])
        kept += not fitted.outcomes
        rest = order[count:]
        probabilities = [fitted(scored[place]) for place in rest]
        errors.append(calibration_error(probabilities, [happened[place] for place in rest]))
    return (
        f"{statistics.fmean(errors):.3f} ({count} outcomes, {len(rest)} judged)",
        f"{kept / _DRAWS:.0%}",
    )


def found_task(text: str) -> str:
    """Return the task type that the shipped analyzer finds."""
    return PromptAnalyzer().analyze(text).task_type


def tasks(rows: Sequence[Labelled]) -> str:
    """Compare task types on rows that the shipped scorer has not seen."""
    wanted = [row.task for row in rows]
    shown = []
    for name, find in (
        ("original heuristic, rebuilt", original_heuristic.task),
        ("**shipped**", found_task),
    ):
        found = [find(row.prompt) for row in rows]
        right = sum(w == f for w, f in zip(wanted, found, strict=True)) / len(rows)
        shown.append(
            (
                name,
                f"{right:.3f}",
                f"{macro_f1(wanted, found):.3f}",
                *(f"{recall(task, wanted, found):.3f}" for task in ("code", "image", "reasoning")),
            )
        )
    recorded, _ = original_heuristic.RECORDED_TASKS
    shown.append(("original heuristic, recorded", "0.652", f"{recorded:.3f}", "", "", ""))
    head = (f"{len(rows)} rows", "accuracy", "macro-F1", "code", "image", "reasoning")
    return table(head, shown)


def asked_for(rows: Sequence[Labelled]) -> str:
    """Show how often a picture is recognised that is asked for in a sentence no training row has."""
    captions = [
        row.prompt.rstrip(". ") for row in rows if row.task == "image" and " " in row.prompt
    ]
    shown = []
    for sentence in ASKED_JUDGED:
        texts = [sentence.format(caption) for caption in captions]
        hits = [
            statistics.fmean(find(text) == "image" for text in texts)
            for find in (original_heuristic.task, found_task)
        ]
        shown.append((f"`{sentence}`", *(f"{hit:.3f}" for hit in hits)))
    return table(("asked in this way", "original heuristic, rebuilt", "shipped"), shown)


def hard_subset() -> str:
    """Show how well membership of MixEval's hard subset is told, which nothing was trained on."""
    rows = hardness()
    hard = [text for text, is_hard in rows if is_hard]
    rest = [text for text, is_hard in rows if not is_hard]
    scores: dict[str, Score] = {**rivals(), "**shipped**": shipped_gain}
    return table(
        ("score", "area under the curve"),
        [
            (name, f"{_area([score(t) for t in hard], [score(t) for t in rest]):.3f}")
            for name, score in scores.items()
        ],
    )


def _area(above: Sequence[float], below: Sequence[float]) -> float:
    wins = sum((a > b) + (a == b) / 2 for a in above for b in below)
    return wins / (len(above) * len(below))


def speed(rows: Sequence[Outcome]) -> str:
    """Show CPU time; the least of some runs, on a machine that is in use."""
    texts = [row.prompt for row in rows if 400 <= len(row.prompt) <= 600][:200]
    analyze = PromptAnalyzer().analyze
    kinds = {
        f"{statistics.fmean(map(len, texts)):.0f} characters": texts,
        "1 MB of prose": ["Some words of prose, and then some more. " * 25_000],
        "10 MB without a space": ["x" * 10_000_000],
    }
    shown = []
    for name, some in kinds.items():
        taken = []
        for _ in range(5):
            began = time.process_time()
            for text in some:
                analyze(text)
            taken.append((time.process_time() - began) / len(some))
        shown.append((name, f"{min(taken) * _MICROS:,.0f} µs"))
    return table(("prompt", "CPU time"), shown)


def certificates(rows: Sequence[Outcome]) -> str:
    """Show how often certificates are violated, and how much they route, over random splits."""
    scores: dict[str, Score] = {
        "random": lambda text: random.Random(text).random(),
        "prompt length": len,
        "**shipped**": shipped_gain,
    }
    shown: list[Sequence[object]] = []
    for source in ("mmlu", "mmlu_pro"):
        these = of_source(rows, source)
        cheap, dear = PAIRS[2] if source == "mmlu_pro" else (None, None)
        for risk, size in CERTIFIED:
            figures = []
            for score in scores.values():
                pairs = [
                    Pair(
                        score(row.prompt),
                        row.dear if dear is None else row.models[dear],
                        row.cheap if cheap is None else row.models[cheap],
                    )
                    for row in these
                ]
                figures.append(_splits(pairs, risk, size))
            shown.append((source, f"{risk:.0%}", size, *figures))
    return table(("rows", "risk", "outcomes", *scores), shown)


def _splits(pairs: list[Pair], risk: float, size: int) -> str:
    """Certify on a part of the pairs, judge on the rest: violated splits, and the share routed."""
    rng = random.Random(0)
    ranked = sorted(pair.score for pair in pairs)
    # For any score the same list: its own quantiles, of which outcomes are no part.
    grid = [ranked[len(ranked) * step // 40] for step in range(1, 40)]
    violated, shares = 0, []
    for _ in range(_SPLITS):
        mixed = rng.sample(pairs, len(pairs))
        found = certify(mixed[:size], risk, _CONFIDENCE, grid)
        rest = mixed[size:]
        routed = [] if found is None else [p for p in rest if p.score <= found.threshold]
        violated += sum(pair.harmful for pair in routed) / len(rest) > risk
        shares.append(len(routed) / len(rest))
    return f"{violated / _SPLITS:.1%}, {statistics.fmean(shares):.1%} routed"


def report() -> Iterator[tuple[str, str]]:
    """Yield every table of the shipped scorer, with its name in the documentation."""
    rows = held_out(outcomes())
    prompts = held_out(labelled())
    yield "ranking", ranking(rows)
    yield "pairs", pairs(rows)
    yield "calibration", calibration(rows)
    yield "tasks", tasks(prompts)
    yield "asked", asked_for(prompts)
    yield "hard", hard_subset()
    yield "certificates", certificates(rows)
    yield "speed", speed(rows)


def main() -> None:
    """Print all tables."""
    for name, shown in report():
        print(f"## {name}\n\n{shown}", flush=True)


if __name__ == "__main__":
    main()
