"""Requests as bytes, for what no well-bred client would send."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from tests.integration.parts import TRUSTING


def dial(port: int, secure: bool = False) -> Any:
    """Return a connection to a server on this machine."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    return TRUSTING.wrap_socket(plain, server_hostname="localhost") if secure else plain


def exchange(port: int, data: bytes, secure: bool = False) -> bytes:
    """Send bytes, and return all that comes until the server hangs up."""
    received = b""
    with dial(port, secure) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(data)
        while chunk := connection.recv(65536):
            received += chunk
    return received


def head_of(port: int, data: bytes, secure: bool = False) -> bytes:
    """Send a request, and return the head of the answer, with what came along; then hang up."""
    received = b""
    with dial(port, secure) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(data)
        while b"\r\n\r\n" not in received and (chunk := connection.recv(4096)):
            received += chunk
    return received


def status_of(port: int, data: bytes, secure: bool = False) -> int:
    """Send a request, and return the status of the answer; 0 is none."""
    head = head_of(port, data, secure)
    return int(head.split(b" ", 2)[1]) if head else 0
