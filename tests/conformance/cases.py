"""Cases 1-7 and 10 for where no CPython 2.7 is: numbered as in the suite, from RFC 6455.

The suite is the judge where it can run; `make conformance` then compares the two.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from tests.wires import close, frame

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
#: A message that was received: opcode and payload.
Message = tuple[int, bytes]
#: In what is sent: go on only if the websocket is not closed within a moment.
WAIT = b"wait"

NORMAL, PROTOCOL, INVALID = {1000}, {1002}, {1007}
#: How a control frame, and a text in two fragments, are sent: whole, per frame, per byte.
CHOPS = ("whole", "frames", "bytes")


class Case(NamedTuple):
    """What is sent, in pieces; what must come back; and with which codes it is closed."""

    name: str
    pieces: list[bytes]
    back: list[Message]
    codes: set[int]
    #: Before this piece the websocket must be closed, if it is to fail fast.
    fast: int | None = None


def cases() -> Iterator[Case]:
    """Yield every case."""
    yield from _messages()
    yield from _pings()
    yield from _reserved()
    yield from _fragments()
    yield from _texts()
    yield from _closes()
    pieces = [frame(b"*" * 1300, TEXT, False)]
    pieces += [frame(b"*" * 1300, 0, False)] * 49 + [frame(b"*" * (65536 - 50 * 1300), 0)]
    yield Case("10.1.1", pieces, [(TEXT, b"*" * 65536)], NORMAL)


def _rsv(whole: bytes, bits: int) -> bytes:
    return bytes([whole[0] | bits << 4]) + whole[1:]


def _chopped(frames: list[bytes], how: str) -> list[bytes]:
    if how == "frames":
        return frames
    whole = b"".join(frames)
    return [whole] if how == "whole" else _pieces(whole, 1)


def _pieces(whole: bytes, size: int) -> list[bytes]:
    return [whole[i : i + size] for i in range(0, len(whole), size)]


def _messages() -> Iterator[Case]:
    for kind, opcode, byte in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for number, size in enumerate((0, 125, 126, 127, 128, 65535, 65536, 65536), 1):
            whole = frame(byte * size, opcode)
            pieces = _pieces(whole, 997) if number == 8 else [whole]
            yield Case(f"1.{kind}.{number}", pieces, [(opcode, byte * size)], NORMAL)


def _pings() -> Iterator[Case]:
    odd, long = bytes.fromhex("00fffefdfcfb00ff"), b"\xfe" * 125
    for number, payload in enumerate((b"", b"Hello, world!", odd, long), 1):
        yield Case(f"2.{number}", [frame(payload, PING)], [(PONG, payload)], NORMAL)
    yield Case("2.5", [frame(long + b"\xfe", PING)], [], PROTOCOL)
    yield Case("2.6", _pieces(frame(long, PING), 1), [(PONG, long)], NORMAL)
    yield Case("2.7", [frame(b"", PONG)], [], NORMAL)
    yield Case("2.8", [frame(b"unsolicited", PONG)], [], NORMAL)
    both = [frame(b"unsolicited", PONG), frame(b"ping", PING)]
    yield Case("2.9", both, [(PONG, b"ping")], NORMAL)
    payloads = [b"payload-%d" % number for number in range(10)]
    pings, pongs = [frame(p, PING) for p in payloads], [(PONG, p) for p in payloads]
    yield Case("2.10", pings, pongs, NORMAL)
    yield Case("2.11", _chopped(pings, "bytes"), pongs, NORMAL)


def _reserved() -> Iterator[Case]:
    """Bits and opcodes that mean nothing here (RFC 6455, section 5.2)."""
    first, back, ping = frame(b"Hello", TEXT), [(TEXT, b"Hello")], frame(b"", PING)
    yield Case("3.1", [_rsv(first, 1)], [], PROTOCOL)
    for bits, how in ((2, "whole"), (3, "frames"), (4, "bytes")):
        pieces = _chopped([first, _rsv(first, bits), ping], how)
        yield Case(f"3.{bits}", pieces, back, PROTOCOL)
    for bits, wrong in ((5, frame(b"\0\xff", BINARY)), (6, ping), (7, close())):
        yield Case(f"3.{bits}", [_rsv(wrong, bits)], [], PROTOCOL)
    for kind, base in ((1, 3), (2, 11)):
        for number, payload in enumerate((b"", b"reserved"), 1):
            wrong = frame(payload, base + number - 1)
            yield Case(f"4.{kind}.{number}", [wrong], [], PROTOCOL)
        for number, (payload, how) in enumerate(
            ((b"", "whole"), (b"reserved", "frames"), (b"reserved", "bytes")), 3
        ):
            pieces = _chopped([first, frame(payload, base + number - 1), ping], how)
            yield Case(f"4.{kind}.{number}", pieces, back, PROTOCOL)


def _fragments() -> Iterator[Case]:
    begin, end = frame(b"fragment1", TEXT, False), frame(b"fragment2", 0)
    whole, ping = [(TEXT, b"fragment1fragment2")], frame(b"ping", PING)
    for number, opcode in ((1, PING), (2, PONG)):
        pieces = [frame(b"fragment1", opcode, False), end]
        yield Case(f"5.{number}", pieces, [], PROTOCOL)
    lost = {9: frame(b"lost", 0), 12: frame(b"lost", 0, False)}
    for step, how in enumerate(CHOPS):
        yield Case(f"5.{3 + step}", _chopped([begin, end], how), whole, NORMAL)
        back = [(PONG, b"ping"), *whole]
        yield Case(f"5.{6 + step}", _chopped([begin, ping, end], how), back, NORMAL)
        for number, wrong in lost.items():
            pieces = _chopped([wrong, frame(b"Hello", TEXT)], how)
            yield Case(f"5.{number + step}", pieces, [], PROTOCOL)
    yield Case("5.15", [begin + end + lost[12] + frame(b"Hello", TEXT)], whole, PROTOCOL)
    yield Case("5.16", [lost[12], begin, end] * 2, [], PROTOCOL)
    yield Case("5.17", [lost[9], begin, end] * 2, [], PROTOCOL)
    yield Case("5.18", [begin + frame(b"fragment2", TEXT)], [], PROTOCOL)
    more = [frame(b"fragment%d" % n, 0, n == 5) for n in range(2, 6)]
    pieces = [begin, more[0], ping, WAIT, more[1], more[2], ping, more[3]]
    text = b"".join(b"fragment%d" % n for n in range(1, 6))
    for number in (19, 20):
        back = [(PONG, b"ping"), (PONG, b"ping"), (TEXT, text)]
        yield Case(f"5.{number}", pieces, back, NORMAL)


#: UTF-8, well formed or not (RFC 3629), by the number of its case: what Python decodes
#: is well formed.
SEQUENCES = {
    "6.5": "68656c6c6f24776f726c64 68656c6c6fc2a2776f726c64 68656c6c6fe282ac776f726c64 "
    "68656c6c6ff0a4ada2776f726c64 cebae1bdb9cf83cebcceb5",
    "6.6": "ce ceba cebae1 cebae1bd cebae1bdb9 cebae1bdb9cf cebae1bdb9cf83 cebae1bdb9cf83ce "
    "cebae1bdb9cf83cebc cebae1bdb9cf83cebcce cebae1bdb9cf83cebcceb5",
    "6.7": "00 c280 e0a080 f0908080",
    "6.8": "f888808080 fc8480808080",
    "6.9": "7f dfbf efbfbf f48fbfbf",
    "6.10": "f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf",
    "6.11": "ed9fbf ee8080 efbfbd f48fbfbf f4908080",
    "6.12": "80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf " + bytes(range(0x80, 0xBF)).hex(),
    "6.13": " ".join(
        "".join(f"{byte:02x}20" for byte in bytes_)
        for bytes_ in (
            range(0xC0, 0xDF),
            range(0xE0, 0xEF),
            range(0xF0, 0xF7),
            range(0xF8, 0xFB),
            [0xFC],
        )
    ),
    "6.14": "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf",
    "6.15": "c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf",
    "6.16": "fe ff fefeffff",
    "6.17": "c0af e080af f08080af f8808080af fc80808080af",
    "6.18": "c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf",
    "6.19": "c080 e08080 f0808080 f880808080 fc8080808080",
    "6.20": "eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf",
    "6.21": "eda080edb080 eda080edbfbf edadbfedb080 edadbfedbfbf edae80edb080 edae80edbfbf "
    "edafbfedb080 edafbfedbfbf",
    # The last two code points of each plane.
    "6.22": " ".join(
        chr(plane << 16 | low).encode().hex() for plane in range(17) for low in (0xFFFE, 0xFFFF)
    ),
    "6.23": " ".join(chr(point).encode().hex() for point in range(0xFFF9, 0x10000)),
}


def _texts() -> Iterator[Case]:
    """Text is UTF-8, in whatever pieces it comes (RFC 6455, section 8.1)."""
    nothing = [frame(b"", TEXT, False), frame(b"", 0, False), frame(b"", 0)]
    middle = [nothing[0], frame(b"middle", 0, False), nothing[2]]
    yield Case("6.1.1", [frame(b"", TEXT)], [(TEXT, b"")], NORMAL)
    yield Case("6.1.2", nothing, [(TEXT, b"")], NORMAL)
    yield Case("6.1.3", middle, [(TEXT, b"middle")], NORMAL)
    hello, greek = "Hello-µ@ßöäüàá-UTF-8!!".encode(), "κόσμε".encode()
    yield Case("6.2.1", [frame(hello, TEXT)], [(TEXT, hello)], NORMAL)
    halves = [frame(hello[:15], TEXT, False), frame(hello[15:], 0)]
    yield Case("6.2.2", halves, [(TEXT, hello)], NORMAL)
    yield Case("6.2.3", _bytewise(hello), [(TEXT, hello)], NORMAL)
    yield Case("6.2.4", _bytewise(greek), [(TEXT, greek)], NORMAL)
    wrong = greek + b"\xed\xa0\x80edited"
    yield Case("6.3.1", [frame(wrong, TEXT)], [], INVALID)
    yield Case("6.3.2", _bytewise(wrong), [], INVALID)
    yield from _fast_failures(greek)
    for group, sequences in SEQUENCES.items():
        for number, sequence in enumerate(map(bytes.fromhex, sequences.split()), 1):
            good = sequence.decode("utf-8", "ignore").encode() == sequence
            back, codes = ([(TEXT, sequence)], NORMAL) if good else ([], INVALID)
            yield Case(f"{group}.{number}", [frame(sequence, TEXT)], back, codes)


def _fast_failures(greek: bytes) -> Iterator[Case]:
    """No code point lies above U+10FFFF, which shows at the second byte already."""
    for number, parts in (
        (1, (greek, b"\xf4\x90\x80\x80", b"edited")),
        (2, (greek + b"\xf4", b"\x90", b"\x80\x80edited")),
    ):
        first, second, third = parts
        frames = [frame(first, TEXT, False), WAIT, frame(second, 0, False), WAIT, frame(third, 0)]
        yield Case(f"6.4.{number}", frames, [], INVALID, fast=4)
        whole = frame(b"".join(parts), TEXT)
        cut, again = len(whole) - len(second + third), len(whole) - len(third)
        pieces = [whole[:cut], WAIT, whole[cut:again], WAIT, whole[again:]]
        yield Case(f"6.4.{number + 2}", pieces, [], INVALID, fast=4)


def _bytewise(text: bytes) -> list[bytes]:
    last = len(text) - 1
    return [frame(text[i : i + 1], TEXT if i == 0 else 0, i == last) for i in range(len(text))]


def _closes() -> Iterator[Case]:
    """Closing (RFC 6455, sections 5.5.1 and 7.4)."""
    hello, ping = frame(b"Hello", TEXT), frame(b"ping", PING)
    yield Case("7.1.1", [hello, WAIT, close()], [(TEXT, b"Hello")], NORMAL)
    yield Case("7.1.2", [close(), close()], [], NORMAL)
    yield Case("7.1.3", [close(), ping], [], NORMAL)
    yield Case("7.1.4", [close(), hello], [], NORMAL)
    fragments = [frame(b"fragment1", TEXT, False), frame(b"fragment2", 0)]
    yield Case("7.1.5", [fragments[0], close(), fragments[1]], [], NORMAL)
    long = b"B" * 256 * 1024
    yield Case("7.1.6", [frame(long, TEXT), close(), ping], [(TEXT, long)], NORMAL)
    reason = struct.pack(">H", 1000) + b"Hello, world!"
    longest = struct.pack(">H", 1000) + b"*" * 123
    for number, (payload, codes) in enumerate(
        (
            (b"", NORMAL | {1005}),
            (b"a", PROTOCOL),
            (reason[:2], NORMAL),
            (reason, NORMAL),
            (longest, NORMAL),
            (longest + b"*", PROTOCOL),
        ),
        1,
    ):
        yield Case(f"7.3.{number}", [frame(payload, CLOSE)], [], codes)
    invalid = reason + "κόσμε".encode() + b"\xed\xa0\x80"
    yield Case("7.5.1", [frame(invalid, CLOSE)], [], PROTOCOL | INVALID)
    good = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    for number, code in enumerate(good, 1):
        yield Case(f"7.7.{number}", [close(code)], [], {1000, code})
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield Case(f"7.9.{number}", [close(code)], [], PROTOCOL)
    for number, code in enumerate((5000, 65535), 1):
        yield Case(f"7.13.{number}", [close(code)], [], {1000, code} | PROTOCOL)
