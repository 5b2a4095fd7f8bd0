"""A Python program, run in this process as `python` would run it."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import click

from fluxai.cli.session import DONE, ERROR, REFUSED
from fluxai.core.errors import Refused

#: What shells say of a program that was interrupted.
INTERRUPTED = 130
#: Whose lines of a traceback say nothing about the program: ours, and those that start it.
_STARTERS = (
    f"{Path(__file__).parents[1]}{os.sep}",
    f"{Path(click.__file__).parent}{os.sep}",
    "<frozen runpy>",
    "<frozen importlib",
)


class Ending(NamedTuple):
    """How a program ended.

    Attributes:
        code: The exit code.
        refusal: What stopped it, if it was a refused call.
    """

    code: int
    refusal: Refused | None = None


class Program(NamedTuple):
    """A program and its arguments.

    Attributes:
        target: A file, a folder or zip file with a `__main__.py`, or a module's name.
        arguments: What it finds in `sys.argv` behind its own name.
        is_module: `target` is a module's name.
    """

    target: str
    arguments: Sequence[str]
    is_module: bool

    def prepare(self) -> None:
        """Arrange `sys.argv` and `sys.path` as for a program that Python itself starts.

        Raises:
            click.UsageError: There is no such program.
        """
        sys.argv = [self.target, *self.arguments]
        if not sys.flags.safe_path:
            folder = os.getcwd() if self.is_module else str(Path(self.target).resolve().parent)  # noqa: PTH109 -- as Python puts it
            sys.path[0] = folder
        if self.is_module:
            try:
                found = find_spec(self.target) is not None
            except ModuleNotFoundError:
                found = False
            if not found:
                raise click.UsageError(f"there is no module {self.target!r}")
        elif not Path(self.target).exists():
            raise click.UsageError(f"there is no file {self.target!r}")

    def run(self) -> Ending:
        """Run it, and say how it ended. What it did not catch is written to stderr."""
        try:
            if self.is_module:
                runpy.run_module(self.target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(self.target, run_name="__main__")
        except SystemExit as left:
            return Ending(_exit_code(left))
        except KeyboardInterrupt:
            return Ending(INTERRUPTED)
        except BaseException as error:  # noqa: BLE001 -- the program's own, whatever it is
            refusal = next((e for e in _behind(error) if isinstance(e, Refused)), None)
            if refusal is not None:
                return Ending(REFUSED, refusal)
            _report(error)
            return Ending(ERROR)
        return Ending(DONE)


def _exit_code(left: SystemExit) -> int:
    """Return what `sys.exit` was told, after Python's own rules."""
    if left.code is None:
        return DONE
    if isinstance(left.code, int):
        return left.code
    click.echo(left.code, err=True)
    return ERROR


def _behind(error: BaseException) -> Iterator[BaseException]:
    """Give an error, and all that it came from: frameworks wrap the errors of their clients."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += (found.__context__, found.__cause__)
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions


def _report(error: BaseException) -> None:
    """Write an error as Python does, without the lines of those who started the program."""
    trace = error.__traceback__
    while trace is not None and _starts(trace):
        trace = trace.tb_next
    error.__traceback__ = trace
    if sys.excepthook is not sys.__excepthook__:
        # The program has its own way to show errors.
        sys.excepthook(type(error), error, trace)
        return
    shown = traceback.TracebackException.from_exception(error)
    _strip(shown)
    click.echo("".join(shown.format()), err=True, nl=False)


def _starts(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename.startswith(_STARTERS)


def _strip(shown: traceback.TracebackException) -> None:
    waiting: list[traceback.TracebackException | None] = [shown]
    while waiting:
        part = waiting.pop()
        if part is None:
            continue
        kept = [frame for frame in part.stack if not frame.filename.startswith(_STARTERS)]
        part.stack = traceback.StackSummary.from_list(kept)
        waiting += (part.__cause__, part.__context__, *(part.exceptions or ()))
