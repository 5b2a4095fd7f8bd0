"""A loopback proxy in front of a server, which breaks the wire when a test says so.

    with TcpProxy(server.port) as proxy:
        engine = create_engine(proxy.through(server.create_database()))
        proxy.lose_answer_to(b"COMMIT")

Then the next COMMIT reaches the server and is carried out there, and the client sees nothing but a
lost connection.

What is matched is what the client sends. psycopg sends the text of a statement that it has prepared
only once (after five uses on one connection): match what is bound, or connect with
`prepare_threshold=None`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sqlalchemy.engine import make_url

from tests.servers.programs import free_port

Rewrite = Callable[[bytes], bytes]
# What a request holds, and how many such requests pass before it counts.
_Match = tuple[bytes, int]

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65_536
# Closing with this set resets the connection at once, as a machine that vanished would.
_RESET = struct.pack("ii", 1, 0)
# PostgreSQL's ReadyForQuery, the end of each of its answers: a type, a length, and a status.
_READY = b"Z\x00\x00\x00\x05"


def ends_postgres_answer(end: bytes) -> bool:
    """Whether bytes from PostgreSQL end a whole answer; what it commits is committed by then.

    Source:
        https://www.postgresql.org/docs/current/protocol-flow.html
    """
    return end[-6:-1] == _READY


class TcpProxy:
    """A proxy that passes bytes on, until a fault is asked for."""

    def __init__(
        self,
        target_port: int,
        *,
        ends_answer: Callable[[bytes], bool] | None = ends_postgres_answer,
        make_rewrite: Callable[[], Rewrite] | None = None,
    ) -> None:
        """Listen on a free port at once.

        Args:
            target_port: The server's port, on loopback.
            ends_answer: Whether the last bytes from the server end one of its answers. None for a
                server that says nothing before all is done, as PostgREST is.
            make_rewrite: Makes, for each connection, what turns the client's bytes into those that
                the server gets.
        """
        self._target = (_HOST, target_port)
        self._ends_answer = ends_answer
        self._make_rewrite = make_rewrite
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._faults = _Faults()
        self._open = threading.Event()
        self._open.set()
        self._seconds_of_delay = 0.0
        self._listener: socket.socket | None = None
        self.port = free_port()
        self.accept_again()

    def through(self, url: str) -> str:
        """Return the URL of a database, reached through this proxy."""
        changed = make_url(url).set(host=_HOST, port=self.port)
        return changed.render_as_string(hide_password=False)

    # ------------------------------------------------------------------------------- faults

    def lose_answer_to(self, match: bytes, *, skip: int = 0) -> None:
        """Swallow the server's answer to the next request that holds `match`, then cut.

        The server has carried the request out when the client sees its connection go.

        Args:
            match: Bytes of the request, such as b"COMMIT" or the name of a function.
            skip: How many requests that hold it pass first.
        """
        with self._lock:
            self._faults.answer_to = (match, skip)

    def lose_request_with(self, match: bytes, *, skip: int = 0) -> None:
        """Cut when a request that holds `match` arrives; the server never gets it whole."""
        with self._lock:
            self._faults.request_with = (match, skip)

    def lose_answer(self, *, after: int = 0) -> None:
        """Let `after` whole answers pass, over all connections, swallow the next one, then cut.

        Each round trip has one answer. Logins to PostgreSQL pass, and are not counted.
        """
        assert self._ends_answer is not None, "only where the end of an answer is known"
        with self._lock:
            self._faults.answers_left = after

    @property
    def losses(self) -> int:
        """How many requests and answers were lost."""
        return self._faults.losses

    def cut(self) -> None:
        """Cut every connection now, as if the network had gone."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.cut()

    def stop_accepting(self) -> None:
        """Refuse new connections; those that are there stay."""
        if self._listener is not None:
            # Closing alone would not wake the thread that waits in accept.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            self._acceptor.join()

    def accept_again(self) -> None:
        """Accept connections, on the same port as before."""
        if self._listener is None:
            self._listener = socket.create_server((_HOST, self.port))
            self._acceptor = threading.Thread(
                target=self._accept, args=(self._listener,), daemon=True
            )
            self._acceptor.start()

    def pause(self) -> None:
        """Hold every byte, in both directions, until `resume`."""
        self._open.clear()

    def resume(self) -> None:
        """Let the bytes go on that `pause` held."""
        self._open.set()

    def delay(self, seconds: float) -> None:
        """Keep each piece of an answer back for so long; 0 ends it."""
        self._seconds_of_delay = seconds

    def heal(self) -> None:
        """Take back every fault that has not happened yet, and accept connections."""
        with self._lock:
            self._faults.answer_to = self._faults.request_with = self._faults.answers_left = None
        self.delay(0)
        self.resume()
        self.accept_again()

    def close(self) -> None:
        """Stop accepting, cut every connection, and wait for the threads."""
        self.stop_accepting()
        self.resume()
        self.cut()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------ threads

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _reset(client)
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, client, server)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    def _forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)


class _Faults:
    """What is to go wrong next; read and changed under the proxy's lock."""

    def __init__(self) -> None:
        self.answer_to: _Match | None = None
        self.request_with: _Match | None = None
        self.answers_left: int | None = None
        self.losses = 0


class _Connection:
    """One client and the server's end for it, with a thread for each direction."""

    def __init__(self, proxy: TcpProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._swallows = False
        self._is_logged_in = False
        self._request_end = b""
        self._answer_end = b""
        self._threads = [
            threading.Thread(target=self._run, args=(pump,), daemon=True)
            for pump in (self._pump_requests, self._pump_answers)
        ]
        self._pumps_left = len(self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Reset the client's side and end the server's; the threads notice, and close."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)

    def _run(self, pump: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                pump()
        except BaseException:
            self.cut()
            raise
        finally:
            with self._proxy._lock:
                self._pumps_left -= 1
                is_last = not self._pumps_left
            if is_last:
                self._client.close()
                self._server.close()
                self._proxy._forget(self)

    def _pump_requests(self) -> None:
        rewrite = self._proxy._make_rewrite() if self._proxy._make_rewrite else None
        while chunk := self._client.recv(_CHUNK_BYTES):
            self._proxy._open.wait()
            if self._loses_request(chunk):
                self.cut()
                return
            self._server.sendall(rewrite(chunk) if rewrite else chunk)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_WR)

    def _pump_answers(self) -> None:
        while chunk := self._server.recv(_CHUNK_BYTES):
            self._proxy._open.wait()
            if self._proxy._seconds_of_delay:
                time.sleep(self._proxy._seconds_of_delay)
            if not self._loses_answer(chunk):
                self._client.sendall(chunk)
            elif self._is_whole():
                with self._proxy._lock:
                    self._proxy._faults.losses += 1
                self.cut()
                return
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def _loses_request(self, chunk: bytes) -> bool:
        faults = self._proxy._faults
        with self._proxy._lock:
            before, self._request_end = self._request_end, (self._request_end + chunk)[-256:]
            faults.request_with, is_lost = _after(faults.request_with, before, chunk)
            if is_lost:
                faults.losses += 1
                return True
            # The server has not got the request yet: none of its answer can slip through.
            faults.answer_to, swallows = _after(faults.answer_to, before, chunk)
            self._swallows = self._swallows or swallows
        return False

    def _loses_answer(self, chunk: bytes) -> bool:
        faults = self._proxy._faults
        with self._proxy._lock:
            self._answer_end = (self._answer_end + chunk)[-16:]
            if not self._is_logged_in:
                self._is_logged_in = self._is_whole()
            elif faults.answers_left == 0:
                faults.answers_left = None
                self._swallows = True
            elif faults.answers_left and self._is_whole():
                faults.answers_left -= 1
            return self._swallows

    def _is_whole(self) -> bool:
        ends = self._proxy._ends_answer
        return ends is None or ends(self._answer_end)


def _after(fault: _Match | None, before: bytes, chunk: bytes) -> tuple[_Match | None, bool]:
    """Return what is left of a fault once `chunk` has gone by, and whether it happens now."""
    if fault is None:
        return None, False
    match, skip = fault
    # Also where it began in the piece before; what lay there as a whole has had its turn.
    if match not in before[max(0, len(before) - len(match) + 1) :] + chunk:
        return fault, False
    return ((match, skip - 1), False) if skip else (None, True)


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()
