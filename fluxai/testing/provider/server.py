"""A small HTTP/1.1 server on one thread: keep-alive, chunked streams, and ways to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fluxai.testing.provider.exchange import Reply, Request
from fluxai.testing.provider.scripts import Gate

#: Clients that may knock at once before the server looks; the system may allow fewer.
_BACKLOG: Final = 4096
_HEAD_BYTES_MAX: Final = 1 << 20
_BODY_BYTES_MAX: Final = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A reply and how it is sent.

    Attributes:
        reply: What is sent; None keeps the client waiting until it leaves.
        gate: What each chunk waits for.
        cut_after: Cut the connection after so many chunks; 0 is before the head.
    """

    reply: Reply | None
    gate: Gate | None = None
    cut_after: int | None = None


Respond = Callable[[Request], Delivery]


class _Gone(Exception):
    """The client has left, or sent something that isn't HTTP."""


class Server:
    """Serves on a port of its own of 127.0.0.1 until it is closed.

    Args:
        respond: Asked for each request, one at a time, on the server's thread.
    """

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="fake provider", daemon=True)
        self._thread.start()
        self._ready.result()

    def close(self) -> None:
        """Cut every connection, and wait until the thread has ended."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                await self._converse(reader, writer)
            except (_Gone, ConnectionError, asyncio.IncompleteReadError):
                pass  # the client has left, as it may at any time
            except asyncio.CancelledError:
                if not self._stop.is_set():
                    raise
            finally:
                connections.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(
            connected, sock=self._socket, limit=_HEAD_BYTES_MAX, backlog=_BACKLOG
        )
        self._ready.set_result(None)
        await self._stop.wait()
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await _read(reader)
            if request is None:
                return
            if not await _send(self._respond(request), request, reader, writer):
                return
            if request.headers.get("connection", "").lower() == "close":
                return


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """Read one request; None when the client has closed the connection between two."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    except asyncio.LimitOverrunError as error:
        raise _Gone from error
    first, _, rest = head.partition(b"\r\n")
    try:
        method, target, _version = first.decode("latin-1").split(" ")
    except ValueError as error:
        raise _Gone from error
    path, _, query = target.partition("?")
    sent = http.client.parse_headers(io.BytesIO(rest))
    headers = {name.lower(): value for name, value in sent.items()}
    return Request(
        method=method,
        path=path,
        query=query,
        headers=headers,
        body=await _read_body(reader, headers),
    )


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _BODY_BYTES_MAX:
            raise _Gone
        return await reader.readexactly(int(length))
    parts: list[bytes] = []
    room = _BODY_BYTES_MAX
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise _Gone from error
        room -= size
        if room < 0:
            raise _Gone
        chunk = await reader.readexactly(size)
        await reader.readexactly(2)
        if not size:
            return b"".join(parts)
        parts.append(chunk)


async def _send(
    delivery: Delivery,
    request: Request,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    """Send a reply; False when the connection is over."""
    reply = delivery.reply
    if reply is None:
        await reader.read()  # until the client leaves, or the server closes
        return False
    cut = delivery.cut_after
    if cut == 0:
        return False
    if request.method == "HEAD":
        reply = Reply(status=reply.status, content_type=reply.content_type, headers=reply.headers)
    if not reply.stream:
        body = b"".join(reply.chunks)
        await _pass(delivery.gate, reader)
        head = _head(reply, {"content-length": str(len(body))})
        if cut is not None:
            writer.write(head + body[: len(body) // 2])
            await writer.drain()
            writer.write_eof()
            return False
        writer.write(head + body)
        await writer.drain()
        return True
    writer.write(_head(reply, {"transfer-encoding": "chunked"}))
    for number, chunk in enumerate(reply.chunks):
        if cut is not None and number >= cut:
            break
        await _pass(delivery.gate, reader)
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await writer.drain()
        if reader.at_eof():
            raise _Gone
    if cut is not None:
        # What was sent should arrive; a connection that is reset may lose it.
        writer.write_eof()
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _pass(gate: Gate | None, reader: asyncio.StreamReader) -> None:
    """Wait at a gate; give up when the client leaves."""
    if gate is None:
        return
    let_on = asyncio.wrap_future(gate.arrive())
    left = asyncio.ensure_future(reader.read(1))
    either: set[asyncio.Future[Any]] = {let_on, left}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not let_on.done():
            raise _Gone
    finally:
        let_on.cancel()
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await left


def _head(reply: Reply, framing: dict[str, str]) -> bytes:
    phrases = {status.value: status.phrase for status in HTTPStatus}
    fields = {"content-type": reply.content_type, **reply.headers, **framing}
    lines = [f"HTTP/1.1 {reply.status} {phrases.get(reply.status, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
