"""Where the bytes of a relay go."""

from __future__ import annotations

import os
import weakref
from typing import Any

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.wires import SocketWire, Wire
from wsserver import outlets
from wsserver.outlets import (
    Buffers,
    SocketOutlet,
    TLSOutlet,
    TransportOutlet,
    socket_below,
)


class Source:
    """A producer that counts."""

    def __init__(self) -> None:
        self.paused = False
        self.changes = 0

    def pauseProducing(self) -> None:
        assert not self.paused
        self.paused, self.changes = True, self.changes + 1

    def resumeProducing(self) -> None:
        assert self.paused
        self.paused, self.changes = False, self.changes + 1


class BuffersTests(SynchronousTestCase):
    def test_turns(self) -> None:
        """One buffer serves all who give it back at once."""
        buffers = Buffers(100)
        first = buffers.take()
        self.assertEqual(len(first), 100)
        buffers.give(first)
        self.assertIs(buffers.take(), first)
        self.assertIsNot(buffers.take(), first)

    def test_spare(self) -> None:
        """After a burst only some are kept, and nothing else ever is."""
        buffers = Buffers(1)
        for buffer in [buffers.take() for _ in range(50)]:
            buffers.give(buffer)
        buffers.give(b"something else")
        self.assertEqual(len(buffers._free), Buffers.SPARE)


class OutletCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.source = Source()
        self.buffers = Buffers(1 << 20)
        self.wire = SocketWire()
        self.addCleanup(self.wire.close)
        self.wire.protocol = Protocol()
        self.outlet = SocketOutlet(self.wire, self.source, self.buffers)

    def fill(self) -> bytes:
        """Send more than the socket takes; return what it was."""
        buffer = self.buffers.take()
        data = os.urandom(1 << 20)
        buffer[:] = data
        self.assertFalse(self.outlet.send(memoryview(buffer)))
        self.assertTrue(self.source.paused)
        self.assertEqual(self.buffers._free, [])
        return data


class SocketOutletTests(OutletCase):
    def test_at_once(self) -> None:
        """What the socket takes is on its way at once, and the buffer is free."""
        self.assertTrue(self.outlet.send(memoryview(bytearray(b"hello"))))
        self.assertEqual(self.wire.far.recv(100), b"hello")
        self.assertEqual((self.source.changes, self.wire.pump.writers), (0, set()))

    def test_full(self) -> None:
        """What it does not take stays where it is; the source waits for exactly that."""
        data = self.fill()
        self.assertEqual(self.wire.take(), data)
        self.assertFalse(self.source.paused)
        self.assertEqual(len(self.buffers._free), 1)
        self.assertEqual(self.wire.pump.writers, set())
        self.assertTrue(self.outlet.send(memoryview(bytearray(b"more"))))
        self.assertEqual(self.wire.take(), b"more")

    def test_twisted_comes_after(self) -> None:
        """What Twisted is given meanwhile follows the rest, and so does what is sent then."""
        data = self.fill()
        self.wire.write(b"[pong]")
        self.assertTrue(self.outlet.send(memoryview(bytearray(b"[more]"))))
        self.assertEqual(self.wire.take(), data + b"[pong][more]")
        self.assertFalse(self.source.paused)

    def test_twisted_comes_first(self) -> None:
        """What Twisted holds already is not overtaken, and the source waits for it."""
        self.wire.write(b"[ping]")
        self.assertTrue(self.outlet.send(memoryview(bytearray(b"data"))))
        self.assertTrue(self.source.paused)
        self.assertEqual(self.wire.take(), b"[ping]data")
        self.assertFalse(self.source.paused)

    def test_twisted_alone(self) -> None:
        """Twisted's own writes go on as ever, and disturb no source."""
        self.wire.write(b"x" * 1_000_000)
        self.assertEqual(self.wire.take(), b"x" * 1_000_000)
        self.assertEqual(self.source.changes, 0)

    def test_closing(self) -> None:
        """A close comes after all that is kept, then after all that Twisted holds."""
        data = self.fill()
        self.wire.write(b"last")
        self.wire.loseConnection()
        self.assertEqual(self.wire.take(), data + b"last")
        self.assertIs(self.wire.ended, CONNECTION_DONE)
        empty = SocketWire()
        self.addCleanup(empty.close)
        SocketOutlet(empty, self.source, self.buffers)
        empty.loseConnection()
        self.assertEqual(empty.take(), b"")
        self.assertIs(empty.ended, CONNECTION_DONE)

    def test_broken(self) -> None:
        """A socket that breaks is found out by the reactor, while the source waits."""
        self.wire.far.close()
        self.assertFalse(self.outlet.send(memoryview(self.buffers.take())))
        self.assertTrue(self.source.paused)
        self.wire.flush()
        self.assertIs(self.wire.ended, CONNECTION_LOST)

    def test_lost(self) -> None:
        """Of a connection that is gone nothing is kept: no buffer, no pause, no hook."""
        self.fill()
        self.wire.connectionLost(Failure(ConnectionDone()))
        self.outlet.close()
        self.assertFalse(self.source.paused)
        self.assertEqual(len(self.buffers._free), 1)
        self.assertNotIn("doWrite", vars(self.wire))
        self.assertTrue(self.outlet.send(memoryview(bytearray(b"late"))))
        self.outlet.close()
        self.assertEqual(self.source.changes, 2)
        gone = weakref.ref(self.outlet)
        del self.outlet
        self.assertIsNone(gone())

    def test_aborted(self) -> None:
        """An abort of Twisted's stays one."""
        self.fill()
        self.wire.abortConnection()
        aborted = self.wire.doWrite
        self.outlet.close()
        self.assertIs(self.wire.doWrite, aborted)


class FakeTLS:
    """A TLS connection and its transport: encrypts by marking."""

    def __init__(self) -> None:
        self.encrypted = bytearray()
        self.broken = False
        self.most = 1 << 30
        self.written: list[bytes] = []
        self.producer: Any = None

    def getHandle(self) -> FakeTLS:
        return self

    def send(self, data: memoryview) -> int:
        if self.broken:
            raise SSL.WantReadError
        taken = min(len(data), self.most)
        self.encrypted += bytes(data[:taken])
        return taken

    def bio_read(self, size: int) -> bytes:
        if not self.encrypted:
            raise SSL.WantReadError
        taken = bytes(self.encrypted[:size])
        del self.encrypted[:size]
        return taken

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self.producer = producer


class TLSOutletTests(OutletCase):
    def setUp(self) -> None:
        super().setUp()
        self.tls = FakeTLS()
        self.outlet: Any = TLSOutlet(self.tls, self.outlet, self.source)

    def test_pieces(self) -> None:
        """What is encrypted is sent at once, piece by piece, and the buffer is free."""
        data = os.urandom(3 * outlets.PIECE + 5)
        self.assertTrue(self.outlet.send(memoryview(bytearray(data))))
        self.assertEqual(self.wire.take(), data)
        self.assertFalse(self.source.paused)

    def test_partial(self) -> None:
        """A TLS that takes a part at a time gets the rest."""
        self.tls.most = 1000
        data = os.urandom(12_345)
        self.outlet.send(memoryview(bytearray(data)))
        self.assertEqual(self.wire.take(), data)

    def test_left_over(self) -> None:
        """What TLS had to say already goes out as well, and first."""
        self.tls.encrypted += b"t" * (outlets.EXTRA + 10)
        self.outlet.send(memoryview(bytearray(b"0123456789")))
        self.assertEqual(self.wire.take(), b"t" * (outlets.EXTRA + 10) + b"0123456789")
        self.tls.encrypted += b"t" * outlets.EXTRA
        self.outlet.send(memoryview(bytearray(b"")))
        self.outlet.send(memoryview(bytearray(b"x")))
        self.assertEqual(self.wire.take(), b"t" * outlets.EXTRA + b"x")

    def test_full(self) -> None:
        """A socket that is full pauses the source, until all is out."""
        data = os.urandom(1 << 20)
        self.assertTrue(self.outlet.send(memoryview(bytearray(data))))
        self.assertTrue(self.source.paused)
        self.assertEqual(self.wire.take(), data)
        self.assertFalse(self.source.paused)

    def test_must_read_first(self) -> None:
        """A TLS that cannot write now is Twisted's business from then on, with a producer."""
        self.tls.broken = True
        self.outlet.send(memoryview(bytearray(b"one")))
        self.tls.broken = False
        self.outlet.send(memoryview(bytearray(b"two")))
        self.assertEqual(self.tls.written, [b"one", b"two"])
        self.assertIs(self.tls.producer, self.source)
        self.assertEqual(self.wire.take(), b"")

    def test_lost(self) -> None:
        """What the socket below keeps is forgotten with the connection."""
        self.outlet.send(memoryview(bytearray(1 << 20)))
        self.wire.connectionLost(Failure(ConnectionDone()))
        self.outlet.close()
        self.assertFalse(self.source.paused)


class TransportOutletTests(SynchronousTestCase):
    def test_send(self) -> None:
        """Any other transport is written to as ever."""
        wire = Wire()
        outlet = TransportOutlet(wire)
        self.assertTrue(outlet.send(memoryview(bytearray(b"hello"))))
        outlet.close()
        self.assertEqual(wire.take(), b"hello")
        self.assertIsNone(socket_below(wire))
