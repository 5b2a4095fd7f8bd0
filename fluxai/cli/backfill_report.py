"""What an import found, as a document and as tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxai.cli.figures import count, plural, stamp, usd
from fluxai.cli.importing import UNDATED, Group, Report, Skipped
from fluxai.cli.screen import Block, Column, Section, Table, Text
from fluxai.core.money import to_decimal

if TYPE_CHECKING:
    from fluxai.core.ledger import Subject

_MODELS_SHOWN = 25
_DETAILS_SHOWN = 4

_REASONS = {
    "no_usage": "states no usage",
    "error_status": "failed: an error is not charged",
    "unknown_model": "no price is known for the model",
    "no_model": "names no model",
    "token_count": "only counted tokens: free",
    "not_json": "not JSON",
    "not_a_response": "JSON, but no object",
    "future": "dated in the future",
    "conflict": "its id is taken by something else",
    "absurd": "names a model or a cost that can't be true",
    "too_long": "longer than 64 MB",
}
_FLAGS = {
    "provider_cost": "the provider stated the cost itself",
    "provider_guessed": "priced as at another provider",
    "local_model": "runs on your own machine: free",
    "free_model": "free of charge",
    "zero_usage": "nothing was used",
    "clamped": "odd counts were corrected",
    "iterations": "several passes, each priced on its own",
    "search_loop": "searched in a loop, priced per pass",
    "unpriced_fee": "a fee that has no known price is missing",
    "byok": "paid with your own key upstream",
    "undated": "without a time of its own: --at says when, else now",
}


def document(report: Report) -> dict[str, Any]:
    """Write a report for `--json`."""
    return {
        "lines": report.lines,
        "recorded": report.added,
        "already_recorded": report.known,
        "not_priced": report.left_out,
        "reasons": {
            reason: {
                "count": skipped.count,
                "first_lines": skipped.lines,
                "details": dict(skipped.details.most_common()),
            }
            for reason, skipped in _by_count(report)
        },
        "models": [
            {"provider": provider, "model": model, **_row(group)}
            for (provider, model), group in _by_cost(report)
        ],
        "total": _row(report.total),
        "flags": dict(report.flags.most_common()),
        "first": None if report.first is None else report.first.isoformat(),
        "last": None if report.last is None else report.last.isoformat(),
    }


def _row(group: Group) -> dict[str, Any]:
    return {
        "calls": group.calls,
        "input_tokens": group.input_tokens,
        "cached_tokens": group.cached_tokens,
        "output_tokens": group.output_tokens,
        "cost": str(to_decimal(group.cost_nanousd)),
    }


def _by_cost(report: Report) -> list[tuple[tuple[str, str], Group]]:
    return sorted(report.groups.items(), key=lambda found: (-found[1].cost_nanousd, found[0]))


def _by_count(report: Report) -> list[tuple[str, Skipped]]:
    return sorted(report.skipped.items(), key=lambda found: -found[1].count)


def details(report: Report, *, show_all: bool) -> Iterator[Section]:
    """Show spend by model, what was left out, and what to know about the costs."""
    if report.groups:
        yield _spend(report, show_all=show_all)
    if report.skipped:
        yield _left_out(report)
    if report.flags:
        rows = [
            (flag, f"{calls:,}", Text(_FLAGS.get(flag, ""), "dim"))
            for flag, calls in report.flags.most_common()
        ]
        columns = (Column("Flag"), Column("Calls", right=True), Column("Meaning", fold=True))
        yield Section("To know about these costs", [Table(columns, rows)])


def summary(
    report: Report, subject: Subject, file: Path, seconds: float, *, dry_run: bool, placed: bool
) -> Section:
    """Say in a few lines what was done; `placed`: undated calls were given a time."""
    who = subject.tenant if subject.user is None else f"{subject.tenant} / {subject.user}"
    if dry_run:
        done = f"{plural(report.total.calls, 'call')} priced, nothing recorded"
    else:
        done = f"{plural(report.added, 'call')} recorded, {report.known:,} were there already"
    blocks: list[Block] = [
        f"{plural(report.lines, 'line')} read in {seconds:.1f} s",
        Text(f"{done}; {report.left_out:,} without a price", "good" if report.groups else "warn"),
    ]
    if report.first is not None and report.last is not None:
        blocks.append(f"From {stamp(report.first)} to {stamp(report.last)}, for {who}")
    undated = report.flags[UNDATED]
    if undated and not placed:
        calls = plural(undated, "call is undated and counts", "calls are undated and count")
        blocks.append(Text(f"{calls} now; --at TIME says when", "warn"))
    return Section(f"Backfill of {file.name}", blocks)


def _spend(report: Report, *, show_all: bool) -> Section:
    found = _by_cost(report)
    shown = found if show_all else found[:_MODELS_SHOWN]
    rows = [(provider, model, *_figures(group)) for (provider, model), group in shown]
    if len(found) > len(shown):
        rest = Group.sum(group for _, group in found[len(shown) :])
        rows.append(("", f"{len(found) - len(shown):,} more (--all shows them)", *_figures(rest)))
    table = Table(
        (
            Column("Provider"),
            Column("Model", fold=True),
            Column("Calls", right=True),
            Column("Input", right=True),
            Column("Cached", right=True),
            Column("Output", right=True),
            Column("Cost", right=True),
        ),
        rows,
        ("Total", "", *_figures(report.total)),
    )
    return Section("Spend by provider and model", [table])


def _figures(group: Group) -> tuple[str, str, str, str, str]:
    return (
        count(group.calls),
        count(group.input_tokens),
        count(group.cached_tokens),
        count(group.output_tokens),
        usd(to_decimal(group.cost_nanousd)),
    )


def _left_out(report: Report) -> Section:
    rows = []
    for reason, skipped in _by_count(report):
        details = [
            f"{lines} of {detail}" if lines > 1 else detail
            for detail, lines in skipped.details.most_common(_DETAILS_SHOWN)
        ]
        more = len(skipped.details) - len(details)
        if more > 0:
            details.append(f"and {more:,} more")
        which = ", ".join(str(line) for line in skipped.lines)
        rows.append(
            (
                f"{skipped.count:,}",
                _REASONS.get(reason, reason),
                f"{which}…" if skipped.count > len(skipped.lines) else which,
                Text("\n".join(details), "dim"),
            )
        )
    columns = (
        Column("Lines", right=True),
        Column("Why", fold=True),
        Column("Which", fold=True),
        Column("Details", fold=True),
    )
    return Section("Left out", [Table(columns, rows)])
