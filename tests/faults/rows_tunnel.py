"""Rows 21 to 41: what services and clients do to a tunnel.  All bytes, or a prefix of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from random import Random

from tests.faults.proxy import Toxic, proxy
from tests.faults.rows_script import closes, echoes
from tests.faults.table import row
from tests.faults.wire import (
    Browser,
    Gone,
    Refused,
    connection,
    frame,
    read_all,
    reset,
    send_all,
    service,
    vanish,
)
from tests.faults.world import Session, Violation, World
from tests.wires import request

MB = 1 << 20


def same(got: bytes, sent: bytes) -> None:
    """Check that all bytes have come."""
    if got != sent:
        raise Violation("bytes", f"{len(got)} bytes came of {len(sent)}")


def prefix(got: bytes, sent: bytes) -> None:
    """Check that what has come is the beginning of what was sent."""
    if not sent.startswith(got):
        raise Violation("bytes", f"{len(got)} bytes are no beginning of {len(sent)}")


async def joined(session: Session, **options: int) -> tuple[Browser, socket.socket]:
    """Return both ends of an open tunnel, which has carried a byte already."""
    browser = await session.connect(**options)
    async with asyncio.timeout(20):
        peer = await session.service.accept()
        await send_all(peer, b"!")
        await browser.receive(1)
    return browser, peer


async def pushed(browser: Browser, data: bytes, piece: int = 60_000) -> None:
    """Send bytes in frames, as far as the tunnel takes them."""
    with contextlib.suppress(OSError):
        for start in range(0, len(data), piece):
            await browser.send(data[start : start + piece])


@row(21)
async def service_closes_at_once(world: World, rng: Random) -> None:
    """A service that accepts and closes: 1000."""
    async with world.session("port", echoes=False) as session:
        browser = await session.connect()
        (await session.service.accept()).close()
        await closes(browser, 1000)


@row(22, weight=3)
async def service_resets(world: World, rng: Random) -> None:
    """A service that breaks off with RST at any byte: the client has a beginning, and 4502."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        sent = rng.randbytes(rng.randrange(300_000))
        reading = asyncio.ensure_future(browser.rest())
        await send_all(peer, sent)
        reset(peer)
        got, code = await reading
        prefix(got, sent)
        if code not in (4502, 1000):
            raise Violation("close", f"closed with {code}")


@row(23, weight=2)
async def service_half_closes(world: World, rng: Random) -> None:
    """A service that sends no more, and still reads: all bytes arrive on both sides."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        down, up = rng.randbytes(rng.randrange(2 * MB)), rng.randbytes(rng.randrange(2 * MB))

        async def serve() -> bytes:
            await send_all(peer, down)
            peer.shutdown(socket.SHUT_WR)
            return await read_all(peer)

        serving = asyncio.ensure_future(serve())
        await pushed(browser, up)
        got, code = await browser.rest()
        taken = await serving
        same(got, down)
        same(taken, up)
        if code != 1000:
            raise Violation("close", f"closed with {code}")


@row(24)
async def service_never_reads(world: World, rng: Random) -> None:
    """A service that never reads: the client waits, memory is bounded; then all arrives."""
    before = world.rss()
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        up = rng.randbytes(32 * MB)
        pushing = asyncio.ensure_future(pushed(browser, up))
        await asyncio.sleep(rng.uniform(0.5, 2))
        grown = world.rss() - before
        if pushing.done() or grown > 40:
            raise Violation("memory", f"{grown:.0f} MiB more")
        reading = asyncio.ensure_future(read_all(peer))
        await pushing
        await browser.send(struct.pack(">H", 1000), 8)
        await browser.rest()
        same(await reading, up)


@row(25, weight=0.5)
async def service_bursts(world: World, rng: Random) -> None:
    """A burst of 64 MiB: all of it arrives, and others are answered meanwhile."""
    before = world.rss()
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        down = rng.randbytes(MB)

        async def burst() -> None:
            for _ in range(64):
                await send_all(peer, down)
            peer.close()

        bursting = asyncio.ensure_future(burst())
        size = 0
        with contextlib.suppress(Gone):
            while True:
                data = await browser.data()
                while data:
                    at = size % MB
                    piece = data[: MB - at]
                    same(piece, down[at : at + len(piece)])
                    size += len(piece)
                    data = data[len(piece) :]
        await bursting
        same(bytes(size // MB), bytes(64))
        if world.rss() - before > 40:
            raise Violation("memory", f"{world.rss() - before:.0f} MiB more")


@row(26)
async def service_writes_single_bytes(world: World, rng: Random) -> None:
    """Thousands of writes of one byte, both ways: nothing is lost or mixed up."""
    async with world.session("port") as session:
        toxic = Toxic(slicer=2)
        async with proxy(session.world.port, rng, toxic, toxic) as between:
            browser = await Browser.connect(between.port, session.token)
            session.browsers.append(browser)
            for _ in range(4):
                await echoes(session, browser, rng.randbytes(500))
            browser.close()


@row(28)
async def service_host_is_gone(world: World, rng: Random) -> None:
    """A service whose host has forgotten the connection: noticed when something is sent."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        await send_all(peer, b"still here")
        await browser.receive(10)
        vanish(peer)
        await browser.send(b"are you there")
        await closes(browser, 4502)


@row(29, weight=2)
async def client_reads_slowly(world: World, rng: Random) -> None:
    """A slow reader with a small buffer: its service waits, all bytes arrive."""
    before = world.rss()
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session, receive=4096)
        sent = rng.randbytes(rng.randrange(MB, 4 * MB))
        sending = asyncio.ensure_future(send_all(peer, sent))
        got = b""
        while len(got) < len(sent):
            got += await browser.data()
            if rng.random() < 0.1:
                await asyncio.sleep(rng.uniform(0, 0.02))
        await sending
        same(got, sent)
    if world.rss() - before > 40:
        raise Violation("memory", f"{world.rss() - before:.0f} MiB more")


@row(30, weight=2)
async def service_ends_before_a_slow_client(world: World, rng: Random) -> None:
    """A slow reader whose service has ended long ago: still the whole stream, then 1000."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session, receive=4096)
        sent = rng.randbytes(rng.randrange(MB, 6 * MB))

        async def all_of_it() -> None:
            await send_all(peer, sent)
            peer.close()

        sending = asyncio.ensure_future(all_of_it())
        await asyncio.sleep(rng.uniform(0, 1.5))
        got, code = await browser.rest()
        await sending
        same(got, sent)
        if code != 1000:
            raise Violation("close", f"closed with {code}")


@row(31, weight=2)
async def client_vanishes(world: World, rng: Random) -> None:
    """A client that is gone without a word, paused or not: noticed in interval + timeout + 1 s."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        stuck = None
        if rng.random() < 0.5:
            # The service sends without end, which nobody reads: the tunnel is paused.
            stuck = asyncio.ensure_future(send_all(peer, bytes(32 * MB)))
            await asyncio.sleep(0.3)
        vanish(browser.sock)
        began = time.monotonic()
        await session.reached("", "stopping", "quarantined", patience=20)
        if time.monotonic() - began > 1 + 1 + 1 + 1:
            raise Violation("deadline", f"noticed after {time.monotonic() - began:.1f} s")
        if stuck is not None:
            with contextlib.suppress(OSError):
                await stuck


CLIENT = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
sock.sendall(bytes.fromhex(sys.argv[3]))
seen = b""
while b"hello" not in seen:
    more = sock.recv(4096)
    assert more, seen
    seen += more
print("open", flush=True)
sys.stdin.read()
"""


async def client_process(
    session: Session, host: str = "127.0.0.1", before: tuple[str, ...] = ()
) -> asyncio.subprocess.Process:
    """Start a client in a process of its own, behind the words ``before``; wait for an echo."""
    words = (request(f"?token={session.token}") + frame(b"hello")).hex()
    client = await asyncio.create_subprocess_exec(
        *before, sys.executable, "-I", "-S", "-c", CLIENT, host, str(session.world.port), words,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    if await client.stdout.readline() != b"open\n":
        raise Violation("bytes", "no echo")
    return client


@row(32, weight=0.2)
async def client_is_stopped(world: World, rng: Random) -> None:
    """A client that is stopped, so that its kernel alone answers: out by stall_timeout."""
    async with world.session("port") as session:
        client = await client_process(session)
        try:
            os.kill(client.pid, signal.SIGSTOP)
            began = time.monotonic()
            await session.reached("", "stopping", patience=20)
            if not 5 < time.monotonic() - began < 14:
                raise Violation("deadline", f"out after {time.monotonic() - began:.1f} s")
        finally:
            client.kill()
            await client.wait()


@row(33, weight=0.5)
async def client_pauses(world: World, rng: Random) -> None:
    """A healthy client that does not read for longer than ping and answer take: it is kept."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        sent = rng.randbytes(16 * MB)
        sending = asyncio.ensure_future(send_all(peer, sent))
        await asyncio.sleep(rng.uniform(3, 5))
        got = await browser.receive(len(sent))
        await sending
        same(got, sent)


@row(34)
async def client_floods_with_pings(world: World, rng: Random) -> None:
    """Pings by the dozen, pongs that nobody asked for: answered, ignored; a flood: the end."""
    async with world.session("port") as session:
        browser = await session.connect()
        await echoes(session, browser)
        flood = rng.random() < 0.3
        count = rng.randrange(200, 2000) if flood else rng.randrange(1, 90)
        pings = b"".join(
            frame(rng.randbytes(rng.randrange(126)), opcode) for opcode in [9, 10] * count
        )
        sending = asyncio.ensure_future(browser.send_raw(pings + frame(b"after all")))
        pongs, got = 0, b""
        try:
            while got != b"after all":
                opcode, payload = await browser.frame()
                pongs += opcode == 10
                got += payload if opcode == 2 else b""
        except Gone:
            if not flood:
                raise
        await asyncio.gather(sending, return_exceptions=True)
        if pongs > count or (not flood and pongs != count):
            raise Violation("bytes", f"{pongs} pongs for {count} pings")
        if flood:
            await session.reached("")


def _close(code: int = 1000, reason: bytes = b"") -> bytes:
    return frame(struct.pack(">H", code) + reason, 8)


#: What a client may send last, and which close codes it may be answered with.
LAST_WORDS: dict[str, tuple[bytes, set[int | None]]] = {
    "close": (_close(), {1000}),
    "close without code": (frame(b"", 8), {1000, 1005}),
    "close, then data": (_close() + frame(b"more"), {1000}),
    "two closes": (_close() + _close(1001), {1000}),
    "close within a message": (frame(b"a", fin=False) + _close(3000), {1000, 3000}),
    "close of one byte": (frame(b"x", 8), {1002}),
    "close with a forbidden code": (_close(1005), {1002}),
    "close with an unknown code": (_close(2999), {1002}),
    "close with bad UTF-8": (_close(1000, b"\xff\xfe"), {1002, 1007}),
    "close too long": (frame(bytes(126), 8), {1002}),
    "close in fragments": (frame(b"", 8, fin=False), {1002}),
    "end without close": (b"", {None}),
    "text": (frame(b"text", 1), {1003}),
    "reserved opcode": (frame(b"x", 3), {1002}),
}


@row(35, weight=4)
async def clients_last_words(world: World, rng: Random) -> None:
    """Closes of all kinds, also together with the service's: one end, a sensible code."""
    async with world.session("port", echoes=False) as session:
        browser, peer = await joined(session)
        name = rng.choice(list(LAST_WORDS))
        words, codes = LAST_WORDS[name]
        race = rng.random()
        if race < 0.2:
            reset(browser.sock)
        elif race < 0.4:
            await browser.send_raw(words)
            reset(browser.sock)
        elif race < 0.6:
            peer.close()
            with contextlib.suppress(OSError):
                await browser.send_raw(words)
            await closes(browser, *codes, 1000)
        else:
            await browser.send_raw(words)
            if not words:
                browser.sock.shutdown(socket.SHUT_WR)
            await closes(browser, *codes)


@row(36, weight=2)
async def data_comes_with_the_request(world: World, rng: Random) -> None:
    """Data in one segment with the request: kept while the service starts, delivered in order."""
    delay = rng.choice([0, 0.2])
    async with world.session("slow", delay=delay) as session:
        early = [rng.randbytes(rng.randrange(1, 9000)) for _ in range(rng.randrange(1, 6))]
        browser = await session.connect(early=b"".join(map(frame, early)))
        sent = b"".join(early)
        same(await browser.receive(len(sent)), sent)


@row(37, weight=2)
async def second_upgrade(world: World, rng: Random) -> None:
    """A second upgrade on the same connection: it starts nothing."""
    async with world.session("port") as session, world.session("port", starts=0) as other:
        first, second = request(f"?token={session.token}"), request(f"?token={other.token}")
        browser = Browser(await connection(world.port))
        session.browsers.append(browser)
        cut = rng.randrange(len(first) + len(second))
        for part in ((first + second)[:cut], (first + second)[cut:]):
            with contextlib.suppress(OSError):
                await browser.send_raw(part)
            await asyncio.sleep(rng.choice([0, 0.02]))
        with contextlib.suppress(Refused, Gone):
            async with asyncio.timeout(20):
                await browser.accepted()
                await browser.rest()
        if await other.state() != "reserved":
            raise Violation("start", "a second upgrade used its token")
        await other.release()
        if await session.state() == "reserved":
            await session.connect()  # refused as a whole, so the token is still good


TOXICS = {
    "latency": lambda rng: Toxic(latency=0.01, jitter=0.03),
    "bandwidth": lambda rng: Toxic(bandwidth=400_000),
    "slow_close": lambda rng: Toxic(slow_close=rng.uniform(0, 1)),
    "timeout": lambda rng: Toxic(timeout=rng.uniform(0.1, 1.5)),
    "reset_peer": lambda rng: Toxic(reset_peer=rng.randrange(200, 200_000)),
    "slicer": lambda rng: Toxic(slicer=300),
    "limit_data": lambda rng: Toxic(limit_data=rng.randrange(200, 200_000)),
}
#: Those that end a connection in the midst of it.
CUTS = {"timeout", "reset_peer", "limit_data", "down"}


@row("net", weight=6)
async def network_is_bad(world: World, rng: Random) -> None:
    """Toxics (latency, bandwidth, slow_close, timeout, reset_peer, slicer, limit_data, down)."""
    name = rng.choice([*TOXICS, "down"])
    toxics = [TOXICS[name](rng) if name in TOXICS else Toxic() for _ in range(2)]
    sound = [Toxic(), Toxic()]
    in_front, behind = rng.choice([(toxics, sound), (sound, toxics)])
    async with (
        service(echoes=True) as there,
        proxy(there.port, rng, *behind) as back,
        proxy(world.port, rng, *in_front) as front,
        world.session("port", port=back.port, starts=None) as session,
    ):
        # No more than is kept while the service starts.
        sent = rng.randbytes(rng.randrange(64_000))
        carrying = asyncio.ensure_future(carried(session, front.port, sent))
        if name == "down":
            await asyncio.sleep(rng.uniform(0, 0.1))
            await rng.choice([front, back]).down()
        try:
            async with asyncio.timeout(30):
                got, why = await carrying
        except TimeoutError:
            raise Violation("bytes", f"no end by {name} {toxics}, {in_front is toxics}") from None
        if not sent.startswith(got) or (len(got) < len(sent) and name not in CUTS):
            raise Violation("bytes", f"{len(got)} of {len(sent)} by {toxics}: {why!r}")


async def carried(session: Session, port: int, sent: bytes) -> tuple[bytes, Exception | None]:
    """Send bytes through a port to an echo; return what comes back, and why not all of it."""
    got = b""
    try:
        browser = await Browser.connect(port, session.token)
        session.browsers.append(browser)
        sending = asyncio.ensure_future(pushed(browser, sent))
        try:
            while len(got) < len(sent):
                got += await browser.data()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    except (Refused, Gone, OSError) as error:
        return got, error
    return got, None
