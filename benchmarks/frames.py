"""Websocket frames (RFC 6455): masked ones to send, and the payload of those received."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

BINARY, CLOSE = 2, 8
#: Frames from here on carry no payload of the tunnel: close, ping, pong.
_CONTROL = 8


def masked(payload: bytes, opcode: int = BINARY) -> bytes:
    """Return a frame as a browser sends it, with a mask of its own."""
    size = len(payload)
    if size < 126:
        head = struct.pack(">BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = os.urandom(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    body = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return head + mask + body


class Payloads:
    """Takes a server's frames, however they are cut, and gives the payload of data frames."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._wanted = False

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Yield the pieces of payload in ``data``."""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if self._wanted:
                    yield piece
            else:
                take = data[at : at + self._missing()]
                at += len(take)
                self._head += take
                if not self._missing():
                    self._begin()

    def _missing(self) -> int:
        """Return how many bytes of the head are still to come."""
        head = self._head
        if len(head) < 2:
            return 2 - len(head)
        return 2 + {126: 2, 127: 8}.get(head[1], 0) - len(head)

    def _begin(self) -> None:
        head = self._head
        self._left = head[1] if len(head) == 2 else int.from_bytes(head[2:], "big")
        self._wanted = head[0] & 15 < _CONTROL
        head.clear()


class Raw:
    """Payload without frames: plain TCP."""

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Yield all of ``data``."""
        yield data
