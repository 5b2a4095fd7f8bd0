"""The screen on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text as Styled

from fluxai.cli.screen import Block, Cell, Meter, Section, Table, Text, Tone, printable

#: Lines longer than this are hard to follow with the eye.
WIDTH_MAX = 108
#: What a panel's border and padding take.
_FRAME = 4
_WIDE_FROM = 96
_BAR_NARROW, _BAR_WIDE = 10, 20
#: Text that may break over lines keeps at least this width.
_FOLDED_MIN = 12
_STYLES: dict[Tone, str] = {
    "": "",
    "good": "green",
    "bad": "bold red",
    "warn": "yellow",
    "dim": "dim",
    "strong": "bold",
}


class RichScreen:
    """Panels, tables and bars; shapes as well as colours tell things apart."""

    def __init__(self, *, color: bool, console: Console | None = None) -> None:
        self._console = console or Console(no_color=not color, highlight=False)

    def show(self, section: Section) -> None:
        """Draw a section as a panel; one without a title as bare lines."""
        width = min(self._console.width, WIDTH_MAX)
        inside = Group(*self._drawn(section.blocks, width - _FRAME))
        if not section.title:
            self._console.print(Padding(inside, (0, 2)), width=width)
            return
        self._console.print(
            Panel(
                inside,
                title=Styled(printable(section.title), "bold"),
                title_align="left",
                border_style="cyan",
                box=box.ROUNDED,
                width=width,
                padding=(0, 1),
            )
        )

    def _drawn(self, blocks: Sequence[Block], room: int) -> Iterator[RenderableType]:
        """Draw blocks, with a blank line between a table and its neighbours."""
        before: Block | None = None
        for block in blocks:
            if before is not None and (isinstance(block, Table) or isinstance(before, Table)):
                yield ""
            yield self._fitting(block, room) if isinstance(block, Table) else _styled(block)
            before = block

    def _fitting(self, table: Table, room: int) -> Grid:
        """Draw a table so that nothing of it is cut off: where it is tight, all of it may break."""
        grid = _grid(table, _BAR_WIDE if room >= _WIDE_FROM else _BAR_NARROW)
        if self._console.measure(grid).minimum <= room:
            return grid
        return _grid(table, _BAR_NARROW, tight=True)


def _styled(block: str | Text) -> Styled:
    if isinstance(block, Text):
        return Styled(printable(block.text), _STYLES[block.tone])
    return Styled(printable(block))


def _grid(table: Table, bar_width: int, *, tight: bool = False) -> Grid:
    grid = Grid(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(column.name for column in table.columns),
        show_footer=table.total is not None,
        header_style="dim",
        footer_style="bold",
    )
    totals = table.total or ["" for _ in table.columns]
    for column, total in zip(table.columns, totals, strict=True):
        grid.add_column(
            column.name,
            footer=_cell(total, bar_width),
            justify="right" if column.right else "left",
            min_width=_FOLDED_MIN if column.fold and not tight else None,
            no_wrap=not (column.fold or tight),
            overflow="fold",
        )
    for row in table.rows:
        grid.add_row(*(_cell(cell, bar_width) for cell in row))
    return grid


def _cell(cell: Cell, bar_width: int) -> Styled:
    return _bar(cell, bar_width) if isinstance(cell, Meter) else _styled(cell)


def _bar(meter: Meter, width: int) -> Styled:
    settled, reserved, free = meter.parts(width)
    bar = Styled()
    bar.append("█" * settled, _STYLES[meter.tone])
    bar.append("▒" * reserved, _STYLES[meter.tone])
    bar.append("·" * free, "dim")
    return bar
