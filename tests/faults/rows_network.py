"""Rows 27 and 31: a host that is gone without a word, in a network namespace of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from random import Random

from tests.faults.rows_script import closes, echoes
from tests.faults.rows_server import own_world
from tests.faults.rows_tunnel import client_process
from tests.faults.table import row
from tests.faults.world import Violation, World

ECHO = """
import socket
listener = socket.create_server(("", 0))
print(listener.getsockname()[1], flush=True)
peer = listener.accept()[0]
while data := peer.recv(65536):
    peer.sendall(data)
"""


class Far:
    """Another host: a namespace, and a pair of links that leads there."""

    def __init__(self, rng: Random) -> None:
        self.name = f"wsf{secrets.token_hex(4)}"
        net = f"10.{rng.randrange(200, 250)}.{rng.randrange(256)}"
        self.here, self.there = f"{net}.1", f"{net}.2"

    def run(self, *words: str) -> None:
        done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"ip {' '.join(words)}: {done.stderr}")

    @property
    def inside(self) -> tuple[str, ...]:
        """What runs a program there."""
        return ("ip", "netns", "exec", self.name)

    def build(self) -> None:
        here, there = f"{self.name}a", f"{self.name}b"
        self.run("netns", "add", self.name)
        self.run("link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
        self.run("addr", "add", f"{self.here}/30", "dev", here)
        self.run("link", "set", here, "up")
        self.run("-n", self.name, "addr", "add", f"{self.there}/30", "dev", there)
        self.run("-n", self.name, "link", "set", there, "up")

    def cut(self) -> None:
        """Let nothing through any more, in either direction."""
        self.run("-n", self.name, "link", "set", f"{self.name}b", "down")


@contextlib.asynccontextmanager
async def far_host(rng: Random) -> AsyncIterator[Far]:
    """Another host; needs the right to administer the network."""
    far = Far(rng)
    try:
        await asyncio.to_thread(far.build)
        yield far
    finally:
        await asyncio.to_thread(far.run, "netns", "delete", far.name)


@row(27, weight=0.1, apart=True)
async def service_is_cut_off(world: World, rng: Random) -> None:
    """A service whose network is gone, idle or not: noticed by the kernel, the session ends."""
    async with far_host(rng) as far, own_world() as own:
        there = await asyncio.create_subprocess_exec(
            *far.inside, sys.executable, "-I", "-S", "-c", ECHO, stdout=subprocess.PIPE
        )
        try:
            assert there.stdout is not None
            port = int(await there.stdout.readline())
            async with own.session("port", host=far.there, port=port) as session:
                browser = await session.connect()
                await echoes(session, browser)
                await asyncio.to_thread(far.cut)
                began = time.monotonic()
                idle = rng.random() < 0.5
                if not idle:
                    await browser.send(b"is anybody there")
                await closes(browser, 4502)
                if (seconds := time.monotonic() - began) > 8:
                    raise Violation("deadline", f"after {seconds:.1f} s, {idle=}")
        finally:
            there.kill()
            await there.wait()


@row("31b", weight=0.1, apart=True)
async def client_is_cut_off(world: World, rng: Random) -> None:
    """A client whose network is gone, without FIN or RST: noticed in interval + timeout + 1 s."""
    async with (
        far_host(rng) as far,
        own_world(interface="0.0.0.0") as own,
        own.session("port") as session,
    ):
        client = await client_process(session, far.here, far.inside)
        try:
            await asyncio.to_thread(far.cut)
            began = time.monotonic()
            await session.reached("", "stopping", patience=20)
            if (seconds := time.monotonic() - began) > 1 + 1 + 1 + 1:
                raise Violation("deadline", f"after {seconds:.1f} s")
        finally:
            client.kill()
            await client.wait()
