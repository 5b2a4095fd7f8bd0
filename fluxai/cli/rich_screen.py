"""The screen on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text as Styled

from fluxai.cli.screen import Block, Cell, Meter, Section, Table, Text, Tone, printable

#: Lines longer than this are hard to follow with the eye.
WIDTH_MAX = 108
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
        """Draw a section as a panel."""
        width = min(self._console.width, WIDTH_MAX)
        inside = Group(*(_drawn(block) for block in section.blocks))
        if not section.title:
            self._console.print(inside, width=width)
            return
        self._console.print(
            Panel(
                inside,
                title=Styled(f" {printable(section.title)} ", "bold"),
                title_align="left",
                border_style="cyan",
                box=box.ROUNDED,
                width=width,
                padding=(0, 1),
            )
        )


def _drawn(block: Block) -> RenderableType:
    if isinstance(block, Table):
        return Padding(_grid(block), (0, 0, 0, 0))
    return _styled(block)


def _styled(block: str | Text) -> Styled:
    if isinstance(block, Text):
        return Styled(printable(block.text), _STYLES[block.tone])
    return Styled(printable(block))


def _grid(table: Table) -> Grid:
    grid = Grid(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_footer=table.total is not None,
        header_style="dim",
        footer_style="bold",
    )
    totals = table.total or ["" for _ in table.columns]
    for column, total in zip(table.columns, totals, strict=True):
        grid.add_column(
            column.name,
            footer=_cell(total),
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in table.rows:
        grid.add_row(*(_cell(cell) for cell in row))
    return grid


def _cell(cell: Cell) -> Styled:
    return _bar(cell) if isinstance(cell, Meter) else _styled(cell)


def _bar(meter: Meter) -> Styled:
    settled, reserved, free = meter.parts(_BAR_WIDTH)
    bar = Styled()
    bar.append("█" * settled, _STYLES[meter.tone])
    bar.append("▒" * reserved, _STYLES[meter.tone])
    bar.append("·" * free, "dim")
    return bar


_BAR_WIDTH = 16
