"""The browser's end of a tunnel: blocking sockets, and no more work than must be."""

from __future__ import annotations

import base64
import os
import selectors
import socket
import ssl
from collections.abc import Callable, Sequence

from benchmarks.frames import CLOSE, Payloads, Raw, masked

#: After so long without a byte a server is given up, in seconds.
STUCK = 30.0

_BUFFER = memoryview(bytearray(1 << 18))


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_TLS = _tls()


class Browser:
    """One connection to a server.

    ``framing`` is "ws" or "raw".  Nothing is sent before ``ask``, nothing is awaited before
    ``opened``, so that several may open at one time.
    """

    def __init__(self, port: int, framing: str = "ws", tls: bool = False, path: str = "/") -> None:
        self.framing = framing
        self._path = path
        sock = socket.create_connection(("127.0.0.1", port), 30)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = _TLS.wrap_socket(sock) if tls else sock
        self._payloads = Payloads() if framing == "ws" else Raw()
        self._rest = b""

    def ask(self) -> Browser:
        """Send the handshake."""
        if self.framing == "ws":
            key = base64.b64encode(os.urandom(16)).decode()
            lines = [
                f"GET {self._path} HTTP/1.1",
                "Host: 127.0.0.1",
                "Upgrade: websocket",
                "Connection: Upgrade",
                f"Sec-WebSocket-Key: {key}",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Protocol: binary",
            ]
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return self

    def opened(self) -> Browser:
        """Read the answer to the handshake."""
        if self.framing == "ws":
            head = b""
            while b"\r\n\r\n" not in head:
                data = self.sock.recv(4096)
                if not data:
                    raise ConnectionError(f"closed during the handshake after {head!r}")
                head += data
            if not head.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(head.decode("latin-1"))
            # A service that speaks first may be quick.
            self._rest = head.partition(b"\r\n\r\n")[2]
        return self

    def wrap(self, payload: bytes) -> bytes:
        """Return payload as it goes over the wire."""
        return masked(payload) if self.framing == "ws" else payload

    def send(self, payload: bytes) -> None:
        """Send one message."""
        self.sock.sendall(self.wrap(payload))

    def read(self, size: int) -> bytes:
        """Return so many bytes of payload."""
        got = bytearray()
        if self._rest:
            for piece in self._payloads.feed(memoryview(self._rest)):
                got += piece
            self._rest = b""
        while len(got) < size:
            for piece in self._payloads.feed(self._some()):
                got += piece
        assert len(got) == size, (len(got), size)
        return bytes(got)

    def swallow(self) -> int:
        """Read what is there, and return how much payload that is."""
        return sum(map(len, self._payloads.feed(self._some())))

    def _some(self) -> memoryview:
        size = self.sock.recv_into(_BUFFER)
        if not size:
            raise ConnectionError("the server has closed the connection")
        return _BUFFER[:size]

    def close(self) -> None:
        """Close as a browser does that navigates away: a close frame, and no waiting."""
        try:
            if self.framing == "ws":
                self.sock.sendall(masked(b"\x03\xe8", CLOSE))
        except OSError:
            pass
        self.sock.close()


def open_many(count: int, connect: Callable[[], Browser], batch: int = 10) -> list[Browser]:
    """Open connections, so many at one time; ``connect`` returns a Browser."""
    browsers: list[Browser] = []
    while len(browsers) < count:
        new = [connect() for _ in range(min(batch, count - len(browsers)))]
        for browser in new:
            browser.ask()
        browsers += [browser.opened() for browser in new]
    return browsers


def swallow_all(browsers: Sequence[Browser], each: int) -> None:
    """Read ``each`` bytes of payload from every browser."""
    if len(browsers) == 1:
        left = each
        while left:
            left -= browsers[0].swallow()
        return
    with selectors.DefaultSelector() as selector:
        lefts = dict.fromkeys(browsers, each)
        for browser in browsers:
            selector.register(browser.sock, selectors.EVENT_READ, browser)
        while lefts:
            if not (ready := selector.select(STUCK)):
                raise TimeoutError("bytes that were sent do not arrive")
            for key, _ in ready:
                browser = key.data
                lefts[browser] -= browser.swallow()
                if not lefts[browser]:
                    del lefts[browser]
                    selector.unregister(browser.sock)
