"""The relay of a real server: much, slow, broken off."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed

from tests.integration.parts import TRUSTING, Server, certificate, connect, folder, until

MIB = 1 << 20
BLOCK = os.urandom(MIB)


class Service:
    """A TCP service that treats each connection as it is told, in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def drained(peer: socket.socket, pause: float = 0.0) -> tuple[int, str]:
    """Read to the end; return how much there was, and its hash."""
    digest, size = hashlib.sha256(), 0
    while data := peer.recv(MIB):
        digest.update(data)
        size += len(data)
        time.sleep(pause)
    return size, digest.hexdigest()


def meant(blocks: int, more: bytes = b"") -> tuple[int, str]:
    """The same of what was meant to come."""
    return blocks * MIB + len(more), hashlib.sha256(BLOCK * blocks + more).hexdigest()


def basic(service: Service, *options: object) -> Server:
    return Server("--client_port", service.port, "--interface", "127.0.0.1", *options)


def read_all(browser: Any, pause: float = 0.0) -> tuple[tuple[int, str], int]:
    """Read a websocket to its end; return size, hash and close code."""
    digest, size = hashlib.sha256(), 0
    try:
        while True:
            data = browser.recv()
            digest.update(data)
            size += len(data)
            time.sleep(pause)
    except ConnectionClosed as end:
        return (size, digest.hexdigest()), end.rcvd.code if end.rcvd else 1006


class BothWaysTests(SynchronousTestCase):
    async def both(self, url: str, blocks: int) -> tuple[int, str]:
        trust = {"ssl": TRUSTING} if url.startswith("wss") else {}
        async with connect_async(url, max_size=None, compression=None, **trust) as browser:

            async def send() -> None:
                for _ in range(blocks):
                    await browser.send(BLOCK)

            sending = asyncio.create_task(send())
            digest, size = hashlib.sha256(), 0
            while size < blocks * MIB:
                data = await asyncio.wait_for(browser.recv(), 30)
                digest.update(data)
                size += len(data)
            await sending
            return size, digest.hexdigest()

    def test_both_ways(self) -> None:
        """Much goes both ways at one time, unchanged: plain and TLS, one port and two."""

        def echo(peer: socket.socket) -> None:
            while data := peer.recv(MIB):
                peer.sendall(data)

        with folder() as path, Service(echo) as service:
            cert, key = certificate(path)
            for options in ((), ("--http_port", -1, 0)):
                for tls in ((), ("--cert", cert, "--key", key)):
                    own = options or ("--http_port", 0)
                    with basic(service, *tls, *own) as server:
                        self.assertEqual(asyncio.run(self.both(server.ws, 40)), meant(40))


class EndTests(SynchronousTestCase):
    def secured(self) -> list[tuple[object, ...]]:
        cert, key = certificate(self.enterContext(folder()))
        return [(), ("--cert", cert, "--key", key)]

    def browser(self, server: Server) -> Any:
        return connect(server.ws, max_size=None, compression=None, max_queue=1)

    def test_slow_browser(self) -> None:
        """All that a service sent before it ended arrives, though no deadline would allow it."""

        def speak(peer: socket.socket) -> None:
            with peer:
                for _ in range(12):
                    peer.sendall(BLOCK)

        with Service(speak) as service:
            for tls in self.secured():
                options = ("--http_port", 0, "--close_timeout", 0.2)
                with basic(service, *options, *tls) as server, self.browser(server) as browser:
                    # 256 KiB at a time, more than ten deadlines in all.
                    got, code = read_all(browser, 0.05)
                    self.assertEqual((got, code), (meant(12), 1000))

    def test_slow_service(self) -> None:
        """All that a browser sent before it closed arrives at a service that reads slowly."""
        got: list[tuple[int, str]] = []

        def listen(peer: socket.socket) -> None:
            with peer:
                got.append(drained(peer, 0.03))

        with Service(listen) as service:
            for tls in self.secured():
                options = ("--http_port", 0, "--close_timeout", 0.2)
                with basic(service, *options, *tls) as server:
                    with self.browser(server) as browser:
                        for _ in range(12):
                            browser.send(BLOCK)
                    until(lambda: got)
                    self.assertEqual(got.pop(), meant(12))

    def test_half_closed_service(self) -> None:
        """A service that ends its side still gets what the browser has sent until it knew."""
        got: list[tuple[int, str]] = []
        begun = threading.Event()

        def listen(peer: socket.socket) -> None:
            with peer:
                peer.sendall(b"hello")
                begun.wait(20)
                peer.shutdown(socket.SHUT_WR)
                got.append(drained(peer, 0.02))

        with Service(listen) as service, basic(service, "--http_port", 0) as server:
            with self.browser(server) as browser:
                self.assertEqual(browser.recv(), b"hello")
                # These are under way when the service ends.
                browser.send(BLOCK * 2)
                begun.set()
                _, code = read_all(browser)
            until(lambda: got)
            self.assertEqual((got.pop(), code), (meant(2), 1000))

    def test_service_resets(self) -> None:
        """A service that breaks off in mid-stream gives the browser a prefix, and 4502."""

        def speak(peer: socket.socket) -> None:
            peer.sendall(BLOCK)
            peer.recv(1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        with Service(speak) as service, basic(service, "--http_port", 0) as server:
            with self.browser(server) as browser:
                got = b""
                while len(got) < MIB:
                    got += browser.recv()
                browser.send(b"!")
                _, code = read_all(browser)
            self.assertEqual((got, code), (BLOCK, 4502))


class BrokenOffTests(SynchronousTestCase):
    def test_many(self) -> None:
        """Tunnels that break off while bytes move leave no descriptor and no thread behind."""

        def chatter(peer: socket.socket) -> None:
            try:
                with peer:
                    while True:
                        peer.sendall(BLOCK[:50_000])
                        if random.random() < 0.02:
                            peer.setsockopt(
                                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                            )
                            return
            except OSError:
                return

        with Service(chatter) as service, basic(service, "--http_port", 0) as server:
            process = psutil.Process(server.process.pid)
            self.one(server, 1)
            until(lambda: len(process.net_connections()) == 1)
            before = process.num_fds()
            for number in range(100):
                self.one(server, number)
            until(lambda: len(process.net_connections()) == 1)
            until(lambda: process.num_fds() == before)
            server.stop()
        self.assertNotIn("Traceback", server.log)
        self.assertNotIn("Unhandled", server.log)

    def one(self, server: Server, number: int) -> None:
        """Open a tunnel, read and send a little, and go in one of three ways."""
        try:
            browser = connect(server.ws, max_size=None, compression=None)
            for _ in range(number % 7):
                browser.recv()
                browser.send(BLOCK[: 7 * number])
            if number % 3 == 0:
                browser.close()
            elif number % 3 == 1:
                browser.socket.shutdown(socket.SHUT_RDWR)
            else:
                linger = struct.pack("ii", 1, 0)
                browser.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                browser.socket.close()
        except (ConnectionClosed, OSError):
            # The service may have gone first.
            return
