"""What the kernel knows of the other end."""

from __future__ import annotations

import socket

from twisted.internet.tcp import Connection
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from tests.wires import Wire
from wsserver.peer import peer_of


class PeerTests(SynchronousTestCase):
    def connected(self) -> tuple[Connection, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            there = socket.create_connection(server.getsockname())
            here = server.accept()[0]
        self.addCleanup(there.close)
        self.addCleanup(here.close)
        return Connection(here, None, object()), there

    def test_both_ways(self) -> None:
        """It counts what the other end has taken, and what it has sent."""
        transport, there = self.connected()
        before = peer_of(transport)
        transport.getHandle().sendall(b"x" * 1000)
        there.sendall(b"y" * 55)
        self.assertIsNotNone(before)
        wait_until(lambda: peer_of(transport).acknowledged == before.acknowledged + 1000)
        wait_until(lambda: peer_of(transport).sent == before.sent + 55)
        self.assertEqual(peer_of(transport).unanswered, 0)

    def test_unknown(self) -> None:
        """Of a transport in memory, a socket of another family, or one that is gone: nothing."""
        transport, _ = self.connected()
        transport.getHandle().close()
        one, other = socket.socketpair()
        self.addCleanup(one.close)
        self.addCleanup(other.close)
        for nothing in (Wire(), transport, Connection(one, None, object()), None):
            self.assertIsNone(peer_of(nothing))
