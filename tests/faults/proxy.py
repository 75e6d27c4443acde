"""A proxy that spoils connections, with toxics named after those of toxiproxy.

``latency`` and ``jitter`` (s), ``bandwidth`` (bytes/s), ``slow_close`` (s), ``timeout`` (s:
nothing passes, then all closes), ``reset_peer`` (RST after so many bytes), ``slicer``
(pieces of about so many bytes), ``limit_data`` (closes after so many bytes), ``down``
(refuses).  A toxic works on what goes to the client, on what goes to the server, or both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random
from socket import socket

from tests.faults.wire import connection, listen, reset, send_all

#: What is read at one time, in bytes.
CHUNK = 1 << 16


@dataclass(frozen=True)
class Toxic:
    """What is wrong with a direction."""

    latency: float = 0
    jitter: float = 0
    bandwidth: float = 0
    slow_close: float = 0
    timeout: float = 0
    reset_peer: int = -1
    slicer: int = 0
    limit_data: int = -1

    @property
    def cut(self) -> int:
        """After how many bytes it ends, -1 for never."""
        return max(self.reset_peer, self.limit_data)


SOUND = Toxic()


class Link:
    """One connection through the proxy."""

    def __init__(self, client: socket, server: socket, down: Toxic, up: Toxic, rng: Random) -> None:
        self.ends = [client, server]
        self._rng = rng
        self._directions = [(server, client, down), (client, server, up)]

    async def run(self) -> None:
        """Carry bytes until both directions have ended, or one breaks off."""
        tasks = [asyncio.ensure_future(self._carry(*way)) for way in self._directions]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            resets = any(toxic.reset_peer >= 0 for _, _, toxic in self._directions)
            for end in self.ends:
                (reset if resets else socket.close)(end)

    async def _carry(self, source: socket, sink: socket, toxic: Toxic) -> None:
        loop, carried = asyncio.get_running_loop(), 0
        if toxic.timeout:
            await asyncio.sleep(toxic.timeout)
            raise ConnectionAbortedError
        while data := await loop.sock_recv(source, CHUNK):
            if toxic.cut >= 0:
                data = data[: toxic.cut - carried]
            for piece in self._pieces(data, toxic):
                await self._wait(len(piece), toxic)
                await send_all(sink, piece)
            carried += len(data)
            if carried == toxic.cut:
                raise ConnectionAbortedError
        await asyncio.sleep(toxic.slow_close)
        sink.shutdown(1)

    def _pieces(self, data: bytes, toxic: Toxic) -> list[bytes]:
        if not toxic.slicer:
            return [data]
        pieces, start = [], 0
        while start < len(data):
            size = self._rng.randint(1, 2 * toxic.slicer)
            pieces.append(data[start : start + size])
            start += size
        return pieces

    async def _wait(self, size: int, toxic: Toxic) -> None:
        pause = toxic.latency + self._rng.uniform(0, toxic.jitter)
        if toxic.bandwidth:
            pause += size / toxic.bandwidth
        if pause:
            await asyncio.sleep(pause)


class Proxy:
    """Listens on ``port``, and forwards to another one; ``down`` refuses new connections."""

    def __init__(self, target: int, down: Toxic, up: Toxic, rng: Random) -> None:
        self._target = target
        self._toxics = down, up
        self._rng = rng
        self._listener = listen()
        self._links: set[asyncio.Task[None]] = set()
        self._clients: list[socket] = []
        self.port: int = self._listener.getsockname()[1]
        self._accepting = asyncio.ensure_future(self._accept())

    async def down(self) -> None:
        """Refuse new connections, and break off those there are."""
        for task in [self._accepting, *self._links]:
            task.cancel()
        await asyncio.gather(self._accepting, *self._links, return_exceptions=True)
        # One whose task has not begun yet is nobody's.
        for end in (self._listener, *self._clients):
            end.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            client.setblocking(False)
            self._clients.append(client)
            self._links.add(asyncio.ensure_future(self._link(client)))

    async def _link(self, client: socket) -> None:
        with contextlib.suppress(OSError):
            try:
                server = await connection(self._target)
            except BaseException:
                client.close()
                raise
            await Link(client, server, *self._toxics, self._rng).run()


@contextlib.asynccontextmanager
async def proxy(
    target: int, rng: Random, down: Toxic = SOUND, up: Toxic = SOUND
) -> AsyncIterator[Proxy]:
    """A proxy in front of a port; ``down`` is towards whoever connects."""
    made = Proxy(target, down, up, rng)
    try:
        yield made
    finally:
        await made.down()
