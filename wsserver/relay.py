"""Moves the bytes of a joined tunnel, both ways.

Where both ends are TCP sockets of a stock reactor, the relay reads and writes them
itself, in the transports' ``doRead`` and ``doWrite``: one read, one write, no copy, no
further turn of the reactor.  Twisted still owns the event loop, and the life and the
closing of the transports.  Everywhere else the transports are used as any protocol does.
Autobahn handles all that is not a plain data frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.tcp import Connection

from wsserver.frames import Scanner, put_header
from wsserver.outlets import Buffers, Outlet, SocketOutlet, TLSOutlet, TransportOutlet, socket_below

#: Room before what is read, for a header of ours or the beginning of one of theirs, in bytes.
HEAD = 16
#: How much is read at a time, in bytes: with its header it makes whole records of TLS.
READ_SIZE = 256 * 1024 - HEAD
#: How much is read at a time from who sends tiny frames, in bytes: each costs as much as a
#: large one, and nobody else has a turn meanwhile.
NIBBLE = 8 * 1024
#: Frames are tiny where there are fewer bytes to a step of the scanner.
TINY = 64
#: What TLS may hold back of an unfinished record, in bytes.
TLS_SLACK = 32 * 1024
#: The most that a record carries, in bytes (RFC 8446, section 5.1).
RECORD = 16 * 1024

_buffers = Buffers(HEAD + READ_SIZE)


class Websocket(Protocol):
    """The browser's end."""

    transport: Any

    def other_frames(self, data: bytes) -> None:
        """Handle frames, or parts of them, that are no plain data."""

    def touch(self) -> None:
        """Take note that bytes move."""


class Service(Protocol):
    """The service's end."""

    transport: Any

    def pauseProducing(self) -> None:
        """Read no more."""

    def resumeProducing(self) -> None:
        """Read on."""

    def stopProducing(self) -> None:
        """Close."""


def join(websocket: Websocket, service: Service, scanner: Scanner) -> Relay:
    """Return the relay between two ends, and begin to read the service."""
    below = socket_below(websocket.transport)
    kind = Relay
    if below is not None and isinstance(service.transport, Connection):
        kind = TLSRelay if below is not websocket.transport else DirectRelay
    relay = kind(websocket, service, scanner)
    service.resumeProducing()
    return relay


class Relay:
    """Both directions, through the transports: each pauses the other where it is slow.

    ``up`` and ``down`` tell whether bytes still go to the service and to the browser.
    """

    def __init__(self, websocket: Websocket, service: Service, scanner: Scanner) -> None:
        self.up = self.down = True
        self._websocket = websocket
        self._service = service
        self._scanner = scanner
        self._to_service, self._to_browser = self._outlets()

    def from_browser(self, data: bytes) -> None:
        """Pass on what the browser's transport has received."""
        buffer = bytearray(self._scanner.tail + data)
        self._send_up(buffer, 0, len(buffer))

    def from_service(self, data: bytes) -> None:
        """Pass on what the service's transport has received."""
        self._send_down(bytearray(bytes(HEAD) + data), HEAD + len(data))

    def to_service(self, payload: bytes) -> None:
        """Pass on payload of the browser that somebody else has unmasked."""
        if self.up:
            self._to_service.send(memoryview(payload))

    def up_waits(self) -> bool:
        """Tell whether bytes wait for the service to take them."""
        return self._to_service.waits

    def down_waits(self) -> bool:
        """Tell whether bytes wait for the browser to take them."""
        return self._to_browser.waits

    def browser_lost(self) -> None:
        """The connection to the browser is gone."""
        self._to_browser.close()

    def service_lost(self) -> None:
        """The connection to the service is gone."""
        self._to_service.close()

    def _outlets(self) -> tuple[Outlet, Outlet]:
        browser, there = self._websocket.transport, self._service.transport
        there.registerProducer(browser, True)
        browser.registerProducer(self._service, True)
        return TransportOutlet(there), TransportOutlet(browser)

    def _send_up(self, buffer: bytearray, start: int, end: int) -> bool:
        """Pass on what a browser has sent; tell whether the buffer is free again."""
        self._websocket.touch()
        view = memoryview(buffer)
        free = True
        for payload, begin, stop in self._scanner.scan(buffer, start, end):
            if not payload:
                self._websocket.other_frames(bytes(view[begin:stop]))
            elif self.up:
                free &= self._to_service.send(view[begin:stop])
        return free

    def _send_down(self, buffer: bytearray, end: int) -> bool:
        """Send what follows ``HEAD`` as one frame; tell whether the buffer is free again."""
        if not self.down:
            return True
        self._websocket.touch()
        start = put_header(buffer, HEAD, end - HEAD)
        return self._to_browser.send(memoryview(buffer)[start:end])


class DirectRelay(Relay):
    """Both directions, from socket to socket."""

    _appetite = READ_SIZE

    def browser_lost(self) -> None:
        """The connection to the browser is gone."""
        super().browser_lost()
        _unhook(self._browser, self._read_browser)

    def service_lost(self) -> None:
        """The connection to the service is gone."""
        super().service_lost()
        _unhook(self._service.transport, self._read_service)

    def _outlets(self) -> tuple[Outlet, Outlet]:
        there = self._service.transport
        self._browser = socket_below(self._websocket.transport)
        self._receive_service = there.getHandle().recv_into
        self._receive_browser = self._browser.getHandle().recv_into
        there.doRead = self._read_service
        self._browser.doRead = self._read_browser
        up = SocketOutlet(there, self._browser, _buffers)
        return up, SocketOutlet(self._browser, there, _buffers)

    def _read_service(self) -> Any:
        buffer = _buffers.take()
        size, gone = _receive(self._receive_service, memoryview(buffer)[HEAD:])
        if not size or self._send_down(buffer, HEAD + size):
            _buffers.give(buffer)
        return gone

    def _read_browser(self) -> Any:
        buffer = _buffers.take()
        view = memoryview(buffer)[HEAD : HEAD + self._appetite]
        size, gone = _receive(self._receive_browser, view)
        tail = self._scanner.tail
        start = HEAD - len(tail)
        buffer[start:HEAD] = tail
        if not size or self._send_up(buffer, start, HEAD + size):
            _buffers.give(buffer)
        self._digest(size)
        return gone

    def _digest(self, size: int) -> None:
        """Note how much to read at a time, by what so many bytes took."""
        self._appetite = READ_SIZE if size > TINY * self._scanner.steps else NIBBLE


class TLSRelay(DirectRelay):
    """The same where the browser's socket carries TLS."""

    def _outlets(self) -> tuple[Outlet, Outlet]:
        up, down = super()._outlets()
        assert isinstance(down, SocketOutlet)
        tls = self._websocket.transport
        self._connection = tls.getHandle()
        self._outlet = TLSOutlet(tls, down, self._service.transport)
        return up, self._outlet

    def _read_browser(self) -> Any:
        encrypted = _buffers.take()
        view = memoryview(encrypted)
        room = min(self._appetite, READ_SIZE - TLS_SLACK)
        size, gone = _receive(self._receive_browser, view[:room])
        if size and self._outlet.usual:
            self._browser.protocol.dataReceived(bytes(view[:size]))
        elif size:
            self._decrypt(view[:size])
        _buffers.give(encrypted)
        return gone

    def _decrypt(self, data: memoryview) -> None:
        """Pass on all records of a read together."""
        buffer = _buffers.take()
        view = memoryview(buffer)
        tail = self._scanner.tail
        start, end = HEAD - len(tail), HEAD
        buffer[start:HEAD] = tail
        self._connection.bio_write(data)
        ended = False
        try:
            while True:
                end += self._connection.recv_into(view[end:], RECORD)
        except SSL.WantReadError:
            pass
        except SSL.Error:
            ended = True
        if end == HEAD:
            _buffers.give(buffer)
        else:
            if self._send_up(buffer, start, end):
                _buffers.give(buffer)
            self._digest(end - HEAD)
        if ended or end == HEAD:
            # TLS has something to say itself, or comes to its end, which is for Twisted.
            self._browser.protocol._flushReceiveBIO()


def _receive(receive: Callable[[memoryview], int], view: memoryview) -> tuple[int, Any]:
    """Return how much was read, and why no more will come, in the reactor's terms."""
    try:
        size = receive(view)
    except BlockingIOError:
        return 0, None
    except OSError:
        return 0, CONNECTION_LOST
    return size, None if size else CONNECTION_DONE


def _unhook(transport: Any, read: Callable[[], Any]) -> None:
    # Or the transport and its relay would keep one another in memory.
    if vars(transport).get("doRead") == read:
        del transport.doRead
