"""Messages arrive whole, in order, and with their open files."""

from __future__ import annotations

import os
import socket
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from wsserver.messages import receive, send


class MessageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.here, self.there = socket.socketpair()
        self.addCleanup(self.here.close)
        self.addCleanup(self.there.close)

    def test_values(self) -> None:
        """Plain values come back as they were, one message after the other."""
        sent = [("start", [b"a\0b", "ä"], {b"k": b""}, 2.5, None, True), (), (-(2**70),)]
        for message in sent:
            send(self.here, message)
        self.assertEqual([receive(self.there) for _ in sent], [(m, []) for m in sent])

    def test_large(self) -> None:
        """A message may be larger than what the kernel keeps of it."""
        large = (b"x" * 3_000_000,)
        writer = Thread(target=send, args=(self.here, large))
        writer.start()
        self.assertEqual(receive(self.there)[0], large)
        writer.join()

    def test_files(self) -> None:
        """Open files come along, for this process alone."""
        reader, writer = os.pipe()
        send(self.here, ("take",), [writer, writer])
        os.close(writer)
        _, handles = receive(self.there)
        self.assertEqual([os.get_inheritable(handle) for handle in handles], [False, False])
        for handle in handles:
            os.write(handle, b"x")
            os.close(handle)
        self.assertEqual(os.read(reader, 10), b"xx")
        self.assertEqual(os.read(reader, 10), b"")
        os.close(reader)

    def test_broken_off(self) -> None:
        """A message that breaks off is the end, wherever that is."""
        for part in (b"", b"\0", b"\0\0\0\5", b"\0\0\0\5abcd"):
            self.setUp()
            self.here.sendall(part)
            self.here.close()
            self.assertRaises(EOFError, receive, self.there)
