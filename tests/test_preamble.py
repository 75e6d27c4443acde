"""The PROXY header of both versions is understood, and nothing else is taken for one."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from wsserver.preamble import MAX_BINARY, preamble

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def binary(body: bytes, command: int = 1, family: int = 0x11, size: int | None = None) -> bytes:
    """Return a header of version 2."""
    length = len(body) if size is None else size
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", length) + body


def addresses(source: str, target: str, *ports: int) -> bytes:
    return b"".join(ip_address(a).packed for a in (source, target)) + struct.pack("!2H", *ports)


FOUR = addresses("203.0.113.7", "127.0.0.1", 4711, 443)
SIX = addresses("2001:db8::7", "::1", 4711, 443)

HEADERS = [
    (b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n", ("203.0.113.7", 4711)),
    (b"PROXY TCP6 2001:DB8:0:0::7 ::1 4711 443\r\n", ("2001:db8::7", 4711)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN \r\n", None),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
    (binary(FOUR), ("203.0.113.7", 4711)),
    (binary(SIX, family=0x21), ("2001:db8::7", 4711)),
    # Whatever follows the addresses is for others.
    (binary(FOUR + b"\x04\0\x01x"), ("203.0.113.7", 4711)),
    (binary(b"", command=0, family=0), None),
    (binary(FOUR, command=0), None),
    (binary(b"/run/a".ljust(108, b"\0") * 2, family=0x31), None),
    (binary(FOUR, family=0), None),
]

NONSENSE = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01",
    b"PROXY\r\n\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4 203.0.113.7\r\n",
    b"PROXY TCP4 localhost 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 \xff\xff 127.0.0.1 1 2\r\n",
    b"PROXY TCP4 203.0.113.7 127.0.0.1 a b\r\n",
    b"PROXY TCP5 203.0.113.7 127.0.0.1 1 2\r\n",
    b"PROXY " + b"x" * 101,
    SIGNATURE + b"\x31\x11\0\x0c" + FOUR,
    binary(FOUR, command=2),
    binary(FOUR[:4]),
    binary(FOUR, family=0x41),
    binary(FOUR, family=0x13),
    binary(b"", size=MAX_BINARY),
]


class PreambleTests(SynchronousTestCase):
    def test_headers(self) -> None:
        """Either version tells who is behind, and what follows is kept as it is."""
        for header, expected in HEADERS:
            for rest in (b"", b"GET / HTTP/1.1\r\n\r\n"):
                found = preamble(header + rest)
                assert found is not None, header
                client, left = found
                self.assertEqual(client and (client.host, client.port), expected, header)
                self.assertEqual(left, rest)

    def test_kinds(self) -> None:
        """Addresses are those of Twisted."""
        for header, kind in ((HEADERS[0], IPv4Address), (HEADERS[1], IPv6Address)):
            found = preamble(header[0])
            assert found is not None
            self.assertIsInstance(found[0], kind)

    def test_pieces(self) -> None:
        """A header may come in pieces of any size."""
        for header, _ in HEADERS:
            for end in range(len(header)):
                self.assertIsNone(preamble(header[:end]), header[:end])

    def test_nonsense(self) -> None:
        """What is no such header is refused, and no later than it is known."""
        for data in NONSENSE:
            with self.assertRaises(ValueError, msg=data) as caught:
                preamble(data)
            self.assertIn("PROXY header", str(caught.exception))
