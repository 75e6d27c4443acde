"""A server of terminals: ``python -m wsserver.services.pty_server PORT [COMMAND...]``.

Each connection to the loopback port gets COMMAND, by default a shell, on a terminal of
its own.  It speaks telnet (RFC 854) with the window size of RFC 1073, so that any client
of the standard understands it.  A browser takes whatever comes over a websocket, however
slowly it shows it: timing marks (RFC 860) in the output tell how far it has come.

A shell on a port would be everybody's who finds the port: connections of other users of
this host are refused.  Needs Linux for that.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import psutil
from twisted.conch.telnet import ECHO, IAC, NAWS, SGA, Telnet
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import ProcessProtocol, ServerFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from wsserver.services._peers import owner

#: Bytes mean themselves (RFC 856); conch has no name for it.
BINARY = b"\0"
#: The other side answers it when it has done all that came before (RFC 860).
TIMING_MARK = b"\x06"
#: How much is printed between two marks, in bytes, and how many may wait for their answer.
MARK_EVERY = 64 * 1024
MAX_MARKS = 4
#: How long a command may take to end after the hang-up, in seconds.
PATIENCE = 1.0


class Shell(ProcessProtocol):
    """The command of one connection, on its terminal."""

    transport: Any
    #: The number of the process, and of its session.
    number: int

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        #: Fires when the command, and all that it left in its session, has ended.
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """Keep the number, which the transport forgets when the process ends."""
        self.number = self.transport.pid

    def outReceived(self, data: bytes) -> None:
        """Pass output on."""
        self._terminal.show(data)

    def processExited(self, reason: Failure) -> None:
        """Kill what the command has left: it would keep the terminal open."""
        _kill_session(self.number)

    def processEnded(self, reason: Failure) -> None:
        """The command has ended, and its output is complete."""
        self._terminal.over()
        self.ended.callback(None)


@implementer(IPushProducer)
class Terminal(Telnet):
    """One connection."""

    factory: Terminals

    _shell: Shell | None = None
    #: The socket takes no more at the moment.
    _full = False
    #: Bytes since the last mark, and marks without an answer.
    _unmarked = 0
    _marks = 0

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
        self._shell = Shell(self)
        self.factory.spawn(self._shell)
        # Each side waits for the other, whichever is slow.
        transport.registerProducer(self, True)
        self._shell.transport.registerProducer(transport, True)

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
            self._shell.transport.write(data)

    def telnet_WILL(self, option: bytes) -> None:
        """Take the answer to a mark, or an option."""
        if option == TIMING_MARK:
            self._answered()
        else:
            super().telnet_WILL(option)

    def telnet_WONT(self, option: bytes) -> None:
        """As above: one who does not know marks refuses them, in time as well."""
        if option == TIMING_MARK:
            self._answered()
        else:
            super().telnet_WONT(option)

    def show(self, data: bytes) -> None:
        """Send what the command has printed."""
        transport: Any = self.transport
        transport.write(data.replace(IAC, IAC * 2))
        self._unmarked += len(data)
        if self._unmarked >= MARK_EVERY:
            self._unmarked = 0
            self._marks += 1
            self._do(TIMING_MARK)
            self._flow()

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._full = True
        self._flow()

    def resumeProducing(self) -> None:
        """The socket is empty again."""
        self._full = False
        self._flow()

    def stopProducing(self) -> None:
        """The client has left; `connectionLost` comes next."""

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
            self.factory.end(self._shell)

    def _answered(self) -> None:
        self._marks = max(0, self._marks - 1)
        self._flow()

    def _flow(self) -> None:
        if self._shell is None:
            return
        if self._full or self._marks >= MAX_MARKS:
            self._shell.transport.pauseProducing()
        else:
            self._shell.transport.resumeProducing()

    def _resized(self, data: Sequence[bytes]) -> None:
        if len(data) == 4 and self._shell is not None:
            columns, rows = struct.unpack("!HH", b"".join(data))
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._shell.transport.fd, termios.TIOCSWINSZ, size)


class Terminals(ServerFactory):
    """All connections."""

    noisy = False

    def __init__(self, reactor: Any, argv: Sequence[str]) -> None:
        self._reactor = reactor
        self._argv = list(argv)
        self._shells: set[Shell] = set()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new connection."""
        terminal = Terminal()
        terminal.factory = self
        # The table of the class is everybody's.
        terminal.negotiationMap = dict(terminal.negotiationMap)
        return terminal

    def spawn(self, shell: Shell) -> None:
        """Start the command."""
        env = {**os.environ, "TERM": "xterm-256color"}
        self._shells.add(shell)
        shell.ended.addCallback(lambda _: self._shells.discard(shell))
        self._reactor.spawnProcess(shell, self._argv[0], self._argv, env, usePTY=True)

    def end(self, shell: Shell) -> None:
        """Hang up a command; what has not ended in time is killed."""
        process = shell.transport
        process.unregisterProducer()
        process.loseConnection()
        # Without a number it has ended already.
        if process.pid is not None:
            _signal([shell.number], signal.SIGHUP)
        late = self._reactor.callLater(PATIENCE, _kill_session, shell.number)
        shell.ended.addCallback(lambda _: late.cancel() if late.active() else None)

    def stop(self) -> Deferred[Any]:
        """End every command, at the end of this process."""
        shells = list(self._shells)
        for shell in shells:
            self.end(shell)
        return DeferredList([shell.ended for shell in shells])


def default_shell(env: Mapping[str, str], exists: Callable[[str], bool] = os.path.exists) -> str:
    """Return the shell of the user, else the best there is."""
    return env.get("SHELL") or ("/bin/bash" if exists("/bin/bash") else "/bin/sh")


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
        except (ProcessLookupError, PermissionError):
            # Gone, or become somebody else's by sudo.
            continue


def _unimportant(failure: Failure) -> None:
    """A client may refuse any option, or leave before it answers."""


def main(argv: Sequence[str]) -> None:
    """Serve until SIGTERM: PORT [COMMAND...]."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    terminals = Terminals(reactor, argv[1:] or [default_shell(os.environ)])
    reactor.listenTCP(int(argv[0]), terminals, interface="127.0.0.1")
    reactor.addSystemEventTrigger("before", "shutdown", terminals.stop)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
