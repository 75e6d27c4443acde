"""The control session: a process that echoes all the time, and tells how long it took.

Usage: python -m tests.faults.control PORT TOKEN.  Each line on standard input is answered
with the number of echoes since the last one, the median, the 99th percentile and the
longest, in milliseconds.  A session that breaks ends the process.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from tests.faults.wire import frame
from tests.wires import request

PERIOD = 0.02


def read(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        if not (more := sock.recv(size - len(got))):
            raise EOFError("the control session has ended")
        got += more
    return got


def echoed(sock: socket.socket, word: bytes) -> None:
    """Send a few bytes, and wait for them; answer pings."""
    sock.sendall(frame(word))
    while True:
        head = read(sock, 2)
        payload = read(sock, head[1])
        if head[0] & 15 == 9:
            sock.sendall(frame(payload, 10))
        elif payload == word:
            return
        else:
            raise ValueError(f"the control session received {head + payload!r}")


def summary(lags: list[float]) -> str:
    if not lags:
        return "0 0 0 0"
    lags.sort()
    return (
        f"{len(lags)} {lags[len(lags) // 2]:.2f} {lags[len(lags) * 99 // 100]:.2f} {lags[-1]:.2f}"
    )


def main(port: str, token: str) -> None:
    sock = socket.create_connection(("127.0.0.1", int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request(f"?token={token}"))
    while not (head := sock.recv(1, socket.MSG_PEEK)) or b"\r\n\r\n" not in head:
        head = sock.recv(4096, socket.MSG_PEEK)
        if b"\r\n\r\n" in head:
            read(sock, head.index(b"\r\n\r\n") + 4)
            break
    lags: list[float] = []
    while True:
        began = time.monotonic()
        echoed(sock, os.urandom(8))
        lags.append(1000 * (time.monotonic() - began))
        if select.select([sys.stdin], [], [], PERIOD)[0]:
            if not sys.stdin.readline():
                return
            print(summary(lags), flush=True)
            lags = []


if __name__ == "__main__":
    main(*sys.argv[1:])
