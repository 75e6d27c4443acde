"""A websocket on the HTTP port has all that was sent for it, however early."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.web.resource import Resource

from tests.test_tls import make as certificate
from tests.test_tunnel import TunnelCase
from tests.wires import SecureWire, SocketWire, close, frame, frames, request
from wsserver.channel import HTTPSite
from wsserver.site import Root
from wsserver.tls import Certificate
from wsserver.tunnel import EARLY_BYTES, Tunnel
from wsserver.upgrade import Upgrade


class UpgradeTests(TunnelCase):
    def setUp(self) -> None:
        super().setUp()
        root = Root(Resource(), Resource(), None, Upgrade(self.factory))
        self.site = HTTPSite(root, reactor=self.clock)

    def wired(self, here: int, there: int) -> Any:
        wire = SocketWire(here, there)
        self.addCleanup(wire.close)
        return wire

    def connected(self, channel: Any) -> Any:
        """Return a connection to the site."""
        wire = self.wired(1, 2)
        wire.protocol = channel
        channel.makeConnection(wire)
        return wire

    def dial(self, head: bytes) -> None:
        self.browser = self.connected(self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 2)))
        self.browser.feed(head)
        (self.tunnel,) = self.factory.tunnels or [Tunnel()]

    def open(self, data: bytes = b"") -> None:
        self.dial(request("?token=T") + data)
        self.session.start()
        self.service, self.wire = self.plug.succeed()

    def test_taken_over(self) -> None:
        """The websocket has the connection, and the channel has nothing more to do with it."""
        self.open()
        self.browser.feed(frame(b"hello"))
        self.assertEqual(self.wire.take(), b"hello")
        self.clock.advance(1000)
        self.assertFalse(self.browser.aborted)
        # It would not hear of the end, either.
        self.assertEqual(self.site.channels, set())

    def test_right_behind(self) -> None:
        """What comes right behind the request arrives, before all that comes later."""
        for size in (5, 20_000, EARLY_BYTES):
            data = os.urandom(size)
            self.open(frame(data))
            self.browser.feed(frame(b"later"))
            self.assertEqual(self.wire.take(), data + b"later")
            self.factory.tunnels.clear()

    def test_amid_a_frame(self) -> None:
        """So does a frame that is cut anywhere."""
        whole = frame(b"hello") + frame(b"world" * 50)
        for cut in range(0, len(whole), 9):
            self.open(whole[:cut])
            self.browser.feed(whole[cut:])
            self.assertEqual(self.wire.take(), b"hello" + b"world" * 50)
            self.factory.tunnels.clear()

    def test_too_much(self) -> None:
        """What is kept while the service starts is bounded."""
        self.dial(request("?token=T") + frame(bytes(EARLY_BYTES + 1)))
        answer, _, rest = self.browser.take().partition(b"\r\n\r\n")
        self.assertIn(b" 101 ", answer)
        ((opcode, payload),) = frames(rest)
        self.assertEqual((opcode, payload[:2]), (8, struct.pack(">H", 4413)))

    def test_second_request(self) -> None:
        """A second request is no request any more: one service, one answer, and the end."""
        self.dial(request("?token=a") + request("?token=b"))
        self.assertEqual(self.joins, ["a"])
        answer = self.browser.take()
        self.assertEqual(answer.count(b"HTTP/1.1 "), 1)
        ((opcode, payload),) = frames(answer.partition(b"\r\n\r\n")[2])
        self.assertEqual((opcode, payload[:2]), (8, struct.pack(">H", 1002)))

    def test_refused(self) -> None:
        """What comes behind a request that is refused is nobody's."""
        self.dial(request("") + frame(b"hello") + close())
        self.assertRegex(self.browser.take().decode(), "^HTTP/1.1 400 ")
        self.clock.advance(10.5)
        self.assertTrue(self.browser.disconnecting or self.browser.aborted)


class SecureUpgradeTests(UpgradeTests):
    """The same over TLS, whose records cut anything anywhere."""

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "both.pem").write_bytes(b"".join(certificate("server")))
        self.context = Certificate(str(folder / "both.pem"))

    def connected(self, channel: Any) -> Any:
        wire = SecureWire(self.context, channel)
        self.addCleanup(wire.close)
        return wire
