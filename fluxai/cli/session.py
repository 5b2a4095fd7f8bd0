"""What all commands share: their options, how they answer, and what becomes of errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import click

from fluxai.cli.screen import PlainScreen, Screen, Section
from fluxai.core.errors import ConfigurationError, FluxAIError, Refused

if TYPE_CHECKING:
    from fluxai.governor import Governor

DONE, ERROR, USAGE, REFUSED = 0, 1, 2, 3
DEFAULT_DB = "sqlite:///fluxai.db"
DB_VARIABLE = "FLUXAI_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say.

    Attributes:
        document: For `--json`: amounts as text, times in ISO 8601.
        sections: For people.
        code: The exit code.
    """

    document: dict[str, Any]
    sections: Iterable[Section] = ()
    code: int = DONE


@dataclass(slots=True, kw_only=True)
class Session:
    """One run of a command.

    Attributes:
        db: The store's URL.
        given_db: The same where `--db` names it, None where it comes from elsewhere.
        as_json: One JSON document is wanted, and nothing else on stdout.
        color: Colours are wanted, where the terminal has them.
        debug: Tracebacks are wanted.
    """

    db: str
    given_db: str | None
    as_json: bool
    color: bool
    debug: bool
    _screen: Screen | None = None

    @contextmanager
    def governor(
        self, *, missing: Literal["refuse", "create", "memory"] = "refuse", **options: Any
    ) -> Iterator[Governor]:
        """Open the store for as long as the block lasts.

        Args:
            missing: What to do about a SQLite file that does not exist: looking at nothing should
                not make one.
            **options: For `Governor`.

        Raises:
            ConfigurationError: There is no such file.
        """
        url = self.db
        path = _sqlite_path(url)
        if path is not None and missing != "create" and not path.exists():
            if missing == "refuse":
                raise ConfigurationError(
                    f"there is no ledger at {path}; name one with --db or {DB_VARIABLE}, or make "
                    f"one with `fluxai db migrate`"
                )
            url = "memory://"
        from fluxai.governor import Governor

        with Governor(url, **options) as governor:
            yield governor

    def show(self, section: Section) -> None:
        """Show a section: with rich on a terminal, as plain text otherwise, not at all in JSON."""
        if self.as_json:
            return
        if self._screen is None:
            self._screen = self._chosen_screen()
        self._screen.show(section)

    def _chosen_screen(self) -> Screen:
        if not sys.stdout.isatty():
            return PlainScreen()
        from fluxai.cli.rich_screen import RichScreen

        return RichScreen(color=self.color)

    @property
    def shown_db(self) -> str:
        """The store's URL without a password."""
        parts = urlsplit(self.db)
        if parts.password is None:
            return self.db
        return self.db.replace(f":{parts.password}@", ":***@", 1)


def _sqlite_path(url: str) -> Path | None:
    if not url.startswith("sqlite:///"):
        return None
    return Path(url.removeprefix("sqlite:///").partition("?")[0])


def command(
    group: click.Group | None = None, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., Answer]], click.Command]:
    """Make a command of a function that takes a `Session` and returns an `Answer`.

    It gets the options that every command has, and ends with the right exit code: errors become
    one line that says what to do, never a traceback unless `--debug` asks for it. `settings` are
    click's, for its context.
    """

    def decorate(function: Callable[..., Answer]) -> click.Command:
        @wraps(function)
        def run(
            *, db: str | None, as_json: bool, no_color: bool, debug: bool, **arguments: Any
        ) -> None:
            session = Session(
                db=db or os.environ.get(DB_VARIABLE) or DEFAULT_DB,
                given_db=db,
                as_json=as_json,
                color=not no_color and not os.environ.get("NO_COLOR"),
                debug=debug,
            )
            sys.exit(_answered(session, lambda: function(session, **arguments)))

        made = click.command(name, context_settings=settings)(_common(run))
        if group is not None:
            group.add_command(made)
        return made

    return decorate


def _common(function: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option(
            "--db",
            metavar="URL",
            help=f"Where the ledger is: sqlite:///file.db, memory://. Default: {DB_VARIABLE}, "
            f"else {DEFAULT_DB}.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document."),
        click.option("--no-color", is_flag=True, help="No colours; NO_COLOR does the same."),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_labels(pairs: Iterable[str]) -> dict[str, str] | None:
    """Read what `--label KEY=VALUE` gave; None where it was not given."""
    labels = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--label")
        labels[name] = value
    return labels or None


def _answered(session: Session, work: Callable[[], Answer]) -> int:
    try:
        answer = work()
        if session.as_json:
            click.echo(json.dumps(answer.document, indent=2, ensure_ascii=False))
        for section in answer.sections:
            session.show(section)
        sys.stdout.flush()
    except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
        raise  # click knows how these end
    except Exception as error:
        if session.debug:
            raise
        return _failed(session, error)
    return answer.code


def _failed(session: Session, error: Exception) -> int:
    """Say an error in one line, and what to do about it."""
    code = REFUSED if isinstance(error, Refused) else ERROR
    message = _said(error)
    if session.as_json:
        document = {"error": {"type": type(error).__name__, "message": message, "exit_code": code}}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    click.echo(f"Error: {message}", err=True)
    return code


def _said(error: Exception) -> str:
    if isinstance(error, ConfigurationError):
        # May hold a line for each of several faults.
        return "\n".join(" ".join(line.split()) for line in str(error).splitlines())
    if isinstance(error, FluxAIError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = (
            f"{type(error).__name__}: {error}. This is a defect of fluxai; run again with --debug "
            f"for the traceback, and report it"
        )
    return " ".join(text.split())
