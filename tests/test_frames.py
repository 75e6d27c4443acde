"""Frames found and unmasked in a buffer, against a plain reading of RFC 6455."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.wires import frame, frames
from wsserver import frames as module
from wsserver.frames import TAIL_SIZE, Scanner, put_header, unmask

#: A frame of a client, and what a scanner should make of it.
Sent = tuple[bool, bytes]


def plain(payload: bytes) -> tuple[bytes, Sent]:
    return frame(payload), (True, payload)


def foreign(raw: bytes) -> tuple[bytes, Sent]:
    return raw, (False, raw)


def scanned(scanner: Scanner, pieces: Iterable[bytes]) -> list[Sent]:
    """Return what a scanner makes of a stream, neighbours of one kind joined."""
    found: list[tuple[bool, bytearray]] = []
    for piece in pieces:
        buffer = bytearray(scanner.tail + piece)
        for payload, start, end in scanner.scan(buffer, 0, len(buffer)):
            if not found or found[-1][0] != payload:
                found.append((payload, bytearray()))
            found[-1][1].extend(buffer[start:end])
    return [(payload, bytes(data)) for payload, data in found if data]


def joined(sent: Iterable[Sent]) -> list[Sent]:
    """The same of what was sent."""
    found: list[Sent] = []
    for payload, data in sent:
        if not data:
            continue
        if found and found[-1][0] == payload:
            data = found.pop()[1] + data
        found.append((payload, data))
    return found


def cut(stream: bytes, places: Iterable[int]) -> Iterator[bytes]:
    bounds = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    for start, end in pairwise(bounds):
        yield stream[start:end]


SIZES = st.sampled_from([0, 1, 2, 6, 8, 125, 126, 127, 255, 256, 4000, 65535, 65536, 70_001])
PLAIN = SIZES.map(os.urandom).map(plain)
#: Equal short frames in a row: keys and pointer moves of VNC.
ROW = st.tuples(st.integers(0, 125), st.integers(2, 700)).map(
    lambda pair: [plain(os.urandom(pair[0])) for _ in range(pair[1])]
)
CONTROL = st.builds(
    lambda size, opcode: foreign(frame(os.urandom(size), opcode)),
    st.integers(0, 125),
    st.sampled_from([8, 9, 10]),
)


def message(parts: list[bytes], pings: list[bytes]) -> list[tuple[bytes, Sent]]:
    """A fragmented message with pings between its fragments."""
    made = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        made.append(foreign(frame(part, 0 if number else 2, fin=last)))
        if not last and pings:
            made.append(foreign(frame(pings.pop(), 9)))
    return made


FRAGMENTS = st.builds(
    message,
    st.lists(SIZES.map(os.urandom), min_size=2, max_size=4),
    st.lists(st.binary(max_size=125), max_size=3),
)
STREAM = st.lists(
    st.one_of(PLAIN.map(lambda one: [one]), ROW, CONTROL.map(lambda one: [one]), FRAGMENTS),
    max_size=8,
).map(lambda groups: [one for group in groups for one in group])


class ScannerTests(SynchronousTestCase):
    @given(STREAM, st.lists(st.integers(0, 10**7), max_size=12))
    @settings(deadline=None, max_examples=150)
    def test_any_stream(self, sent: list[tuple[bytes, Sent]], places: list[int]) -> None:
        """However a stream is cut, plain payload and other frames come in order, unchanged."""
        stream = b"".join(raw for raw, _ in sent)
        scanner = Scanner()
        found = scanned(scanner, cut(stream, places))
        self.assertEqual(found, joined(meant for _, meant in sent))
        self.assertEqual(scanner.tail, b"")

    def test_byte_by_byte(self) -> None:
        """A stream may come byte by byte; what is kept of a header has a limit."""
        sent = [plain(b"12345678"), foreign(frame(b"ping", 9)), plain(os.urandom(70_000))]
        stream = b"".join(raw for raw, _ in sent)
        scanner = Scanner()
        found: list[Sent] = []
        for number in range(len(stream)):
            found += scanned(scanner, [stream[number : number + 1]])
            self.assertLessEqual(len(scanner.tail), TAIL_SIZE)
        self.assertEqual(joined(found), joined(meant for _, meant in sent))

    def test_not_plain(self) -> None:
        """Text, continuations, reserved bits and opcodes, unmasked frames, lengths written
        the long way: all these are left as they are."""
        for raw in (
            frame(b"text", 1),
            frame(b"lost", 0),
            frame(b"reserved", 3),
            b"\xc2" + frame(b"compressed")[1:],
            b"\x82\x02ab",
            b"\x82\xfe\x00\x7d" + bytes(4) + bytes(125),
            b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(4) + bytes(65535),
        ):
            self.assertEqual(scanned(Scanner(), [raw]), [(False, raw)])

    def test_limit(self) -> None:
        """A frame above the limit is left to somebody who refuses it."""
        for limit in (0, 5, 100, 1000, 100_000):
            for size in (5, 6, 100, 101, 1000, 1001, 100_000, 100_001):
                raw, payload = frame(b"x" * size), b"x" * size
                fits = not limit or size <= limit
                expected = (True, payload) if fits else (False, raw)
                self.assertEqual(scanned(Scanner(limit), [raw]), [expected])

    def test_huge_length(self) -> None:
        """A frame that announces more than there can be is nothing special."""
        raw = b"\x82\xff" + b"\xff" * 8 + bytes(4) + b"abc"
        self.assertEqual(scanned(Scanner(), [raw]), [(False, raw)])

    def test_amid_a_frame(self) -> None:
        """A scanner goes on where somebody else has come to."""
        rest, more = os.urandom(10), frame(b"more")
        self.assertEqual(scanned(Scanner(0, 10), [rest, more]), [(False, rest), (True, b"more")])
        scanner = Scanner(0, 10, fragmented=True)
        last = frame(b"last", 0)
        found = scanned(scanner, [rest + last + more])
        self.assertEqual(found, [(False, rest + last), (True, b"more")])

    def test_binary_within_a_message(self) -> None:
        """A whole frame within a fragmented message is against the rules, and not plain."""
        stream = frame(b"a", 2, fin=False) + frame(b"b") * 3
        self.assertEqual(scanned(Scanner(), [stream]), [(False, stream)])

    def test_spans_stay(self) -> None:
        """A span that was yielded is not touched by what comes after it."""
        stream = bytearray(frame(b"a" * 300) + frame(b"", 9) + frame(b"b" * 300))
        spans = []
        for payload, start, end in Scanner().scan(stream, 0, len(stream)):
            spans.append((payload, start, end, bytes(stream[start:end])))
        for _, start, end, content in spans:
            self.assertEqual(bytes(stream[start:end]), content)
        self.assertEqual([span[0] for span in spans], [True, False, True])


class UnmaskTests(SynchronousTestCase):
    def check(self) -> None:
        for size in (0, 1, 3, 4, 17, 255, 256, 257, 4099, 65536):
            for start in range(5):
                masked, mask = os.urandom(size), os.urandom(4)
                buffer = bytearray(start) + masked + b"rest"
                unmask(buffer, start, start + size, mask)
                expected = bytes(b ^ mask[i % 4] for i, b in enumerate(masked))
                self.assertEqual(buffer, bytes(start) + expected + b"rest")

    def test_native(self) -> None:
        """Autobahn's native code and big numbers give the same, wherever they begin."""
        self.assertIsNotNone(module.lib)
        self.check()

    def test_without(self) -> None:
        """So it goes without native code."""
        self.patch(module, "lib", None)
        self.check()


class HeaderTests(SynchronousTestCase):
    def test_header(self) -> None:
        """A header is written right before the payload, with the length the shortest way."""
        for size, length in ((1, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (300_000, 10)):
            buffer = bytearray(b"#" * 16 + b"x" * size)
            start = put_header(buffer, 16, size)
            self.assertEqual(16 - start, length)
            self.assertEqual(frames(bytes(buffer[start:])), [(2, b"x" * size)])
            self.assertEqual(buffer[:start], b"#" * start)
