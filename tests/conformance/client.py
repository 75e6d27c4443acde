"""Plays a case over a raw socket, and judges as the suite does."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.conformance.cases import CLOSE, WAIT, Case, Message
from tests.integration.parts import TRUSTING
from tests.wires import close, request

#: How long an echo may take, and how long a wait of a case is, in seconds.
PATIENCE, MOMENT = 10.0, 0.5


def verdicts(url: str, cases: Iterable[Case]) -> dict[str, str]:
    """Play cases, several at a time; return the verdict of each."""
    with ThreadPoolExecutor(8) as threads:
        played = list(threads.map(lambda case: (case.name, _play(url, case)), cases))
    return dict(played)


def _play(url: str, case: Case) -> str:
    with Client(url) as client:
        late = False
        for number, piece in enumerate(case.pieces):
            if piece is WAIT:
                client.read(MOMENT, lambda: client.closed)
            elif not client.closed:
                late |= number == case.fast
                client.send(piece)
        client.read(PATIENCE, lambda: client.closed or client.got == case.back)
        theirs = client.closed
        client.send(close())
        client.read(PATIENCE, lambda: client.gone)
    return _verdict(case, client, late, theirs)


def _verdict(case: Case, client: Client, late: bool, theirs: bool) -> str:
    right_code = client.gone and client.code in case.codes
    if right_code and client.got == case.back and not late:
        return "OK"
    if client.gone and client.code == 1003 and not client.got:
        return "1003"
    prefix = client.got == case.back[: len(client.got)]
    # Whether the close came first, or our patience had an end.
    return "NON-STRICT" if right_code and prefix and theirs else "FAILED"


class Client:
    """A websocket whose frames are made by hand."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._socket = socket.create_connection((where.hostname, where.port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if where.scheme == "wss":
            self._socket = TRUSTING.wrap_socket(self._socket)
        self.got: list[Message] = []
        self.code: int | None = None
        #: Whether a close frame has come, and whether the connection has ended after it.
        self.closed = self.gone = False
        self._buffer = bytearray()
        self._socket.sendall(request())
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._socket.recv(4096) or b"\r\n\r\n"
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise AssertionError(f"refused: {head!r}")
        self._buffer = bytearray(rest)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes, if anybody is there."""
        with contextlib.suppress(OSError):
            self._socket.sendall(data)

    def read(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Read for so long at most, or until it is enough."""
        self._socket.settimeout(seconds)
        while not enough() and not self.gone:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return
            except OSError:
                data = b""
            self._buffer += data
            while self._frame():
                pass
            self.gone = not data

    def _frame(self) -> bool:
        """Take a frame of the server: those of ours are never in fragments."""
        data = self._buffer
        if len(data) < 2:
            return False
        extra = {126: 2, 127: 8}.get(data[1], 0)
        length = int.from_bytes(data[2 : 2 + extra], "big") if extra else data[1]
        start = 2 + extra
        if len(data) < start + length:
            return False
        if not data[0] & 0x80 or data[0] & 0x70 or data[1] & 0x80:
            raise AssertionError(f"a wrong frame: {data[:20].hex()}")
        opcode, payload = data[0] & 0x0F, bytes(data[start : start + length])
        del data[: start + length]
        if opcode == CLOSE and not self.closed:
            self.closed = True
            self.code = struct.unpack(">H", payload[:2])[0] if payload else 1005
        elif opcode != CLOSE:
            self.got.append((opcode, payload))
        return True
