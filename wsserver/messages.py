"""What the server and a supervisor say to one another, over a socket, with open files.

A message is a length of four bytes, then what `marshal` makes of a tuple: both ends run the
same Python, and are ours.
"""

from __future__ import annotations

import marshal
import os
import socket

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def send(peer: socket.socket, message: Sequence[Any], handles: Sequence[int] = ()) -> None:
    """Send a message, and open files with it."""
    data = marshal.dumps(tuple(message))
    socket.send_fds(peer, [len(data).to_bytes(4, "big")], handles)
    peer.sendall(data)


def receive(peer: socket.socket) -> tuple[Any, list[int]]:
    """Return a message and the open files that came with it.

    Raises:
        EOFError: the other side has gone.
    """
    size, handles, _, _ = socket.recv_fds(peer, 4, 3)
    for handle in handles:
        # Python lets them in as inheritable, whatever the flags.
        os.set_inheritable(handle, False)
    data = bytearray()
    while len(size) < 4 or len(data) < int.from_bytes(size, "big"):
        if len(size) < 4 or not (more := peer.recv(int.from_bytes(size, "big") - len(data))):
            raise EOFError
        data += more
    return marshal.loads(data), handles  # noqa: S302  both ends are ours
