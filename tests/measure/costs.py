"""Print how good costs and estimates are: `python -m tests.measure.costs`.

It reads recorded responses from the folder that `FLUXAI_TEST_DATA` names. Half of the files, by a
digest of their name, were left out of every fit; the tables of estimates are of that half.
"""

# ruff: noqa: T201 -- printing figures is the purpose
from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from fluxai.core.usage import Usage
from fluxai.costs import CostEstimator
from fluxai.costs.learning import CALLS_TRUSTED
from tests.measure.agreement import CAUSES, NOW, agrees, cause_of, opinion_of, price, recorded_at
from tests.measure.records import (
    Record,
    body,
    held_out,
    hidden,
    load,
    messages_of,
    model_asked_for,
    tools_of,
)

#: Calls of one set of tools that are needed to leave one out and learn from the others.
_SET_MIN = 6
_FEW = 5


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table that can be put into a document."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def agreement(records: Sequence[Record]) -> None:
    """Print where costs are the library's, and why not."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    causes: Counter[str] = Counter()
    amounts: dict[str, list[tuple[Decimal, Decimal]]] = defaultdict(list)
    unexplained = []
    for record in records:
        row = rows[record["provider"]]
        row["records"] += 1
        cost = price(record, NOW)
        row["priced"] += cost is not None and cost.priced
        opinion = opinion_of(record)
        if opinion is not None:
            name, wanted = opinion
            row["compared"] += 1
            cost = price(record, NOW if name == "cost_now" else recorded_at(record))
            if agrees(cost, wanted):
                row["equal"] += 1
            else:
                cause = cause_of(record, cost)
                row["explained"] += cause is not None
                row["known"] += cause is not None and CAUSES[cause].known
                causes[cause or "unexplained"] += 1
                if cause is None:
                    unexplained.append(record["id"])
                elif cost is not None:
                    amounts[cause].append((cost.total, wanted))
        stated = (record.get("oracle") or {}).get("provider_reported_cost")
        if stated is not None and cost is not None:
            row["reported"] += 1
            reported = Decimal(str(stated))
            row["within"] += abs(cost.total - reported) <= max(Decimal("1e-9"), reported / 100)
    columns = ("records", "priced", "compared", "equal", "explained", "reported", "within")
    total = sum(rows.values(), Counter())
    shown = sorted(rows.items(), key=lambda item: -item[1]["records"])
    shown = [item for item in shown if item[1]["compared"] or item[1]["records"] > _FEW]
    print("## Costs\n")
    table(
        (
            "provider",
            "records",
            "priced",
            "with a library's cost",
            "equal",
            "explained",
            "reported",
            "within 1 %",
        ),
        [(name, *(row[c] for c in columns)) for name, row in [*shown, ("all", total)]],
    )
    table(
        ("responses", "cause", "there it is", "ours", "there"),
        [
            (
                n,
                cause,
                _standing(cause),
                f"${sum(a for a, _ in amounts[cause]):.4f}",
                f"${sum(b for _, b in amounts[cause]):.4f}",
            )
            for cause, n in causes.most_common()
        ],
    )
    judged = total["compared"] - total["known"]
    print(
        f"Equal on {total['equal']:,} of {judged:,} that are not known wrong there: "
        f"{total['equal'] / judged:.2%}."
    )
    judged -= sum(n for cause, n in causes.items() if cause in CAUSES and CAUSES[cause].rule)
    print(
        f"Without those that a documented rule is against: {total['equal']:,} of "
        f"{judged:,}, {total['equal'] / judged:.2%}."
    )
    print(f"Unexplained: {unexplained or 'none'}.\n")


def _standing(cause: str) -> str:
    found = CAUSES.get(cause)
    if found is None:
        return "UNEXPLAINED"
    if found.known:
        return "known wrong"
    return f"against a rule: {found.rule}" if found.rule else "left out"


class Measured(NamedTuple):
    """One estimate and what was billed."""

    record: Record
    expected: int
    upper: int
    billed: int
    tools: bool

    @property
    def error(self) -> float:
        """How far off, as a share."""
        return abs(self.expected - self.billed) / self.billed


def estimates(records: Sequence[Record]) -> None:
    """Print the error of estimates on records of files left out of the fit."""
    estimator = CostEstimator(learning=None)
    reasons: Counter[str] = Counter()
    found = []
    for record in records:
        usage = Usage.parse(body(record), record["provider"])
        reason = hidden(record, usage)
        if reason is not None:
            reasons[reason] += 1
            continue
        tools = tools_of(record)
        count = estimator.count(_model(record), messages=messages_of(record), tools=tools or None)
        found.append(Measured(record, count.expected, count.upper, usage.input_total, bool(tools)))
    print("## Estimates\n")
    rows = []
    for name, tools in (("plain", False), ("with tools", True)):
        these = [m for m in found if m.tools is tools]
        rows.append((f"{name}, in the fit", *_row([m for m in these if not held_out(m.record)])))
        kept = [m for m in these if held_out(m.record)]
        rows.append((f"**{name}, held out**", *_row(kept)))
        by_provider = defaultdict(list)
        for measured in kept:
            by_provider[measured.record["provider"]].append(measured)
        for provider, some in sorted(by_provider.items(), key=lambda item: -len(item[1])):
            if len(some) >= _SET_MIN:
                rows.append((f"{name}, held out, {provider}", *_row(some)))
    table(
        (
            "calls",
            "records",
            "median error",
            "90 % within",
            "upper holds",
            "upper / billed, median",
        ),
        rows,
    )
    table(
        ("records left out", "because the request does not show"),
        [(n, why) for why, n in reasons.most_common()],
    )


def _model(record: Record) -> str:
    return model_asked_for(record) or record["model_response"] or ""


def _row(found: Sequence[Measured]) -> tuple[object, ...]:
    if not found:
        return (0, "", "", "", "")
    errors = sorted(m.error for m in found)
    uppers = [m.upper / m.billed for m in found]
    return (
        len(found),
        f"{statistics.median(errors):.1%}",
        f"{errors[int(0.9 * (len(errors) - 1))]:.0%}",
        f"{sum(u >= 1 for u in uppers) / len(uppers):.1%}",
        f"{statistics.median(uppers):.2f}",
    )


def learned(records: Sequence[Record]) -> None:
    """Print how the learned bound holds: each call left out in turn, 20 of the others learned."""
    sets: dict[tuple[object, ...], list[tuple[Record, int]]] = defaultdict(list)
    for record in records:
        usage = Usage.parse(body(record), record["provider"])
        if hidden(record, usage) not in {None, "the tools' text was not recorded"}:
            continue
        request = record["request"]
        if request["n_tools"]:
            # The same length of definitions in the same project: the same set of tools.
            key = (
                _model(record),
                request["n_tools"],
                request["tools_chars"],
                record["source"]["repo"],
            )
            sets[key].append((record, usage.input_total))
    rows = []
    everything = []
    for key, calls in sorted(sets.items(), key=lambda item: -len(item[1])):
        if len(calls) < _SET_MIN:
            continue
        found = [_left_out(calls, index) for index in range(len(calls))]
        everything += found
        rows.append((f"{key[0]}, {key[2]} characters", *_row(found)))
    print("## Learned, after 20 calls of the same set of tools\n")
    table(
        (
            "model, tools",
            "records",
            "median error",
            "90 % within",
            "upper holds",
            "upper / billed, median",
        ),
        [*rows, ("**all**", *_row(everything))],
    )


def _left_out(calls: Sequence[tuple[Record, int]], index: int) -> Measured:
    estimator = CostEstimator()
    others = [call for number, call in enumerate(calls) if number != index]
    random.Random(index).shuffle(others)
    # The recording has no definitions; what is learned does not depend on them.
    tools = [{"name": "recorded", "description": "its definition was not kept"}]
    for number in range(CALLS_TRUSTED):
        record, billed = others[number % len(others)]
        trace = estimator.trace(_model(record), messages=messages_of(record), tools=tools)
        assert trace is not None
        estimator.learn(_model(record), trace._replace(conversation=0), None, billed)
    record, billed = calls[index]
    count = estimator.count(_model(record), messages=messages_of(record), tools=tools)
    return Measured(record, count.expected, count.upper, billed, tools=True)


def main() -> int:
    """Print every table."""
    records = load()
    print(f"{len(records):,} recorded responses\n")
    agreement(records)
    estimates(records)
    learned(records)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
