"""Frames in any order, whole or wrong, against `websockets` as a second opinion."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import txaio
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from tests.fuzz.report import Problem
from tests.fuzz.world import Unhandled
from tests.integration.parts import certificate
from tests.wires import (
    FakeSession,
    Plug,
    SecureWire,
    SocketWire,
    Wire,
    frame,
    frames,
    request,
)
from wsserver import connect
from wsserver.config import Deadlines
from wsserver.tls import Certificate
from wsserver.tunnel import TunnelFactory

LIMIT = 5000
SIZES = (0, 1, 3, 8, 8, 8, 125, 126, 127, 1000, LIMIT, 4999)
_end = partial(frame, mask=b"mask")
#: What closes a websocket, or is wrong, most of it with a code of its own.
ENDS = (
    _end(struct.pack(">H", 1000), 8),
    _end(struct.pack(">H", 3999), 8),
    _end(struct.pack(">H", 4999), 8),
    _end(struct.pack(">H", 1001), 8),
    _end(struct.pack(">H", 1005), 8),
    _end(struct.pack(">H", 999), 8),
    _end(b"", 8),
    _end(b"\x03", 8),
    _end(struct.pack(">H", 1000) + b"\xff", 8),
    _end(b"text", 1),
    _end(b"text", 1, fin=False),
    _end(b"x", 3),
    _end(b"x", 7, fin=False),
    _end(b"x", 11),
    _end(b"x", 15),
    _end(b"x" * 126, 9),
    _end(b"x", 9, fin=False),
    b"\xc2" + _end(b"x")[1:],
    b"\xa2" + _end(b"x")[1:],
    b"\x9a" + _end(b"x", 10)[1:],
    b"\x82\x01x",
    b"\x89\x00",
    _end(b"x" * (LIMIT + 1)),
)
#: What comes out: bytes for the service, pongs, and the code of the close frame.
Outcome = tuple[bytes, list[bytes], int | None]


def framed(rng: random.Random, payload: bytes, opcode: int = 2, fin: bool = True) -> bytes:
    """A frame whose mask can be had again."""
    return frame(payload, opcode, fin, rng.randbytes(4))


def sequence(rng: random.Random) -> list[bytes]:
    """Return frames, whole ones."""
    made = []
    for _ in range(rng.choice((1, 2, 5, 20))):
        kind, size = rng.random(), rng.choice(SIZES)
        if kind < 0.4:
            made.append(framed(rng, rng.randbytes(size)))
        elif kind < 0.5:
            made += [framed(rng, rng.randbytes(8))] * rng.randint(2, 40)
        elif kind < 0.6:
            made.append(framed(rng, rng.randbytes(min(size, 125)), 9))
        elif kind < 0.65:
            made.append(framed(rng, rng.randbytes(min(size, 125)), 10))
        elif kind < 0.9:
            made += _message(rng)
        elif kind < 0.93:
            # Nothing to continue, or a message that begins within another.
            made.append(framed(rng, rng.randbytes(5), rng.choice((0, 2)), rng.random() < 0.5))
        else:
            made.append(rng.choice(ENDS))
    return made


def _message(rng: random.Random) -> Iterator[bytes]:
    """Yield a message in fragments, with control frames in between."""
    parts = rng.randint(2, 4)
    for number in range(parts):
        payload = rng.randbytes(rng.choice((0, 1, 8, 200, 1200)))
        yield framed(rng, payload, 0 if number else 2, number == parts - 1)
        if rng.random() < 0.3 and number < parts - 1:
            yield framed(rng, b"ping", rng.choice((9, 10)))


def expected(sent: list[bytes]) -> Outcome:
    """Return what websockets makes of it, by the rules of our contract."""
    server = ServerProtocol(state=State.OPEN, max_size=LIMIT)
    up, unfinished = b"", False
    for one in sent:
        server.receive_data(one)
        for got in server.events_received():
            if got.opcode is Opcode.TEXT and server.close_sent is None:
                return up, _pongs(server), 1003
            if got.opcode in (Opcode.BINARY, Opcode.CONT):
                up += got.data
                unfinished = not got.fin
        if server.close_sent is not None:
            return up, _pongs(server), _code(server, one, unfinished)
    return up, _pongs(server), None


def _code(server: ServerProtocol, last: bytes, unfinished: bool) -> int:
    """Return the code by which we close; ``last`` is the frame that led to it."""
    assert server.close_sent is not None
    opcode = last[0] & 0x0F
    if unfinished and opcode == 8:
        # A close may come within a message (RFC 6455, section 5.5), which websockets refuses.
        server = ServerProtocol(state=State.OPEN, max_size=LIMIT)
        server.receive_data(last)
        return _code(server, last, False)
    if server.parser_exc is None:
        # Whatever code a client closes with, we answer with 1000.
        return 1000
    # Of two faults either may be told: too long, and no continuation of what was begun.
    return 1002 if unfinished and opcode == 2 else server.close_sent.code


def _pongs(server: ServerProtocol) -> list[bytes]:
    told = frames(b"".join(server.data_to_send()))
    return [payload for opcode, payload in told if opcode == 10]


class Paths:
    """A tunnel for each sequence: through transports, sockets, or TLS."""

    def __enter__(self) -> Paths:
        self._clock = Clock()
        self._before = (txaio.config.loop, connect.endpoint)
        txaio.config.loop = self._clock
        with TemporaryDirectory() as name:
            cert, key = certificate(Path(name))
            self._context = Certificate(str(cert), str(key))
        return self

    def __exit__(self, *_: object) -> None:
        txaio.config.loop, connect.endpoint = self._before  # type: ignore[misc]

    def play(self, kind: str, pieces: list[bytes], early: int) -> tuple[Outcome, bool]:
        """Send pieces, ``early`` of them before the service is there.

        Return what came out, and whether the service was reached at all.
        """
        session = FakeSession()
        wire_kind = Wire if kind == "transport" else SocketWire
        plug = Plug(wire_kind)
        connect.endpoint = plug  # type: ignore[assignment]
        factory = TunnelFactory(
            self._clock, lambda token, seat: session, max_message_size=LIMIT, deadlines=Deadlines()
        )
        tunnel: Any = factory.buildProtocol(None)
        if kind == "TLS":
            browser: Any = SecureWire(self._context, tunnel)
        else:
            browser = wire_kind(1, 2)
            browser.protocol = tunnel
            tunnel.makeConnection(browser)
        send = tunnel.dataReceived if kind == "transport" else browser.feed
        send(request("?token=T"))
        assert browser.take().startswith(b"HTTP/1.1 101 ")
        wires = [browser]
        up = down = b""
        for number, piece in enumerate(pieces):
            if number == early and session.wanted and tunnel.state == tunnel.STATE_OPEN:
                session.start()
                wires.append(plug.succeed()[1])
            if browser.disconnecting or browser.aborted:
                break
            send(piece)
            down += browser.take()
            up += wires[1].take() if len(wires) > 1 else b""
        left = self._end(tunnel, factory, wires)
        told = frames(down)
        codes = [struct.unpack(">H", p[:2])[0] for opcode, p in told if opcode == 8]
        if left or len(codes) > 1:
            raise AssertionError(left or f"closed more than once: {codes}")
        pongs = [payload for opcode, payload in told if opcode == 10]
        return (up, pongs, codes[0] if codes else None), len(wires) > 1

    def _end(self, tunnel: Any, factory: Any, wires: list[Any]) -> str | None:
        """Lose both connections; return what is left then."""
        for wire in wires:
            lose = getattr(wire, "connectionLost", None) or wire.protocol.connectionLost
            lose(Failure(CONNECTION_LOST))
            getattr(wire, "close", lambda: None)()
        if factory.tunnels or factory.opening or self._clock.getDelayedCalls():
            return f"left: {factory.tunnels} {factory.opening} {self._clock.getDelayedCalls()}"
        return None


def fuzz_frames(count: int, seed: int) -> Iterator[Problem]:
    """Play so many sequences, each on one of the paths."""
    with Paths() as paths, Unhandled() as unhandled:
        for number in range(count):
            rng = random.Random(f"frames {seed} {number}")
            kind = ("transport", "sockets", "transport", "TLS")[number % 4]
            what = f"frames {number} of seed {seed}, {kind}"
            sent = sequence(rng)
            whole = b"".join(sent)
            cuts = {rng.randrange(len(whole) + 1) for _ in range(rng.choice((0, 1, 3, 10)))}
            bounds = sorted({0, *cuts, *range(0, len(whole), 40_000), len(whole)})
            pieces = [whole[a:b] for a, b in pairwise(bounds)]
            early = int(len(pieces) > 1 and len(pieces[0]) < 10_000 and rng.random() < 0.5)
            got, reached = paths.play(kind, pieces, early)
            wanted = expected(sent)
            wanted = wanted if reached else (b"", *wanted[1:])
            wrong = unhandled.told()
            if wrong or got != wanted:
                yield Problem(what, wrong or f"{_short(got)}, not {_short(wanted)}: {sent!r:.1500}")


def _short(outcome: Outcome) -> str:
    up, pongs, code = outcome
    return f"{len(up)} bytes, {len(pongs)} pongs, code {code}"
