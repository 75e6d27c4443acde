"""The service behind every server: a process that sends, swallows or echoes on command.

The browser sends a command of 16 bytes through the tunnel, and when it is done another one.
Amounts are exact, so a run ends when the last byte has come through and not when it was sent.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator

from benchmarks.processes import raise_file_limit, running

_COMMAND = struct.Struct(">4sQ4x")
_STATE = struct.Struct(">QQ")

#: Send so many bytes; what comes in meanwhile is counted.
DOWN = b"DOWN"
#: Read so many bytes, then send one.
SINK = b"SINK"
#: Send back so many bytes.
ECHO = b"ECHO"
#: Tell how many connections there were, and how many bytes came in during DOWN.
TELL = b"TELL"


def command(what: bytes, amount: int = 0) -> bytes:
    """Return what the browser sends."""
    return _COMMAND.pack(what, amount)


class Service:
    """The service as its user sees it."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self._line = socket.create_connection(("127.0.0.1", port))

    def accepted(self) -> int:
        """Return how many connections there were so far."""
        return self._tell()[0]

    def input_during_down(self) -> int:
        """Return how many bytes came in on connections that are being sent to."""
        return self._tell()[1]

    def _tell(self) -> tuple[int, int]:
        self._line.sendall(command(TELL))
        accepted, received = _STATE.unpack(self._line.recv(_STATE.size, socket.MSG_WAITALL))
        return accepted, received

    def close(self) -> None:
        self._line.close()


@contextlib.contextmanager
def service() -> Iterator[Service]:
    """Run a service."""
    with running([sys.executable, "-m", "benchmarks.service"]) as process:
        assert process.stdout is not None
        it = Service(int(process.stdout.readline()), process.pid)
        try:
            yield it
        finally:
            it.close()


class _Connection:
    __slots__ = ("head", "left", "pending", "sock", "what")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.what = b""
        self.head = b""
        self.left = 0
        self.pending = b""


class _Loop:
    """One thread over all connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._connections: dict[int, _Connection] = {}
        self._data = memoryview(os.urandom(1 << 20))
        self._waste = memoryview(bytearray(1 << 20))
        self._accepted = 0
        self._received = 0

    def run(self) -> None:
        print(self._listener.getsockname()[1], flush=True)
        while True:
            for fd, events in self._epoll.poll():
                connection = self._connections.get(fd)
                if connection is None:
                    self._accept()
                else:
                    self._serve(connection, events)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections[sock.fileno()] = _Connection(sock)
        self._epoll.register(sock, select.EPOLLIN)
        self._accepted += 1

    def _serve(self, connection: _Connection, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._send(connection)
            if events & ~select.EPOLLOUT:
                self._receive(connection)
        except BlockingIOError:
            pass
        except OSError:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.sock.fileno()]
        connection.sock.close()

    def _watch(self, connection: _Connection, events: int) -> None:
        self._epoll.modify(connection.sock, events)

    def _receive(self, c: _Connection) -> None:
        if c.what == SINK:
            size = c.sock.recv_into(self._waste, min(c.left, len(self._waste)))
            c.left -= size
            if size and not c.left:
                c.what = b""
                c.sock.send(b".")
        elif c.what == ECHO:
            data = c.sock.recv(min(c.left, 1 << 18))
            size = len(data)
            c.left -= size
            c.pending += data
            self._send(c)
        elif c.what == DOWN:
            size = c.sock.recv_into(self._waste)
            self._received += size
        else:
            data = c.sock.recv(_COMMAND.size - len(c.head))
            size = len(data)
            c.head += data
            if len(c.head) == _COMMAND.size:
                self._begin(c)
        if not size:
            self._close(c)

    def _begin(self, c: _Connection) -> None:
        c.what, c.left = _COMMAND.unpack(c.head)
        c.head = b""
        if c.what == TELL:
            c.what = b""
            c.sock.send(_STATE.pack(self._accepted, self._received))
        elif c.what == DOWN:
            self._watch(c, select.EPOLLIN | select.EPOLLOUT)

    def _send(self, c: _Connection) -> None:
        if c.what == DOWN:
            c.left -= c.sock.send(self._data[: c.left])
            done = not c.left
        else:
            c.pending = c.pending[c.sock.send(c.pending) :]
            done = not c.pending
            # A browser that does not read is not read from.
            self._watch(c, select.EPOLLIN if done else select.EPOLLOUT)
            done = done and not c.left
        if done:
            c.what = b""
            self._watch(c, select.EPOLLIN)


if __name__ == "__main__":
    raise_file_limit()
    _Loop().run()
