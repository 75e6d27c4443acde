"""The server of terminals: who is let in, and the words of telnet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.conch.telnet import DO, ECHO, IAC, NAWS, SB, SE, SGA, WILL, WONT
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver.services import pty_server
from wsserver.services.pty_server import (
    BINARY,
    MARK_EVERY,
    MAX_MARKS,
    TIMING_MARK,
    Terminals,
    default_shell,
    owner,
)

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 1 1 0
   1: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 2 1 0
"""


class FakeShell(StringTransport):
    """A process with a terminal."""

    pid: int | None = 99999999
    fd = -1

    def unregisterProducer(self) -> None:
        if self.producer is not None:
            super().unregisterProducer()


class FakeReactor(Clock):
    """Starts fake commands."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[Any] = []

    def spawnProcess(
        self, protocol: ProcessProtocol, program: str, argv: Any, env: Any, **how: Any
    ):
        self.spawned.append((protocol, program, argv, env, how))
        shell = FakeShell()
        protocol.makeConnection(shell)
        return shell


class OwnerTests(SynchronousTestCase):
    def test_table(self) -> None:
        """The user is that of the client's end of the connection."""
        table = Path(self.mktemp())
        table.write_text(TABLE)
        client, server = ("127.0.0.1", 40000), ("127.0.0.1", 8080)
        self.assertEqual(owner(client, server, table), 1001)
        self.assertEqual(owner(server, client, table), 1000)
        self.assertIsNone(owner(("127.0.0.1", 40001), server, table))
        # A socket that its owner has closed already shows as nobody's, which is as root's.
        table.write_text(TABLE.replace(" 1001        0 2 1 0", "    0        0 0 1 0"))
        self.assertIsNone(owner(client, server, table))
        self.assertIsNone(owner(client, server, table / "missing"))

    def test_real(self) -> None:
        """A connection of our own is found."""
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as peer,
        ):
            found = owner(peer.getsockname(), peer.getpeername())
        self.assertEqual(found, os.getuid())


class ShellTests(SynchronousTestCase):
    def test_default(self) -> None:
        """The shell of the user, else bash, else sh."""
        self.assertEqual(default_shell({"SHELL": "/bin/fish"}), "/bin/fish")
        self.assertEqual(default_shell({}, lambda path: True), "/bin/bash")
        self.assertEqual(default_shell({"SHELL": ""}, lambda path: False), "/bin/sh")


class TerminalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.terminals = Terminals(self.reactor, ["sh", "-i"])
        self.killed: list[tuple[int, int]] = []
        self.patch(os, "kill", lambda pid, number: self.killed.append((pid, number)))
        self.patch(pty_server, "_members", lambda session: [session])

    def connect(self, uid: int | None = None) -> Any:
        self.patch(pty_server, "owner", lambda *_: os.getuid() if uid is None else uid)
        self.transport = StringTransport(
            hostAddress=self.address(80), peerAddress=self.address(4000)
        )
        terminal = self.terminals.buildProtocol(None)
        terminal.makeConnection(self.transport)
        return terminal

    def address(self, port: int) -> Any:
        from twisted.internet.address import IPv4Address

        return IPv4Address("TCP", "127.0.0.1", port)

    @property
    def shell(self) -> Any:
        return self.reactor.spawned[-1][0].transport

    def test_offers(self) -> None:
        """Echo, no go-ahead, plain bytes; and the size of the window is asked for."""
        self.connect()
        offers = b"".join(IAC + WILL + option for option in (ECHO, SGA, BINARY))
        self.assertEqual(self.transport.value(), offers + IAC + DO + NAWS)
        _, program, argv, env, how = self.reactor.spawned[0]
        self.assertEqual((program, argv, how), ("sh", ["sh", "-i"], {"usePTY": True}))
        self.assertEqual(env["TERM"], "xterm-256color")

    def test_bytes(self) -> None:
        """Bytes go both ways; 255 is doubled on the wire."""
        terminal = self.connect()
        self.transport.clear()
        terminal.dataReceived(b"ls\r\0" + IAC + IAC)
        self.assertEqual(self.shell.value(), b"ls\r\xff")
        self.reactor.spawned[0][0].outReceived(b"a\r\n\xff")
        self.assertEqual(self.transport.value(), b"a\r\n\xff\xff")

    def test_negotiation(self) -> None:
        """What was offered may be taken or left; nothing else is agreed to."""
        terminal = self.connect()
        for option in (ECHO, SGA, BINARY):
            terminal.dataReceived(IAC + DO + option)
        terminal.dataReceived(IAC + WILL + NAWS)
        self.transport.clear()
        terminal.dataReceived(IAC + DO + b"\x18")
        self.assertNotIn(WILL, self.transport.value())
        terminal.dataReceived(IAC + b"\xfe" + ECHO)
        terminal.dataReceived(IAC + b"\xfc" + NAWS)

    def test_size(self) -> None:
        """The size of the window becomes that of the terminal; nonsense is let pass."""
        sizes: list[Any] = []
        self.patch(pty_server.fcntl, "ioctl", lambda fd, what, size: sizes.append(size))
        terminal = self.connect()
        terminal.dataReceived(IAC + SB + NAWS + b"\0\x64\0\x1e" + IAC + SE)
        terminal.dataReceived(IAC + SB + NAWS + b"\0" + IAC + SE)
        self.assertEqual(sizes, [b"\x1e\0\x64\0\0\0\0\0"])

    def test_flow(self) -> None:
        """Each side waits for the other."""
        terminal = self.connect()
        self.assertIs(self.transport.producer, terminal)
        self.assertIs(self.shell.producer, self.transport)
        terminal.pauseProducing()
        self.assertEqual(self.shell.producerState, "paused")
        terminal.resumeProducing()
        self.assertEqual(self.shell.producerState, "producing")

    def test_marks(self) -> None:
        """A client that is slow to show what it was sent is waited for."""
        terminal = self.connect()
        self.transport.clear()
        for _ in range(MAX_MARKS):
            self.assertEqual(self.shell.producerState, "producing")
            self.reactor.spawned[0][0].outReceived(b"y" * MARK_EVERY)
        marks = self.transport.value().count(IAC + DO + TIMING_MARK)
        self.assertEqual((marks, self.shell.producerState), (MAX_MARKS, "paused"))
        # That the socket is empty does not mean that the client has come so far.
        terminal.resumeProducing()
        self.assertEqual(self.shell.producerState, "paused")
        terminal.dataReceived(IAC + WILL + TIMING_MARK)
        self.assertEqual(self.shell.producerState, "producing")

    def test_marks_refused(self) -> None:
        """A refusal is an answer as well; one that nobody asked for changes nothing."""
        terminal = self.connect()
        terminal.dataReceived((IAC + WONT + TIMING_MARK) * 2)
        for _ in range(MAX_MARKS):
            self.reactor.spawned[0][0].outReceived(b"y" * MARK_EVERY)
        self.assertEqual(self.shell.producerState, "paused")
        terminal.dataReceived(IAC + WONT + TIMING_MARK)
        self.assertEqual(self.shell.producerState, "producing")

    def test_strangers(self) -> None:
        """Other users of the host get no shell."""
        self.patch(sys, "stderr", open(os.devnull, "w"))  # noqa: SIM115
        self.addCleanup(sys.stderr.close)
        terminal = self.connect(uid=os.getuid() + 1)
        self.assertEqual((self.reactor.spawned, self.transport.disconnected), ([], True))
        terminal.dataReceived(b"ls\n")
        terminal.connectionLost(Failure(ConnectionError()))

    def test_command_ends(self) -> None:
        """After the end of the command its last output is sent, and what it left is killed."""
        terminal = self.connect()
        protocol = self.reactor.spawned[0][0]
        protocol.outReceived(b"bye")
        protocol.processExited(Failure(ConnectionError()))
        protocol.processEnded(Failure(ConnectionError()))
        self.assertTrue(self.transport.value().endswith(b"bye"))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.killed, [(FakeShell.pid, signal.SIGKILL)])
        terminal.dataReceived(b"late")
        terminal.connectionLost(Failure(ConnectionError()))

    def test_hang_up(self) -> None:
        """A client that leaves hangs the command up; one that does not end is killed."""
        terminal = self.connect()
        terminal.connectionLost(Failure(ConnectionError()))
        self.assertEqual(self.killed, [(FakeShell.pid, signal.SIGHUP)])
        self.reactor.advance(pty_server.PATIENCE)
        self.assertEqual(self.killed[1:], [(FakeShell.pid, signal.SIGKILL)])

    def test_hang_up_after_the_end(self) -> None:
        """What a command has left is killed at its end, not its number at the hang-up."""
        terminal = self.connect()
        protocol = self.reactor.spawned[0][0]
        self.shell.pid = None
        protocol.processExited(Failure(ConnectionError()))
        self.assertEqual(self.killed, [(FakeShell.pid, signal.SIGKILL)])
        terminal.connectionLost(Failure(ConnectionError()))
        self.assertEqual(len(self.killed), 1)
        protocol.processEnded(Failure(ConnectionError()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """The end of the server is that of its commands, and it waits for them."""
        self.connect()
        stopped = self.terminals.stop()
        self.assertNoResult(stopped)
        self.assertEqual(self.killed, [(FakeShell.pid, signal.SIGHUP)])
        self.reactor.spawned[0][0].processEnded(Failure(ConnectionError()))
        self.successResultOf(stopped)


class ProcessTests(SynchronousTestCase):
    def connect(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        argv = [sys.executable, "-m", "wsserver.services.pty_server", str(port), "sh"]
        server = subprocess.Popen(argv)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        peers: list[socket.socket] = []

        def connected() -> bool:
            try:
                peers.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            except OSError:
                return False
            return True

        wait_until(connected)
        self.addCleanup(peers[0].close)
        return server, peers[0]

    def read(self, peer: socket.socket) -> bytes:
        """Return what comes until the end of the connection."""
        said = b""
        while data := peer.recv(1000):
            said += data
        return said

    def test_real(self) -> None:
        """A real shell on a real terminal; it ends with the server."""
        server, peer = self.connect()
        peer.sendall(b"tty && echo $((6*7)) $$\r\0")
        said = b""
        while b"42 " not in said.replace(b"echo", b"") or not said.split(b"42 ")[-1].strip():
            said += peer.recv(1000)
        self.assertIn(b"/dev/pts/", said)
        server.terminate()
        self.assertEqual(server.wait(10), 0)
        self.read(peer)

    def test_exit_with_a_job(self) -> None:
        """The end of the shell ends the connection, though a job holds the terminal."""
        _, peer = self.connect()
        peer.sendall(b"sleep 1000 & echo $((6*7)); exit\r\0")
        self.assertIn(b"42\r\n", self.read(peer))
