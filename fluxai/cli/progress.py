"""Progress, on a terminal only, and on stderr so that stdout stays clean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Takes how far it is (bytes, or whatever the total counts), and what to say about it.
Advance = Callable[[int, str], None]


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Advance]:
    """Show a bar while the block lasts, a spinner where the total is unknown."""
    if not sys.stderr.isatty():
        yield lambda _at, _said: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

    columns = [TextColumn("{task.description}"), SpinnerColumn()]
    if total:
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=30), TaskProgressColumn()]
    bar = Progress(
        *columns,
        TextColumn("{task.fields[said]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=total or None, said="")
        yield lambda at, said: bar.update(task, completed=at, said=said)
