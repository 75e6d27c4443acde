"""Frames of RFC 6455, section 5, as far as a relay of bytes needs them.

A *plain* frame is what browsers make of a byte stream: final, binary, masked, without
reserved bits, its length written the shortest way.  A relay unmasks these itself and
leaves everything else, frame by frame, to a whole implementation of the protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

try:
    # Autobahn's native code, where it was built.
    from _nvx_xormasker import ffi, lib
except ImportError:  # pragma: no cover
    ffi = lib = None

#: The longest header of a frame of ours, in bytes.
HEADER_SIZE = 10
#: The longest beginning of a header of theirs, in bytes.
TAIL_SIZE = 13

_PLAIN = 0x82
_FIN = 0x80
_OPCODE = 0x0F
_CONTROL = 0x08
_MASKED = 0x80
#: How many equal frames are looked for at a time: a mixture must not cost much more.
_ROW = 512
#: From this length on native code is faster than a big number, in bytes.
_NATIVE = 256

#: How many bytes hold an extended length, and the least that it may be.
_EXTENDED = {126: (2, 126), 127: (8, 65536)}

_SHORT = Struct(">BB")
_MEDIUM = Struct(">BBH")
_LONG = Struct(">BBQ")

#: Whether it is payload, or else frames as they came; where it begins and ends.
Span = tuple[bool, int, int]


def put_header(buffer: bytearray, end: int, length: int) -> int:
    """Write the header of a server's binary frame before ``end``; return where it begins."""
    if length < 126:
        _SHORT.pack_into(buffer, end - 2, _PLAIN, length)
        return end - 2
    if length < 65536:
        _MEDIUM.pack_into(buffer, end - 4, _PLAIN, 126, length)
        return end - 4
    _LONG.pack_into(buffer, end - 10, _PLAIN, 127, length)
    return end - 10


def unmask(buffer: bytearray, start: int, end: int, mask: bytes) -> None:
    """Unmask bytes in place (RFC 6455, section 5.3)."""
    length = end - start
    if lib is None or length < _NATIVE:
        key = int.from_bytes((mask * (length // 4 + 1))[:length], "little")
        masked = int.from_bytes(buffer[start:end], "little")
        buffer[start:end] = (masked ^ key).to_bytes(length, "little")
    else:
        masker = lib.nvx_xormask_new(mask)
        lib.nvx_xormask_process(masker, ffi.from_buffer("uint8_t[]", buffer) + start, length)
        lib.nvx_xormask_free(masker)


class Scanner:
    """Goes through what a client sends, in whatever pieces it comes.

    ``limit`` is the longest payload of a plain frame in bytes, 0 for none.  ``foreign``
    is how much is still to come of a frame that somebody else has begun to read, and
    ``fragmented`` tells whether a message is unfinished after it.
    """

    __slots__ = ("_foreign", "_fragmented", "_left", "_limit", "_mask", "steps", "tail")

    def __init__(self, limit: int = 0, foreign: int = 0, fragmented: bool = False) -> None:
        self._limit = limit or 2**63
        self._foreign = foreign
        self._fragmented = fragmented
        self._left = 0
        self._mask = b""
        #: The beginning of a header; it must stand before the next piece.
        self.tail = b""
        #: How many steps the last scan took: about one for each frame, or row of equal ones.
        self.steps = 0

    def scan(self, buffer: bytearray, start: int, end: int) -> Iterator[Span]:
        """Yield payload, unmasked and moved together in place, and other frames, in order.

        A span that was yielded is not touched again.
        """
        self.tail = b""
        self.steps = 0
        here = began = filled = start
        while here < end:
            self.steps += 1
            if self._foreign:
                stop = min(here + self._foreign, end)
                self._foreign -= stop - here
                yield False, here, stop
                here = began = filled = stop
            elif self._left:
                stop = min(here + self._left, end)
                self._payload(buffer, here, stop, filled)
                filled += stop - here
                here = stop
            elif count := self._row(buffer, here, end):
                length = buffer[here + 1] - _MASKED
                _unmask_row(buffer, here, count, length, filled)
                filled += count * length
                here += count * (length + 6)
            else:
                size = self._begin(buffer, here, end)
                if not size:
                    self.tail = bytes(buffer[here:end])
                    break
                if self._foreign and filled > began:
                    yield True, began, filled
                here += 0 if self._foreign else size
        if filled > began:
            yield True, began, filled

    def _row(self, buffer: bytearray, here: int, end: int) -> int:
        """Return how many short plain frames of one length stand here, whole."""
        if end - here < 6 or buffer[here] != _PLAIN or self._fragmented:
            return 0
        length = buffer[here + 1] - _MASKED
        size = length + 6
        if not 0 <= length < 126 or here + size > end or length > self._limit:
            return 0
        stop = here + min((end - here) // size, _ROW) * size
        if buffer[here : here + 2] != buffer[here + size : here + size + 2] or stop == here + size:
            return 1
        return min(_same(buffer[here:stop:size]), _same(buffer[here + 1 : stop : size]))

    def _begin(self, buffer: bytearray, here: int, end: int) -> int:
        """Read the header of any frame; return its size, 0 for one that is incomplete."""
        if end - here < 2:
            return 0
        first, second = buffer[here], buffer[here + 1]
        extra, shortest = _EXTENDED.get(second & 0x7F, (0, 0))
        body = here + 2 + extra + (4 if second & _MASKED else 0)
        if body > end:
            return 0
        length = second & 0x7F
        if extra:
            length = int.from_bytes(buffer[here + 2 : here + 2 + extra], "big")
        usual = first == _PLAIN and second & _MASKED and not self._fragmented
        if usual and shortest <= length <= self._limit:
            self._left = length
            self._mask = bytes(buffer[body - 4 : body])
        else:
            self._foreign = body - here + length
            if not first & _CONTROL:
                # Only a continuation ends a message that was begun.
                begun = self._fragmented and first & _OPCODE != 0
                self._fragmented = begun or not first & _FIN
        return body - here

    def _payload(self, buffer: bytearray, here: int, stop: int, to: int) -> None:
        """Take a piece of the payload of a long frame."""
        unmask(buffer, here, stop, self._mask)
        if to != here:
            view = memoryview(buffer)
            view[to : to + stop - here] = view[here:stop]
        self._left -= stop - here
        turn = (stop - here) % 4
        self._mask = self._mask[turn:] + self._mask[:turn]


def _same(row: bytearray) -> int:
    return len(row) - len(row.lstrip(row[:1]))


def _unmask_row(buffer: bytearray, here: int, count: int, length: int, to: int) -> None:
    """Unmask equal frames together: the first bytes of all of them, the second bytes ..."""
    size = length + 6
    if count == 1:
        unmask(buffer, here + 6, here + size, bytes(buffer[here + 2 : here + 6]))
        buffer[to : to + length] = buffer[here + 6 : here + size]
        return
    stop = here + count * size
    keys = [int.from_bytes(buffer[here + 2 + i : stop : size], "little") for i in range(4)]
    payload = bytearray(count * length)
    for i in range(length):
        masked = int.from_bytes(buffer[here + 6 + i : stop : size], "little")
        payload[i::length] = (masked ^ keys[i % 4]).to_bytes(count, "little")
    buffer[to : to + len(payload)] = payload
