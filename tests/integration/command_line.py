"""Runs commands as a shell would, for the tests of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from fluxai.cli.app import app


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What `--json` answered."""
        return json.loads(self.out)


def run(*arguments: object, stdin: str | bytes | None = None, **environment: str | None) -> Ran:
    """Run `fluxai` with these arguments, and nothing of the caller's environment about ledgers."""
    clean = {"FLUXAI_DATABASE_URL": None, "NO_COLOR": None, **environment}
    result = CliRunner().invoke(
        app, [str(argument) for argument in arguments], input=stdin, env=clean
    )
    return Ran(result.exit_code, result.stdout, result.stderr)


def url(folder: Path) -> str:
    """Name a SQLite ledger in a folder."""
    return f"sqlite:///{(folder / 'ledger.db').as_posix()}"
