"""A server of terminals: ``python -m wsserver.services.pty_server PORT [COMMAND...]``.

Each connection to the loopback port gets COMMAND, by default a shell, on a terminal of
its own.  It speaks telnet (RFC 854) with the window size of RFC 1073, so that any client
of the standard understands it.

A shell on a port would be everybody's who finds the port: connections of other users of
this host are refused.  Needs Linux for that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys
import termios
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
from twisted.conch.telnet import ECHO, IAC, NAWS, SGA, Telnet
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ProcessProtocol, ServerFactory
from twisted.python.failure import Failure

#: Bytes mean themselves (RFC 856); conch has no name for it.
BINARY = b"\0"
#: How long a command may take to end after the hang-up, in seconds.
PATIENCE = 1.0

_TCP_TABLE = Path("/proc/net/tcp")


class Shell(ProcessProtocol):
    """The command of one connection, on its terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        #: Fires when the command, and all that it left in its session, has ended.
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        """Pass output on."""
        self._terminal.show(data)

    def processEnded(self, reason: Failure) -> None:
        """The command has ended, and its output is complete."""
        self._terminal.over()
        self.ended.callback(None)


class Terminal(Telnet):
    """One connection."""

    factory: Terminals

    _shell: Any = None

    def connectionMade(self) -> None:
        """Start the command for a user of our own; refuse all others."""
        transport: Any = self.transport
        peer, here = transport.getPeer(), transport.getHost()
        if owner((peer.host, peer.port), (here.host, here.port)) != os.getuid():
            print(f"refused a connection of another user, port {peer.port}", file=sys.stderr)
            transport.abortConnection()
            return
        self.negotiationMap[NAWS] = self._resized
        for option in (ECHO, SGA, BINARY):
            self.will(option).addErrback(_unimportant)
        self.do(NAWS).addErrback(_unimportant)
        self._shell = self.factory.spawn(Shell(self))
        # Each side waits for the other, whichever is slow.
        transport.registerProducer(self._shell, True)
        self._shell.registerProducer(transport, True)

    def enableLocal(self, option: bytes) -> bool:
        """Agree to what we have offered."""
        return option in (ECHO, SGA, BINARY)

    def enableRemote(self, option: bytes) -> bool:
        """Agree to be told the size of the window, and nothing else."""
        return option == NAWS

    def disableLocal(self, option: bytes) -> None:
        """The client wants less than we offer: that is its business."""

    def disableRemote(self, option: bytes) -> None:
        """As above."""

    def applicationDataReceived(self, data: bytes) -> None:
        """Type what the client has typed."""
        if self._shell is not None:
            self._shell.write(data)

    def show(self, data: bytes) -> None:
        """Send what the command has printed."""
        transport: Any = self.transport
        transport.write(data.replace(IAC, IAC * 2))

    def over(self) -> None:
        """Close the connection after the last output: the command has ended."""
        self._shell = None
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Hang up."""
        super().connectionLost(reason)
        if self._shell is not None:
            self._shell.unregisterProducer()
            self.factory.end(self._shell)

    def _resized(self, data: Sequence[bytes]) -> None:
        if len(data) == 4 and self._shell is not None:
            columns, rows = struct.unpack("!HH", b"".join(data))
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._shell.fd, termios.TIOCSWINSZ, size)


class Terminals(ServerFactory):
    """All connections."""

    noisy = False

    def __init__(self, reactor: Any, argv: Sequence[str]) -> None:
        self._reactor = reactor
        self._argv = list(argv)
        self._shells: dict[int, Shell] = {}

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection."""
        terminal = Terminal()
        terminal.factory = self
        # The table of the class is everybody's.
        terminal.negotiationMap = dict(terminal.negotiationMap)
        return terminal

    def spawn(self, shell: Shell) -> Any:
        """Start the command; return its process transport."""
        env = {**os.environ, "TERM": "xterm-256color"}
        process = self._reactor.spawnProcess(shell, self._argv[0], self._argv, env, usePTY=True)
        number: int = process.pid
        self._shells[number] = shell
        shell.ended.addCallback(lambda _: self._ended(number))
        return process

    def end(self, process: Any) -> None:
        """Hang up a command; what has not ended in time is killed."""
        number: int = process.pid
        process.loseConnection()
        _signal([number], signal.SIGHUP)
        late = self._reactor.callLater(PATIENCE, _kill_session, number)
        self._shells[number].ended.addCallback(lambda _: late.cancel() if late.active() else None)

    def stop(self) -> Deferred[Any]:
        """End every command, at the end of this process."""
        endings = [shell.ended for shell in self._shells.values()]
        for number in list(self._shells):
            _signal([number], signal.SIGHUP)
            self._reactor.callLater(PATIENCE, _kill_session, number)
        return DeferredList(endings)

    def _ended(self, number: int) -> None:
        del self._shells[number]
        _kill_session(number)


def owner(client: tuple[str, int], server: tuple[str, int], table: Path = _TCP_TABLE) -> int | None:
    """Return the number of the user whose socket is at the client's end of a connection.

    The table is that of proc(5), /proc/net/tcp; None where it does not have the socket.
    """
    wanted = [_hex(client), _hex(server)]
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return None
    fields = (line.split() for line in lines)
    return next((int(field[7]) for field in fields if field[1:3] == wanted), None)


def _hex(address: tuple[str, int]) -> str:
    # The kernel prints the address as a number in the order of the machine.
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"


def _kill_session(number: int) -> None:
    """Kill what is left of the session of a command: its jobs have groups of their own."""
    _signal(_members(number), signal.SIGKILL)


def _members(session: int) -> Iterable[int]:
    for number in psutil.pids():
        try:
            if os.getsid(number) == session:
                yield number
        except (ProcessLookupError, PermissionError):
            continue


def _signal(numbers: Iterable[int], signal_number: int) -> None:
    for number in numbers:
        try:
            os.kill(number, signal_number)
        except ProcessLookupError:
            continue


def _unimportant(failure: Failure) -> None:
    """A client may refuse any option, or leave before it answers."""


def main(argv: Sequence[str]) -> None:
    """Serve until SIGTERM: PORT [COMMAND...]."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    shell = os.environ.get("SHELL") or "/bin/sh"
    terminals = Terminals(reactor, argv[1:] or [shell])
    reactor.listenTCP(int(argv[0]), terminals, interface="127.0.0.1")
    reactor.addSystemEventTrigger("before", "shutdown", terminals.stop)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
