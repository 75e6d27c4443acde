"""Rows 41 and 49 to 63: what happens to the server itself, most of them to one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.rows_script import closes, echoes
from tests.faults.table import row
from tests.faults.wire import connection, read_all, send_all, service
from tests.faults.world import SERVICES, Session, Violation, World, until
from tests.integration.parts import TRUSTING, Server, certificate, free_port


@contextlib.asynccontextmanager
async def own_world(env: dict[str, str] | None = None, **settings: object) -> AsyncIterator[World]:
    """A server that only one row uses; it must leave nothing behind."""
    with tempfile.TemporaryDirectory(prefix="faults-own-") as folder:
        async with World(Path(folder), env, **settings) as world:
            yield world
        world.check_log()
    if left := world.left():
        raise Violation("process", f"left behind: {left}")


@contextlib.asynccontextmanager
async def open_sessions(world: World, count: int, **options: Any) -> AsyncIterator[list[Session]]:
    """Open so many sessions, whose services echo; they are not looked after."""
    sessions: list[Session] = []
    async with contextlib.AsyncExitStack() as stack:
        try:
            for _ in range(count):
                there = await stack.enter_async_context(service(echoes=True))
                sessions.append(await world.reserve("Double", there, **options))
                await sessions[-1].connect()
            yield sessions
        finally:
            for session in sessions:
                session.close()


async def exit_status(world: World, seconds: float) -> int:
    """Wait for the end of the server."""
    process = world.server.process
    await until(lambda: process.poll() is not None, "deadline", "it does not end", seconds)
    return int(process.returncode)


@row(49, weight=0.1, apart=True)
async def sigterm(world: World, rng: Random) -> None:
    """SIGTERM with live sessions: 1001 to all, every stop runs, exit."""
    async with own_world() as own, open_sessions(own, 10) as sessions:
        for session in sessions:
            await echoes(session, session.browsers[0])
        own.server.process.terminate()
        await asyncio.gather(*(closes(s.browsers[0], 1001) for s in sessions))
        if await exit_status(own, 10) not in (0, -signal.SIGTERM):
            raise Violation("error", f"exit status {own.server.process.returncode}")
        for session in sessions:
            if session.notes() != ["start", "started", "stop", "stopped"]:
                raise Violation("start", f"{session.notes()}")


@row(50, weight=0.1, apart=True)
async def sigterm_while_scripts_hang(world: World, rng: Random) -> None:
    """SIGTERM with starts and stops that hang: the end comes in time all the same."""
    async with (
        own_world() as own,
        open_sessions(own, 3, mode="never", delay=600),
        open_sessions(own, 3, end="never", delay=600) as hung,
    ):
        for session in hung:
            await echoes(session, session.browsers[0])
        own.server.process.terminate()
        await exit_status(own, 6 + 6)


@row(51, weight=0.1, apart=True)
async def sigterm_twice(world: World, rng: Random) -> None:
    """A second signal while it stops: it still ends in time, and leaves nothing."""
    async with own_world() as own, open_sessions(own, 2, mode="never", delay=600):
        for _ in range(3):
            own.server.process.send_signal(rng.choice([signal.SIGTERM, signal.SIGINT]))
            await asyncio.sleep(rng.uniform(0, 0.5))
        await exit_status(own, 6 + 6)


async def live(world: World, mode: str, delay: float, stay: float) -> None:
    """Have one session, from the reservation to the end."""
    async with open_sessions(world, 1, mode=mode, delay=delay):
        await asyncio.sleep(stay)


@row(52, weight=0.1, apart=True)
async def sigkill(world: World, rng: Random) -> None:
    """SIGKILL at any instant: all programs are gone within 10 s, and a restart finds none."""
    with tempfile.TemporaryDirectory(prefix="faults-own-") as folder:
        async with World(Path(folder)) as own:
            lives = [
                asyncio.ensure_future(live(own, mode, rng.uniform(0, 0.5), rng.uniform(0, 0.5)))
                for mode in ("good", "good", "slow", "slow", "stubborn", "stubborn", "fork", "bad")
            ]
            await asyncio.sleep(rng.uniform(0, 1))
            own.server.process.kill()
            await asyncio.gather(*lives, return_exceptions=True)
        if rng.random() < 0.5:
            # Without a restart, too.
            await until(lambda: not own.left(), "process", "left after SIGKILL", 10)
        async with World(Path(folder)) as again:
            if left := own.left():
                raise Violation("process", f"left behind when it listens again: {left}")
            async with again.session() as session:
                await echoes(session, await session.connect())


@row(53, weight=0.1, apart=True)
async def supervisors_die_too(world: World, rng: Random) -> None:
    """Server and supervisors are killed: the next server ends the rest, if it knows of it."""
    with tempfile.TemporaryDirectory(prefix="faults-own-") as folder:
        async with World(Path(folder)) as own, open_sessions(own, 2, mode="stubborn") as sessions:
            for session in sessions:
                await echoes(session, session.browsers[0])
            own.server.process.send_signal(signal.SIGSTOP)
            for supervisor in own.server.supervisors():
                supervisor.kill()
            own.server.process.kill()
        assert own.left(), "they should have had survivors"
        torn = rng.random() < 0.5
        if torn:
            (journal,) = Path(folder, "state").glob("*.journal")
            os.truncate(journal, rng.randrange(journal.stat().st_size))
        async with World(Path(folder)) as again:
            left = own.left()
            if left and not torn:
                raise Violation("process", f"left behind when it listens again: {left}")
            async with again.session() as session:
                await echoes(session, await session.connect())
        for pid, _ in left:
            os.kill(pid, signal.SIGKILL)


GOOD = SERVICES["Double"]
EDITS: list[Any] = [
    {**SERVICES, "Edited": {**GOOD, "count": 3}},
    {**SERVICES, "Edited": {**GOOD, "count": 1, "max_connections": 2}},
    SERVICES,
    {**SERVICES, "Edited": {**GOOD, "count": 0}},
    {**SERVICES, "Edited": {**GOOD, "count": "2"}},
    {**SERVICES, "Edited": {**GOOD, "conut": 1}},
    {**SERVICES, "Edited": {**GOOD, "script": "../double_session.py"}},
    {**SERVICES, "Edited": {**GOOD, "script": "nowhere.py"}},
    {**SERVICES, "Edited": {**GOOD, "script": "broken.py"}},
]
TEXTS = [
    b"", b"{", b"[]", b"null", b'{"A": 1}', b'{"A": {}, "A": {}}', b"\xff\xfe{}", b'{"A": NaN}',
    b"[" * 100_000, b'{"A":' * 5_000, b"\x00" * 100, b" " * 2_000_000, b'{"": ""}',
]  # fmt: skip
BROKEN = [
    "", "1 / 0", "import nowhere", "def create(:", "raise SystemExit(3)", "class A: pass",
    "from wsserver import RemoteServiceScript\nclass A(RemoteServiceScript): pass\n"
    "class B(RemoteServiceScript): pass", "create = 3", "\x00", "while True: 1 / 0",
]  # fmt: skip


@row(55, weight=0.5)
async def reload(world: World, rng: Random) -> None:
    """SIGHUP with good and bad files (13, 63): bad ones change nothing, live sessions go on."""
    async with world.turn, world.session() as session:
        browser = await session.connect()
        await echoes(session, browser)
        for _ in range(rng.randint(1, 4)):
            (world.folder / "broken.py").write_text(rng.choice(BROKEN))
            edit = rng.choice(EDITS)
            good = edit in EDITS[:3]
            world.write_services(edit)
            if not good and rng.random() < 0.5:
                world.services.write_bytes(rng.choice(TEXTS))
            await reloaded(world, good)
            await echoes(session, browser)
        world.write_services(SERVICES)
        await reloaded(world, True)
        await echoes(session, browser)


async def reloaded(world: World, good: bool) -> None:
    """Have the files read again, and check that what is good, and only that, is taken."""
    words = "reloaded: offers" if good else "not reloaded, all stays as it is"
    before = world.server.log.count(words)
    world.server.process.send_signal(signal.SIGHUP)
    await until(lambda: world.server.log.count(words) > before, "reload", f"not {words!r}", 10)


@row(56, weight=0.1, apart=True)
async def disk_is_full(world: World, rng: Random) -> None:
    """A log that cannot be written: sessions come and go all the same."""
    settings = {"http_port": free_port(), "log_file": "/dev/full"}
    async with own_world(**settings) as own, own.session() as session:
        await echoes(session, await session.connect())


@row("56b", weight=0.1, apart=True)
async def journal_cannot_be_written(world: World, rng: Random) -> None:
    """Nowhere to note sessions: what would start programs fails cleanly, all else goes on."""
    async with own_world(state_directory="/dev/full/nowhere") as own:
        for _ in range(3):
            async with own.session() as session:
                await closes(await session.connect(), 4500)
            async with own.session("port") as session:
                await echoes(session, await session.connect())


@row(58, weight=0.1, apart=True)
async def files_run_out(world: World, rng: Random) -> None:
    """Too few open files for everybody: refusals, clean ends, and then all works again."""
    async with own_world() as own:
        async with open_sessions(own, 5) as sessions:
            for session in sessions:
                await echoes(session, session.browsers[0])
            resource.prlimit(own.pid, resource.RLIMIT_NOFILE, (128, 128))
            crowd = []
            for _ in range(300):
                with contextlib.suppress(OSError):
                    crowd.append(await connection(own.port))
            for session in sessions:
                await echoes(session, session.browsers[0])
        for sock in crowd:
            sock.close()
        for session in sessions:
            await session.ended(1)
        async with own.session() as session:
            await echoes(session, await session.connect())


@row(59, weight=0.1, apart=True)
async def clock_steps(world: World, rng: Random) -> None:
    """The wall clock jumps by an hour: nothing expires early, or late; sessions go on."""
    # Without programs: under libfaketime the sleep of a thread may fail.
    with tempfile.NamedTemporaryFile("w") as file:

        def jump(seconds: int) -> None:
            file.seek(0)
            file.truncate()
            file.write(f"{seconds:+d}")
            file.flush()

        jump(0)
        (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
        env = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": file.name,
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        async with own_world(env) as own, own.session("port") as session:
            browser = await session.connect()
            for step in rng.sample([3600, -3600, 86400, -1, 1], 3):
                async with own.session("port", starts=0) as unused:
                    began = time.monotonic()
                    jump(step)
                    await echoes(session, browser)
                    await asyncio.sleep(1)
                    if await unused.state() != "reserved":
                        raise Violation("deadline", "a reservation has expired early")
                    await unused.reached("")
                    if not 2.9 < time.monotonic() - began < 6:
                        raise Violation("deadline", f"after {time.monotonic() - began:.1f} s")
            await echoes(session, browser)


@row("59b", weight=0.1, apart=True)
async def server_is_stopped(world: World, rng: Random) -> None:
    """The server is stopped for longer than ping and answer take, and goes on: so do sessions."""
    async with own_world() as own, own.session() as session:
        browser = await session.connect()
        await echoes(session, browser)
        own.server.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(2.5, 4))
        own.server.process.send_signal(signal.SIGCONT)
        for _ in range(20):
            await echoes(session, browser)
            await asyncio.sleep(0.1)


@row(60, weight=0.1, apart=True)
async def loop_is_blocked(world: World, rng: Random) -> None:
    """A script blocks the event loop for longer than ping and answer take: nobody is dropped."""
    async with own_world() as own, own.session() as session:
        browser = await session.connect()
        await echoes(session, browser)
        async with own.session("block", delay=rng.uniform(2.5, 3.5)) as culprit:
            await culprit.connect()
            for _ in range(20):
                await echoes(session, browser)
                await asyncio.sleep(0.1)


@row(61, weight=0.1, apart=True)
async def port_is_taken(world: World, rng: Random) -> None:
    """A port that is taken, the first or the second: one line, exit status 1, nothing listens."""
    other = free_port()
    ports = rng.choice([("--http_port", world.port, other), ("--http_port", other, world.port)])
    taken = await asyncio.to_thread(Server, "--interface", "127.0.0.1", *ports)
    try:
        status = await asyncio.to_thread(taken.ended, 30)
        if status != 1 or "Couldn't listen on" not in taken.log or "Traceback" in taken.log:
            raise Violation("error", f"exit status {status}: {taken.log}")
    finally:
        taken.__exit__()


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


@row(41, weight=0.1, apart=True)
async def tls_is_spoilt(world: World, rng: Random) -> None:
    """TLS that stays away, stops half-way, is none, ends without close_notify: never a hang."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = await asyncio.to_thread(certificate, Path(folder))
        async with own_world(cert=cert, key=key) as own:
            await asyncio.to_thread(get_and_break_off, own.port)
            files = own.files()
            for words in (b"", HELLO, b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(500)):
                sock = await connection(own.port)
                began = time.monotonic()
                await send_all(sock, words)
                async with asyncio.timeout(20):
                    await read_all(sock)
                sock.close()
                if time.monotonic() - began > 3 + 2:
                    raise Violation("deadline", "head_timeout of 3 s is over late")
            for _ in range(5):
                await asyncio.to_thread(get_and_break_off, own.port)
            await until(lambda: own.files() <= files, "descriptors", "files are left open", 10)


def get_and_break_off(port: int) -> None:
    """Make a request, read a part of the answer, and close without the end of TLS."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        secure = TRUSTING.wrap_socket(sock)
        secure.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not secure.recv(100).startswith(b"HTTP/1.1 200"):
            raise Violation("error", "no answer by TLS")
        secure.close()
