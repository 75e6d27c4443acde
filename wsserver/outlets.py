"""Where the bytes of a relay go: the socket of one side, written without detours.

What a socket does not take at once is kept where it is, in the buffer it came in, its
source reads no more meanwhile, and it goes out before anything that Twisted holds for
that socket.  So a blocked direction costs one buffer, and nothing is copied or joined.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.interfaces import IPushProducer
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.tcp import Connection
from twisted.protocols.tls import TLSMemoryBIOProtocol

#: How much is encrypted at a time, in bytes: more would be memory of its own each time,
#: got from the system and given back, which costs more than to encrypt.
PIECE = 128 * 1024
#: What the heads of its records add at most, in bytes (RFC 8446, section 5).
EXTRA = 1024


class Buffers:
    """Buffers of one size that take turns, so that they stay in the processor's cache."""

    #: How many are kept for the next burst.
    SPARE = 8

    def __init__(self, size: int) -> None:
        self.size = size
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        """Return a buffer; its content is undefined."""
        return self._free.pop() if self._free else bytearray(self.size)

    def give(self, buffer: Any) -> None:
        """Take a buffer back; anything else is let go."""
        if type(buffer) is bytearray and len(self._free) < self.SPARE:
            self._free.append(buffer)


class Outlet(Protocol):
    """What takes the bytes of one direction; ``waits`` while some of them are not out."""

    @property
    def waits(self) -> bool:
        """Whether bytes wait for the reader."""

    def send(self, data: memoryview) -> bool:
        """Send bytes; tell whether their buffer is free again.

        Otherwise the source is paused, and nothing more may be sent until it is resumed.
        """

    def close(self) -> None:
        """The connection is gone: forget what is kept."""


class TransportOutlet:
    """Writes through the transport; the transport pauses its producer itself."""

    #: What such a transport holds is not known.
    waits = False

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def send(self, data: memoryview) -> bool:
        """Send bytes."""
        self._transport.write(bytes(data))
        return True

    def close(self) -> None:
        """Nothing is kept here."""


class SocketOutlet:
    """Writes to the socket of a plain TCP transport.

    Takes over the transport's ``doWrite``, where the reactor calls when the socket takes
    more.  Twisted's own writes, and its closing, go on as ever after what is kept here.
    """

    def __init__(self, transport: Any, source: IPushProducer, buffers: Buffers) -> None:
        self._transport = transport
        self._send = transport.getHandle().send
        self._source = source
        self._buffers = buffers
        self._kept: memoryview | None = None
        self._paused = False
        self._twisted_writes = transport.doWrite
        transport.doWrite = self._do_write

    @property
    def waits(self) -> bool:
        """Whether bytes wait for the reader."""
        return self._kept is not None or _holds(self._transport)

    def send(self, data: memoryview) -> bool:
        """Send bytes; tell whether their buffer is free again."""
        transport = self._transport
        if transport.disconnected:
            return True
        if self._kept is not None or _holds(self._transport):
            # Those come first.
            transport.write(bytes(data))
            self._pause()
            return True
        try:
            sent = self._send(data)
        except OSError:
            # Either it is full, or the reactor finds out in doWrite what is wrong.
            sent = 0
        if sent == len(data):
            return True
        self._kept = data[sent:]
        self._pause()
        transport.startWriting()
        return False

    def close(self) -> None:
        """The connection is gone: forget what is kept."""
        self._free()
        self._resume()
        # Or the transport and this would keep one another in memory.
        if vars(self._transport).get("doWrite") == self._do_write:
            del self._transport.doWrite

    def _do_write(self) -> Any:
        if self._kept is not None:
            try:
                self._kept = self._kept[self._send(self._kept) :]
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            if self._kept:
                return None
            self._free()
        transport = self._transport
        if _holds(self._transport) or transport.disconnecting:
            result = self._twisted_writes()
            if result or _holds(self._transport):
                return result
        else:
            transport.stopWriting()
        self._resume()
        return None

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._source.pauseProducing()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._source.resumeProducing()

    def _free(self) -> None:
        if self._kept is not None:
            self._buffers.give(self._kept.obj)
            self._kept = None


class TLSOutlet:
    """Encrypts with the transport's own TLS connection, and writes to the socket below."""

    def __init__(self, transport: Any, below: SocketOutlet, source: IPushProducer) -> None:
        self._transport = transport
        self._tls = transport.getHandle()
        self._below = below
        self._source = source
        #: Whether Twisted writes, as it must where TLS is not ready to.
        self.usual = False

    @property
    def waits(self) -> bool:
        """Whether bytes wait for the reader."""
        return self._below.waits

    def send(self, data: memoryview) -> bool:
        """Send bytes; their buffer is always free again."""
        if self.usual:
            self._transport.write(bytes(data))
            return True
        try:
            while data:
                sent = self._tls.send(data[:PIECE])
                data = data[sent:]
                self._flush(sent + EXTRA)
        except SSL.Error:
            # It must read first, or it is broken: Twisted knows what to do then.
            self.usual = True
            self._transport.registerProducer(self._source, True)
            self._transport.write(bytes(data))
        return True

    def _flush(self, room: int) -> None:
        encrypted = self._tls.bio_read(room)
        self._below.send(memoryview(encrypted))
        if len(encrypted) == room:
            with contextlib.suppress(SSL.WantReadError):
                self._flush(room)

    def close(self) -> None:
        """The connection is gone: forget what is kept."""
        self._below.close()


def holds(transport: Any) -> bool:
    """Tell whether Twisted holds bytes that the socket of a transport has not taken."""
    below = socket_below(transport)
    return below is not None and _holds(below)


def _holds(below: Any) -> bool:
    return bool(below.dataBuffer or below._tempDataBuffer)


def is_full(transport: Any) -> bool:
    """Tell whether Twisted holds so much that the socket has not taken that it wants no more."""
    below = socket_below(transport)
    return below is not None and bool(below._isSendBufferFull())


def socket_below(transport: Any) -> Any:
    """Return the plain TCP transport that is, or carries, this one; None where none does."""
    if isinstance(transport, TLSMemoryBIOProtocol):
        transport = transport.transport
    return transport if isinstance(transport, Connection) else None
