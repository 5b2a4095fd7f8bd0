"""How figures are shown: value, what it is compared with, the target, and whether it is met."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """One measured figure."""

    name: str
    value: str
    compared: str = ""
    target: str = ""
    met: bool | None = None


def show(title: str, figures: list[Figure]) -> None:
    """Print a table of figures."""
    print(f"\n## {title}\n")
    rows = [("figure", "value", "compared with", "target", "met")]
    rows += [
        (f.name, f.value, f.compared, f.target, {True: "yes", False: "NO", None: ""}[f.met])
        for f in figures
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |")
        if not number:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")


def ratio(
    name: str, value: float, base: float, most: float, *, unit: str = "µs", base_name: str = "base"
) -> Figure:
    """Show a figure that may be at most so many times another of the same run."""
    return Figure(
        name,
        f"{value:.2f} {unit}",
        f"{base_name} {base:.2f} {unit}: {value / base:.2f}×",
        f"≤ {most:g}×",
        value / base <= most,
    )
