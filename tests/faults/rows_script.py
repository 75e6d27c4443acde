"""Rows 1 to 19: start and stop scripts that fail, hang, lie and leave things behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from random import Random

from tests.faults.double_session import GARBAGE
from tests.faults.table import row
from tests.faults.wire import Browser, bound, reset, service, vanish
from tests.faults.world import Session, Violation, World


def leave(browser: Browser, rng: Random) -> None:
    """Leave as browsers do, as broken ones do, and as those whose network is gone."""
    rng.choice([Browser.close, lambda b: reset(b.sock), lambda b: vanish(b.sock)])(browser)


async def code_of(browser: Browser) -> int | None:
    """Return the close code, where nothing else comes."""
    got, code = await browser.rest()
    if got:
        raise Violation("bytes", f"{len(got)} bytes out of nowhere")
    return code


async def closes(browser: Browser, *codes: int | None) -> None:
    """Wait for the end, and check the code of the close frame."""
    async with asyncio.timeout(20):
        code = await code_of(browser)
    if code not in codes:
        raise Violation("close", f"closed with {code}, not with {codes}")


async def echoes(session: Session, browser: Browser, data: bytes = b"hello") -> None:
    """Check that a tunnel carries bytes."""
    async with asyncio.timeout(20):
        await browser.send(data)
        got = await browser.receive(len(data))
    if got != data:
        raise Violation("bytes", f"{len(got)} bytes differ from {len(data)}")


@row(1)
async def start_raises(world: World, rng: Random) -> None:
    """A start that raises: 4500, the slot is free, stop ran, the program is gone."""
    async with world.session("bad") as session:
        browser = await session.connect()
        await closes(browser, 4500)


@row(2)
async def start_raises_late(world: World, rng: Random) -> None:
    """A start that raises when nobody is there any more: freed all the same."""
    async with world.session("slow_bad", delay=rng.uniform(0.1, 0.6)) as session:
        browser = await session.connect()
        await asyncio.sleep(rng.uniform(0, 0.7))
        leave(browser, rng)


@row(3)
async def start_hangs(world: World, rng: Random) -> None:
    """A start that hangs: 4504 in time; the slot is kept until it is home, and stopped again."""
    away = rng.choice([1.5, 3.0, 4.0])
    async with world.session("never", "Short", delay=away) as session:
        began = time.monotonic()
        browser = await session.connect()
        await closes(browser, 4504)
        if time.monotonic() - began > 3:
            raise Violation("deadline", "start_timeout of 1 s is over late")
        if away > 2.5:
            await session.reached("quarantined")


@row(4, weight=0.1)
async def start_is_slow(world: World, rng: Random) -> None:
    """A start of 7 s, longer than Autobahn would wait: it works."""
    async with world.session("slow", delay=7) as session:
        await echoes(session, await session.connect())


@row(5, weight=4)
async def client_leaves_while_starting(world: World, rng: Random) -> None:
    """A client that leaves during the start, at any instant and in any way: one start, one end."""
    async with world.session("slow", delay=rng.uniform(0, 0.5)) as session:
        browser = await session.connect()
        await asyncio.sleep(rng.uniform(0, 0.6))
        leave(browser, rng)


@row(6, weight=2)
async def start_returns_garbage(world: World, rng: Random) -> None:
    """A reply that is no address: one clean failure."""
    async with world.session("garbage", n=rng.randrange(len(GARBAGE))) as session:
        await closes(await session.connect(), 4500)


@row(7)
async def nobody_listens(world: World, rng: Random) -> None:
    """A port that nobody listens on: tried until connect_timeout, then 4502."""
    with contextlib.closing(bound()) as taken:
        port = taken.getsockname()[1]
        async with world.session("port", "Short", port=port) as session:
            await closes(await session.connect(), 4502)


@row(8)
async def somebody_listens_late(world: World, rng: Random) -> None:
    """A service that listens late: the client sees but a delay."""
    late = bound()
    async with world.session("port", port=late.getsockname()[1]) as session:
        browser = await session.connect()
        await asyncio.sleep(rng.uniform(0.1, 2))
        late.listen()
        async with service(echoes=True, listener=late):
            await echoes(session, browser)
            browser.close()
            await session.reached("")


@row(9)
async def somebody_else_listens(world: World, rng: Random) -> None:
    """A port that somebody else has taken: what does not say the banner is not the service."""
    async with world.session("rogue", echoes=False) as session:
        browser = await session.connect()

        async def be_ssh() -> None:
            while True:
                peer = await session.service.accept()
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().sock_sendall(peer, b"SSH-2.0-x\r\n")

        rogue = asyncio.ensure_future(be_ssh())
        try:
            await closes(browser, 4500)
        finally:
            rogue.cancel()
            await asyncio.gather(rogue, return_exceptions=True)


@row(10)
async def start_forks_and_exits(world: World, rng: Random) -> None:
    """A program that forks and exits: the session goes on, and what it left ends with it."""
    async with world.session("fork") as session:
        await echoes(session, await session.connect(), rng.randbytes(1000))


@row(11, weight=0.5)
async def service_floods_its_output(world: World, rng: Random) -> None:
    """Forty megabytes of output: no program waits for it, no memory is lost, the tunnel works."""
    before = world.rss()
    async with world.session("flood") as session:
        browser = await session.connect()
        for _ in range(10):
            await echoes(session, browser, rng.randbytes(1000))
            await asyncio.sleep(0.05)
    if world.rss() > before + 30:
        raise Violation("memory", f"{before:.0f} MiB became {world.rss():.0f}")


@row(12)
async def start_exits(world: World, rng: Random) -> None:
    """A start that calls sys.exit is a failure like others."""
    async with world.session("exit") as session:
        await closes(await session.connect(), 4500)


@row(14, weight=0.1)
async def many_starts(world: World, rng: Random) -> None:
    """Thirty starts at once: they all come, and pages are answered meanwhile."""

    async def one() -> None:
        async with world.session("slow", delay=0.5) as session:
            await echoes(session, await session.connect())

    starts = [asyncio.ensure_future(one()) for _ in range(30)]
    slowest = 0.0
    while not all(start.done() for start in starts):
        began = time.monotonic()
        await world.status()
        slowest = max(slowest, time.monotonic() - began)
    await asyncio.gather(*starts)
    if slowest > 5:
        raise Violation("lag", f"the status took {slowest:.1f} s")


@row(15)
async def stop_raises(world: World, rng: Random) -> None:
    """A stop that raises and ends nothing: its programs are ended without it."""
    async with world.session(end="bad") as session:
        await echoes(session, await session.connect())


@row(16)
async def stop_hangs(world: World, rng: Random) -> None:
    """A stop that hangs: quarantined, ended without it, free when it is home."""
    away = rng.choice([0.5, 2.0, 3.5])
    async with world.session("good", "Short", end="never", delay=away) as session:
        browser = await session.connect()
        await echoes(session, browser)
        browser.close()
        if away > 2.5:
            await session.reached("quarantined")


@row(17)
async def service_does_not_want_to_end(world: World, rng: Random) -> None:
    """Programs that ignore TERM, run away by setsid, or are stopped: all are gone."""
    async with world.session("stubborn") as session:
        await echoes(session, await session.connect())


@row(19)
async def service_dies(world: World, rng: Random) -> None:
    """A service that is killed: the client is told within a second."""
    async with world.session("dies") as session:
        browser = await session.connect()
        await echoes(session, browser)
        (note,) = [n for n in world.notes.of(session.mark) if n[1] == "program"]
        os.kill(int(note[5]), signal.SIGKILL)
        began = time.monotonic()
        await closes(browser, 1000, 4502)
        if time.monotonic() - began > 2:
            raise Violation("deadline", "a dead service was noticed late")
