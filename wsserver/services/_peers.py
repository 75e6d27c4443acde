"""Who is at the other end of a connection from this host, by the kernel's table of sockets."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_TCP_TABLE = Path("/proc/net/tcp")


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
    # A socket that is closed already shows as root's, without an inode.
    owners = (int(f[7]) for f in fields if f[1:3] == wanted and f[9] != "0")
    return next(owners, None)


def _hex(address: tuple[str, int]) -> str:
    # The kernel prints the address as a number in the order of the machine.
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"
