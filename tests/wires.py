"""Both ends of a tunnel in memory: transports, websocket frames, a session with verbs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.server import Site

from wsserver.errors import WSServerError

DONE = Failure(ConnectionDone())


class Wire(StringTransport):
    """A transport that, like real ones, lets an absent producer be unregistered."""

    def __init__(self, here: int = 1, there: int = 2) -> None:
        address = [IPv4Address("TCP", "127.0.0.1", port) for port in (here, there)]
        super().__init__(hostAddress=address[0], peerAddress=address[1])
        self.aborted = False

    def unregisterProducer(self) -> None:
        if self.producer is not None:
            super().unregisterProducer()

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def resumeProducing(self) -> None:
        # Real transports ignore this while they close.
        if not self.disconnecting:
            super().resumeProducing()

    def setTcpNoDelay(self, wanted: bool) -> None:
        self.no_delay = wanted

    def take(self) -> bytes:
        """Return what was written since the last call."""
        written: bytes = self.value()
        self.clear()
        return written

    @property
    def paused(self) -> bool:
        return bool(self.producerState == "paused")


class Pump:
    """A reactor that watches sockets for nobody: its wires are pumped by hand."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, wire: Any) -> None:
        self.readers.add(wire)

    def addWriter(self, wire: Any) -> None:
        self.writers.add(wire)

    def removeReader(self, wire: Any) -> None:
        self.readers.discard(wire)

    def removeWriter(self, wire: Any) -> None:
        self.writers.discard(wire)

    def callLater(self, delay: float, call: object, *args: object) -> None:
        """Twisted's abort tells its protocol later; here the test does."""


class SocketWire(Connection):
    """The same with a real socket, which the relay reads and writes itself."""

    def __init__(self, here: int = 1, there: int = 2) -> None:
        own, self.far = socket.socketpair()
        self.pump = Pump()
        super().__init__(own, None, self.pump)
        self.far.setblocking(False)
        self._here, self._there = here, there
        self.connected = 1
        self.ended: Exception | None = None
        self.startReading()

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self._here)

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", self._there)

    def setTcpNoDelay(self, wanted: bool) -> None:
        self.no_delay = wanted

    @property
    def aborted(self) -> bool:
        return bool(self._aborting)

    @property
    def paused(self) -> bool:
        return self not in self.pump.readers

    def encrypted(self, data: bytes) -> bytes:
        """Return what goes over the wire for some bytes."""
        return data

    def feed(self, data: bytes) -> None:
        """Let the other side send bytes, and the reactor notice."""
        while data:
            data = data[self.far.send(data[:100_000]) :]
            self.read()

    def read(self) -> None:
        """Read whatever there is, as the reactor does."""
        while self.ended is None and not self.paused and readable(self.socket):
            self.ended = self.doRead()

    def flush(self) -> None:
        """Write whatever the socket takes, as the reactor does."""
        while self.ended is None and self in self.pump.writers and writable(self.socket):
            self.ended = self.doWrite()

    def take(self) -> bytes:
        """Return what was written since the last call."""
        taken = b""
        while True:
            self.flush()
            try:
                taken += self.far.recv(1 << 20)
            except BlockingIOError:
                return taken

    def close(self) -> None:
        self.far.close()
        if hasattr(self, "socket"):
            self.socket.close()


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def writable(sock: socket.socket) -> bool:
    return bool(select.select([], [sock], [], 0)[1])


def request(query: str = "", path: str = "/websockify", **headers: str) -> bytes:
    """The opening handshake of a client."""
    fields = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"GET {path}{query} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def frame(payload: bytes, opcode: int = 2, fin: bool = True, mask: bytes | None = None) -> bytes:
    """A masked frame, as clients send them (RFC 6455, section 5)."""
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([0x80 | len(payload)])
    elif len(payload) < 65536:
        head += struct.pack(">BH", 0x80 | 126, len(payload))
    else:
        head += struct.pack(">BQ", 0x80 | 127, len(payload))
    mask = mask or os.urandom(4)
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
    return head + mask + masked.to_bytes(len(payload), "big")


def close(code: int = 1000) -> bytes:
    """A close frame of a client."""
    return frame(struct.pack(">H", code), opcode=8)


def frames(stream: bytes) -> list[tuple[int, bytes]]:
    """The opcodes and payloads of what a server has sent."""
    found = []
    while stream:
        opcode, length = stream[0] & 0x0F, stream[1]
        start = 2
        if length == 126:
            length, start = struct.unpack(">H", stream[2:4])[0], 4
        elif length == 127:
            length, start = struct.unpack(">Q", stream[2:10])[0], 10
        found.append((opcode, stream[start : start + length]))
        stream = stream[start + length :]
    return found


class FakeSession:
    """A session that answers when it is told to."""

    connect_timeout = 15.0

    def __init__(self) -> None:
        self.wanted: list[Deferred[Any]] = []
        self.joined = self.left = self.touched = self.finishes = 0
        self.failures: list[str] = []
        self.cancelled = 0

    def addresses(self) -> Deferred[Any]:
        def cancelled(_: object) -> None:
            self.cancelled += 1

        self.wanted.append(Deferred(cancelled))
        return self.wanted[-1]

    def opened(self) -> None:
        self.joined += 1

    def touch(self) -> None:
        self.touched += 1

    def leave(self, seat: object) -> None:
        self.left += 1

    def finished(self) -> None:
        self.finishes += 1

    def failed(self, error: WSServerError) -> None:
        self.failures.append(str(error))

    def start(self, **sockets: tuple[str, int]) -> None:
        """Say that the service listens."""
        self.wanted.pop(0).callback(sockets or {"default": ("127.0.0.1", 5900)})

    def fail(self, error: WSServerError) -> None:
        """Say that the start has failed."""
        self.wanted.pop(0).errback(error)


class Plug:
    """Endpoints whose connections succeed and fail by hand."""

    def __init__(self, wire: Callable[[int, int], Any] = Wire) -> None:
        self.wire = wire
        self.attempts: list[tuple[str, int, float]] = []
        self.cancelled = 0
        self._waiting: list[tuple[Any, Deferred[Any]]] = []

    def __call__(self, reactor: object, host: str, port: int, timeout: float) -> Plug:
        self.attempts.append((host, port, timeout))
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        def cancelled(attempt: Deferred[Any]) -> None:
            self.cancelled += 1
            # As real endpoints do.
            attempt.errback(ConnectingCancelledError(IPv4Address("TCP", "127.0.0.1", 4)))

        self._waiting.append((factory, Deferred(cancelled)))
        return self._waiting[-1][1]

    def succeed(self, wire: Any = None) -> tuple[Protocol, Any]:
        """Connect the oldest attempt."""
        factory, result = self._waiting.pop(0)
        protocol = factory.buildProtocol(None)
        wire = wire or self.wire(3, 4)
        wire.protocol = protocol
        protocol.makeConnection(wire)
        result.callback(protocol)
        return protocol, wire

    def refuse(self, error: Exception) -> None:
        """Refuse the oldest attempt."""
        self._waiting.pop(0)[1].errback(error)


class Reply:
    """An HTTP answer that was written to a wire."""

    def __init__(self, stream: bytes) -> None:
        head, _, self.body = stream.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        _, code, self.reason = first.split(" ", 2)
        self.code = int(code)
        self.headers = dict(line.split(": ", 1) for line in lines)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = _joined(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        body += chunks[: int(size, 16)]
        chunks = chunks[int(size, 16) + 2 :]
    return body


async def ask(site: Site, path: str | bytes, method: str = "GET", **headers: str) -> Reply:
    """Send a request to a site in memory, and return its answer."""
    target = path.encode() if isinstance(path, str) else path
    fields = {"Host": "localhost:80", **headers, "Connection": "close"}
    lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in fields.items())
    raw = method.encode() + b" " + target + b" HTTP/1.1\r\n" + lines.encode() + b"\r\n"
    return await ask_raw(site, raw)


async def ask_raw(site: Site, raw: bytes) -> Reply:
    """Send bytes to a site in memory, and return its answer."""
    channel = site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5000))
    wire = Wire(80, 5000)
    channel.makeConnection(wire)
    channel.dataReceived(raw)
    # Files are produced by cooperative tasks, a turn of the reactor each.
    for _ in range(1000):
        if wire.disconnecting:
            break
        await deferLater(reactor, 0)
    written = wire.take()
    channel.connectionLost(DONE)
    return Reply(written)


class SecureWire(SocketWire):
    """A wire that carries TLS; this side's is Twisted's, the far side's Python's own."""

    def __init__(self, context: Any, tunnel: Any) -> None:
        super().__init__()
        self._clock = Clock()
        factory = TLSMemoryBIOFactory(context, False, Factory(), self._clock)
        self.protocol = self.secure = factory.protocol(factory, tunnel)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        self._client = trusting.wrap_bio(self._in, self._out)
        self.secure.makeConnection(self)
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._client.do_handshake()
            super().feed(self._out.read())
            self._in.write(super().take())

    def encrypted(self, data: bytes) -> bytes:
        self._client.write(data)
        return self._out.read()

    def feed(self, data: bytes) -> None:
        super().feed(self.encrypted(data))

    def end(self) -> bytes:
        """Return what goes over the wire for the end of TLS."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._client.unwrap()
        return self._out.read()

    def feed_raw(self, data: bytes) -> None:
        """Send bytes that are encrypted already."""
        super().feed(data)

    def take(self) -> bytes:
        self._clock.advance(0)
        self._in.write(super().take())
        taken = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self._client.read(1 << 20):
                taken += data
        return taken
