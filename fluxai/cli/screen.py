"""What a command shows: sections of text, tables and meters, drawn richly or plainly.

Commands say what there is to see. On a terminal it is drawn with rich; in a pipe or a file it is
plain aligned text, and rich is not even loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol, TextIO

Tone = Literal["", "good", "bad", "warn", "dim", "strong"]


class Text(NamedTuple):
    """A line of text, or a cell of a table."""

    text: str
    tone: Tone = ""


class Meter(NamedTuple):
    """How full a limit is: settled, reserved, and what is free."""

    settled: Decimal | int
    reserved: Decimal | int
    limit: Decimal | int

    @property
    def share(self) -> float:
        """What is settled or reserved, as a share of the limit."""
        taken = self.settled + self.reserved
        return float(taken / self.limit) if self.limit else float(taken > 0)

    @property
    def tone(self) -> Tone:
        """Whether it is time to worry."""
        return "bad" if self.share >= 1 else "warn" if self.share >= 0.8 else "good"

    def parts(self, width: int) -> tuple[int, int, int]:
        """Divide a bar of that width; what is not nothing gets at least one place."""
        whole = max(self.limit, self.settled + self.reserved) or 1
        settled = _places(self.settled, whole, width)
        reserved = min(_places(self.reserved, whole, width), width - settled)
        if self.share >= 1:
            return (settled, width - settled, 0) if reserved else (width, 0, 0)
        if settled + reserved == width:
            settled, reserved = (settled - 1, reserved) if settled > 1 else (settled, reserved - 1)
        return settled, reserved, width - settled - reserved


def _places(amount: Decimal | int, whole: Decimal | int, width: int) -> int:
    if amount <= 0:
        return 0
    return max(1, min(width, int(Decimal(width) * Decimal(amount) / Decimal(whole))))


Cell = str | Text | Meter


class Column(NamedTuple):
    """A column of a table. `fold` lets its text break over lines where space is short."""

    name: str
    right: bool = False
    fold: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under named columns."""

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    #: A last row that sums up the others.
    total: Sequence[Cell] | None = None


Block = str | Text | Table


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and what belongs under it."""

    title: str
    blocks: Sequence[Block]


class Screen(Protocol):
    """Where sections are shown."""

    def show(self, section: Section) -> None:
        """Draw a section."""
        ...


def printable(text: str) -> str:
    """Replace what could command a terminal: ids and messages are written by others."""
    return "".join(
        sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}" for sign in text
    )


METER_WIDTH = 20


class PlainScreen:
    """Aligned text without colours or boxes, for pipes and files."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out
        self._first = True

    def show(self, section: Section) -> None:
        """Write a section, a blank line before it unless it is the first."""
        lines = [] if self._first else [""]
        self._first = False
        if section.title:
            lines.append(printable(section.title))
        indent = "  " if section.title else ""
        for block in section.blocks:
            lines += [f"{indent}{line}".rstrip() for line in _plain_lines(block)]
        print("\n".join(lines), file=self._out or sys.stdout)


def _plain_lines(block: Block) -> list[str]:
    if isinstance(block, Table):
        return _aligned(block)
    text = block.text if isinstance(block, Text) else block
    return printable(text).splitlines() or [""]


def _aligned(table: Table) -> list[str]:
    rows = [[column.name.upper() for column in table.columns]]
    rows += [[_plain_cell(cell) for cell in row] for row in table.rows]
    if table.total is not None:
        rows.append([_plain_cell(cell) for cell in table.total])
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.columns))]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        for row in rows
    ]


def _plain_cell(cell: Cell) -> str:
    if isinstance(cell, Meter):
        settled, reserved, free = cell.parts(METER_WIDTH)
        return f"[{'#' * settled}{'+' * reserved}{'.' * free}]"
    return printable(cell.text if isinstance(cell, Text) else cell).replace("\n", "; ")
