"""Sessions as people and programs have them: short, long, slow, broken off, failing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.parts import TRUSTING, Server, fetch

MIB = 1 << 20
BLOCK = os.urandom(MIB)
#: How long anything of one session may take, in seconds: far from what it should.
PATIENCE = 60.0


class Load:
    """Keeps so many sessions going on the servers; counts them by kind in ``done``."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        self._servers = servers
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._ending = False
        #: How often each kind comes.
        self._kinds: dict[Callable[[Server], Coroutine[Any, Any, None]], int] = {
            self.short: 30,
            self.long: 6,
            self.slow_reader: 6,
            self.slow_service: 4,
            self.leaver: 10,
            self.failing: 6,
            self.flood: 8,
            self.broken_off: 10,
            self.process: 3,
            self.unused: 5,
            self.released: 4,
        }

    async def run(self, at_a_time: int) -> None:
        """Go on until ``end``."""
        await asyncio.gather(*(self._client() for _ in range(at_a_time)))

    def end(self) -> None:
        """Begin no more."""
        self._ending = True

    async def _client(self) -> None:
        while not self._ending:
            (kind,) = self._random.choices([*self._kinds], [*self._kinds.values()])
            server = self._random.choice(self._servers)
            try:
                await asyncio.wait_for(kind(server), PATIENCE)
                self.done[kind.__name__] += 1
            except Exception as error:
                self.wrong.append(f"{kind.__name__}: {error!r}")
                await asyncio.sleep(1)

    # -- the kinds

    async def short(self, server: Server) -> None:
        """In, a few bytes there and back, and out."""
        async with self._open(server, "Light") as browser:
            for _ in range(3):
                await self._echo(browser, self._random.randint(1, 5000))

    async def long(self, server: Server) -> None:
        """Half a minute of typing."""
        async with self._open(server, "Light") as browser:
            for _ in range(self._random.randint(10, 60)):
                if self._ending:
                    return
                await self._echo(browser, 20)
                await asyncio.sleep(0.5)

    async def slow_reader(self, server: Server) -> None:
        """Much is on its way to a browser that does not hurry."""
        async with self._open(server, "Light", max_queue=1) as browser:
            await self._echo(browser, 1)
            await self._echo(browser, 4 * MIB, pause=0.02)

    async def slow_service(self, server: Server) -> None:
        """Much is on its way to a service that does not hurry."""
        async with self._open(server, "Sluggish") as browser:
            await browser.recv()
            for _ in range(4):
                await browser.send(BLOCK)

    async def leaver(self, server: Server) -> None:
        """Gone while the service starts."""
        async with self._open(server, "Late") as browser:
            await asyncio.sleep(self._random.random() * 0.6)
            self._reset(browser)

    async def failing(self, server: Server) -> None:
        """The script fails, and the browser is told."""
        async with self._open(server, "Broken") as browser:
            with contextlib.suppress(ConnectionClosed):
                await browser.recv()
            if browser.close_code != 4500:
                raise AssertionError(f"closed with {browser.close_code}")

    async def flood(self, server: Server) -> None:
        """Thousands of small frames."""
        async with self._open(server, "Light") as browser:
            await self._echo(browser, 1)
            reading = asyncio.create_task(self._read(browser, 3000 * 8))
            for _ in range(3000):
                await browser.send(b"12345678")
            await reading

    async def broken_off(self, server: Server) -> None:
        """Gone while bytes move both ways."""
        async with self._open(server, "Light") as browser:
            await self._echo(browser, 1)
            with contextlib.suppress(ConnectionClosed):
                await browser.send(BLOCK)
                await self._read(browser, self._random.randrange(MIB))
            self._reset(browser)

    async def process(self, server: Server) -> None:
        """A service that is a program of its own."""
        async with self._open(server, "Echo") as browser:
            await self._echo(browser, 1000)

    async def unused(self, server: Server) -> None:
        """Reserved, and forgotten."""
        await self._reserve(server, "Light")

    async def released(self, server: Server) -> None:
        """Reserved, and given back."""
        token = await self._reserve(server, "Light")
        answer = await asyncio.to_thread(fetch, f"{server.http}/v1/release/{token}")
        if answer.status != 200:
            raise AssertionError(f"release: {answer.status} {answer.reason}")

    # -- what they are made of

    async def _reserve(self, server: Server, name: str) -> str:
        """Reserve, waiting while all are in use."""
        while True:
            answer = await asyncio.to_thread(fetch, f"{server.http}/v1/reserve/{name}")
            if answer.status == 200:
                return str(answer.json()["token"])
            if answer.status != 503:
                raise AssertionError(f"reserve: {answer.status} {answer.reason}")
            await asyncio.sleep(0.5)

    @contextlib.asynccontextmanager
    async def _open(self, server: Server, name: str, **more: Any) -> Any:
        trust = {"ssl": TRUSTING} if server.secure else {}
        while True:
            url = f"{server.ws}?token={await self._reserve(server, name)}"
            try:
                browser = await connect(url, max_size=None, compression=None, **trust, **more)
                break
            except InvalidStatus as refused:
                # So many may start at a time, and a forgotten one may expire meanwhile.
                if refused.response.status_code not in (404, 503):
                    raise
                await asyncio.sleep(0.5)
        try:
            yield browser
        finally:
            await browser.close()

    async def _echo(self, browser: ClientConnection, size: int, pause: float = 0.0) -> None:
        wanted = (BLOCK * (size // MIB + 1))[:size]
        reading = asyncio.create_task(self._read(browser, size, pause))
        for start in range(0, size, MIB):
            await browser.send(wanted[start : start + MIB])
        if await reading != wanted:
            raise AssertionError("other bytes came back")

    async def _read(self, browser: ClientConnection, size: int, pause: float = 0.0) -> bytes:
        got = bytearray()
        while len(got) < size:
            got += await browser.recv()
            if pause:
                await asyncio.sleep(pause)
        return bytes(got)

    def _reset(self, browser: ClientConnection) -> None:
        """Break a connection off, without a word or with one."""
        raw = browser.transport.get_extra_info("socket")
        if raw is not None and self._random.random() < 0.5:
            # It may have gone before.
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        browser.transport.abort()
