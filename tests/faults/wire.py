"""Both ends of a tunnel with all bad manners: raw sockets in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator

from tests.wires import request

#: tcp(7): a socket that is closed in this state vanishes without a word.
TCP_REPAIR = 19


class Refused(Exception):
    """The server answered something else than 101."""

    def __init__(self, status: int, head: bytes) -> None:
        super().__init__(f"{status}: {head[:200]!r}")
        self.status = status


class Gone(Exception):
    """The connection has ended; ``code`` is that of the close frame, None where none came."""

    def __init__(self, code: int | None = None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


def reset(sock: socket.socket) -> None:
    """Break off with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def vanish(sock: socket.socket) -> None:
    """Be gone without FIN or RST; needs the right to administer the network."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.close()


def frame(payload: bytes, opcode: int = 2, fin: bool = True) -> bytes:
    """A masked frame (RFC 6455, section 5)."""
    size, head = len(payload), bytes([(0x80 if fin else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += struct.pack(">BH", 0xFE, size)
    else:
        head += struct.pack(">BQ", 0xFF, size)
    mask = os.urandom(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


async def connection(port: int, receive: int | None = None) -> socket.socket:
    """Connect to a port of this machine; ``receive`` is the size of the receive buffer."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


class Browser:
    """A websocket of a client."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.seen = bytearray()
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(
        cls, port: int, token: str, early: bytes = b"", receive: int | None = None
    ) -> Browser:
        """Open a websocket; ``early`` goes out together with the request.  Raises Refused."""
        browser = cls(await connection(port, receive))
        try:
            await browser.send_raw(request(f"?token={token}") + early)
            await browser.accepted()
        except BaseException:
            browser.sock.close()
            raise
        return browser

    async def accepted(self) -> None:
        """Wait for the answer to the request."""
        while (end := self.seen.find(b"\r\n\r\n")) < 0:
            await self._more()
        head = bytes(self.seen[:end])
        del self.seen[: end + 4]
        status = int(head.split(b" ", 2)[1])
        if status != 101:
            raise Refused(status, head)

    async def send_raw(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def send(self, data: bytes, opcode: int = 2, fin: bool = True) -> None:
        await self.send_raw(frame(data, opcode, fin))

    async def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame; raise Gone where none comes."""
        while not (found := self._parse()):
            await self._more()
        return found

    async def receive(self, size: int) -> bytes:
        """Return the next bytes of the service, at least so many; raise Gone."""
        got = bytearray()
        while len(got) < size:
            got += await self.data()
        return bytes(got)

    async def data(self) -> bytes:
        """Return the payload of the next data frame; raise Gone at the end."""
        while True:
            opcode, payload = await self.frame()
            if opcode == 2:
                return payload
            if opcode == 8:
                code = struct.unpack(">H", payload[:2])[0] if payload else 1005
                with contextlib.suppress(OSError):
                    await self.send(payload, 8)
                raise Gone(code)
            if opcode == 9:
                # A server that has closed meanwhile does not want it any more.
                with contextlib.suppress(OSError):
                    await self.send(payload, 10)

    async def rest(self) -> tuple[bytes, int | None]:
        """Return all that still comes, and the close code."""
        got = bytearray()
        while True:
            try:
                got += await self.data()
            except Gone as gone:
                return bytes(got), gone.code

    def close(self) -> None:
        self.sock.close()

    async def _more(self) -> None:
        try:
            data = await self._loop.sock_recv(self.sock, 1 << 18)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self.seen += data

    def _parse(self) -> tuple[int, bytes] | None:
        seen = self.seen
        if len(seen) < 2:
            return None
        size, start = seen[1], 2
        if size == 126:
            size, start = int.from_bytes(seen[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(seen[2:10], "big"), 10
        if len(seen) < start or len(seen) < start + size:
            return None
        found = seen[0] & 15, bytes(seen[start : start + size])
        del seen[: start + size]
        return found


class Service:
    """What listens behind a service: somebody takes its connections, or it echoes."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._peers: list[socket.socket] = []
        self._echoing: list[asyncio.Task[None]] = []
        self.port: int = listener.getsockname()[1]

    async def accept(self) -> socket.socket:
        """Return the next connection."""
        peer, _ = await self._loop.sock_accept(self._listener)
        peer.setblocking(False)
        self._peers.append(peer)
        return peer

    def echo(self) -> None:
        """Echo what comes in on every connection, from now on."""
        self._echoing.append(asyncio.ensure_future(self._accept_and_echo()))

    async def _accept_and_echo(self) -> None:
        while True:
            self._echoing.append(asyncio.ensure_future(self._echo(await self.accept())))

    async def _echo(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(peer, 1 << 16):
                await self._loop.sock_sendall(peer, data)
        peer.close()

    async def close(self) -> None:
        # Nobody may wait for a socket that is closed: its number is soon another's.
        for task in self._echoing:
            task.cancel()
        await asyncio.gather(*self._echoing, return_exceptions=True)
        self._listener.close()
        for peer in self._peers:
            peer.close()


def bound() -> socket.socket:
    """Take a port that nobody listens on, so that nobody else does."""
    taken = socket.socket()
    taken.setblocking(False)
    taken.bind(("127.0.0.1", 0))
    return taken


def listen() -> socket.socket:
    listener = bound()
    listener.listen(64)
    return listener


@contextlib.asynccontextmanager
async def service(
    echoes: bool = False, listener: socket.socket | None = None
) -> AsyncIterator[Service]:
    """A port that is listened on, by a socket that does so already where one is given."""
    made = Service(listener or listen())
    if echoes:
        made.echo()
    try:
        yield made
    finally:
        await made.close()


async def read_all(peer: socket.socket) -> bytes:
    """Read to the end."""
    loop, got = asyncio.get_running_loop(), bytearray()
    with contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(peer, 1 << 18):
            got += data
    return bytes(got)


async def send_all(peer: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(peer, data)


async def fetch(port: int, target: str, secret: str, method: str = "GET") -> tuple[int, bytes]:
    """Make an HTTP request; return status and body."""
    sock = await connection(port)
    head = f"{method} {target} HTTP/1.0\r\nHost: localhost\r\n"
    head += f"Authorization: Bearer {secret}\r\n\r\n"
    try:
        await send_all(sock, head.encode())
        answer = await read_all(sock)
    finally:
        sock.close()
    head, _, body = answer.partition(b"\r\n\r\n")  # type: ignore[assignment]
    if not head:
        raise Gone
    return int(head.split(b" ", 2)[1]), body  # type: ignore[call-arg, arg-type]
