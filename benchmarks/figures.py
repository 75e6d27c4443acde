"""Every figure, as a small function that measures one server once.

All take the server and return what they saw; ``rounds.py`` repeats and interleaves them.
CPU is that of the server's process tree alone, see ``processes.cpu_seconds``.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.browser import Browser, open_many, swallow_all
from benchmarks.frames import masked
from benchmarks.peers import Server
from benchmarks.processes import settle
from benchmarks.service import DOWN, ECHO, SINK, Service, command

GIB = 1 << 30
MIB = 1 << 20


@dataclass
class Run:
    """What the server spent on a piece of work."""

    cpu: float = 0.0
    wall: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def busy(self) -> float:
        """The share of one core that the server had: near 1, it was the bottleneck."""
        return self.cpu / self.wall


@contextmanager
def measured(server: Server) -> Iterator[Run]:
    """Measure what is done in the context."""
    run = Run()
    cpu, wall = server.cpu(), time.perf_counter()
    yield run
    run.wall = time.perf_counter() - wall
    run.cpu = server.cpu() - cpu


@contextmanager
def opened(server: Server, count: int) -> Iterator[list[Browser]]:
    """Open connections that have been through the tunnel once, and close them."""
    browsers = open_many(count, server.connect)
    try:
        for browser in browsers:
            echo(browser, b"!")
        yield browsers
    finally:
        for browser in browsers:
            browser.close()


def echo(browser: Browser, payload: bytes) -> None:
    """Send bytes there and back."""
    browser.send(command(ECHO, len(payload)))
    browser.send(payload)
    assert browser.read(len(payload)) == payload


def verify(server: Server) -> None:
    """Fail unless bytes come through unchanged, in odd pieces."""
    with opened(server, 1) as (browser,):
        for size in (1, 7, 125, 126, 65535, 65536, 300_007):
            echo(browser, os.urandom(size))


# -- bytes and frames: ``amount`` is how many


def down(server: Server, amount: int, connections: int = 1) -> Run:
    """Service to browser."""
    each = amount // connections
    with opened(server, connections) as browsers, measured(server) as run:
        for browser in browsers:
            browser.send(command(DOWN, each))
        swallow_all(browsers, each)
    return run


def up(server: Server, amount: int, sizes: list[int]) -> Run:
    """Browser to service, in frames of these sizes, again and again, made beforehand."""
    with opened(server, 1) as (browser,):
        wire = b"".join(browser.wrap(os.urandom(size)) for size in sizes)
        count = max(1, amount // sum(sizes))
        with measured(server) as run:
            browser.send(command(SINK, count * sum(sizes)))
            for _ in range(count):
                browser.sock.sendall(wire)
            browser.read(1)
        # As if it had been the amount that was asked for, and not just about that.
        run.cpu *= amount / (count * sum(sizes))
        run.wall *= amount / (count * sum(sizes))
    return run


def up_64k(server: Server, amount: int) -> Run:
    return up(server, amount, [65536] * 4)


def up_8(server: Server, frames: int) -> Run:
    """Frames of 8 bytes, all alike."""
    return up(server, frames * 8, [8] * min(frames, 16384))


def up_mixed(server: Server, frames: int) -> Run:
    """Small frames of several sizes, as VNC's: 6 (pointer), 8 (key), 10 (update request) ..."""
    sizes = _mixed(min(frames, 16384))
    return up(server, frames * sum(sizes) // len(sizes), sizes)


def _mixed(count: int) -> list[int]:
    # The same in every run.
    return random.Random(1).choices([6, 8, 10, 20, 45], [60, 12, 20, 4, 4], k=count)


def bursts(server: Server, count: int) -> Run:
    """Two messages of 32 bytes at once, and both back: one packet must not wait for another."""
    with opened(server, 1) as (browser,):
        browser.send(command(ECHO, 64 * count))
        with measured(server) as run:
            for _ in range(count):
                began = time.perf_counter()
                browser.send(b"1" * 32)
                browser.send(b"2" * 32)
                browser.read(64)
                run.latencies.append(time.perf_counter() - began)
    return run


def echoes(server: Server, count: int) -> Run:
    """One message of 32 bytes there and back, then the next."""
    message = os.urandom(32)
    with opened(server, 1) as (browser,):
        browser.send(command(ECHO, 32 * (count + 100)))
        ping_pong(browser, message, 100)
        with measured(server) as run:
            run.latencies = ping_pong(browser, message, count)
    return run


def ping_pong(browser: Browser, message: bytes, count: int) -> list[float]:
    """Send and await a message so often; return how long each took, in seconds."""
    wire = browser.wrap(message)
    clock = time.perf_counter
    latencies = []
    for _ in range(count):
        began = clock()
        browser.sock.sendall(wire)
        browser.read(len(message))
        latencies.append(clock() - began)
    return latencies


# -- connections


def starts(server: Server, service: Service, count: int) -> tuple[Run, Run]:
    """Open connections, ten at a time, until the service has them; then close them."""
    before = service.accepted()
    with measured(server) as start:
        browsers = open_many(count, server.connect)
        while service.accepted() < before + count:
            time.sleep(0.005)
        wall = time.perf_counter()
        settle(server.pid)
        waited = time.perf_counter() - wall
    start.wall -= waited
    with measured(server) as end:
        for browser in browsers:
            browser.close()
        settle(server.pid)
    return start, end


# -- memory


def idle_memory(server: Server, counts: list[int]) -> dict[int, float]:
    """Return the bytes that so many open tunnels take, all together."""
    # Once through everything, so that what is loaded lazily counts for no tunnel.
    with opened(server, 2):
        pass
    settle(server.pid)
    before = server.memory()
    browsers: list[Browser] = []
    taken = {0: 0.0}
    try:
        for count in counts:
            new = open_many(count - len(browsers), server.connect)
            browsers += new
            for browser in new:
                echo(browser, b"0123456789abcdef")
            settle(server.pid)
            taken[count] = server.memory() - before
    finally:
        for browser in browsers:
            browser.close()
    return taken


@dataclass
class Stalled:
    """Browsers that do not read, while the service has much for them."""

    memory_each: float
    peak_each: float
    input_share: float


def stalled(server: Server, service: Service, count: int, offered: int) -> Stalled:
    """Offer bytes to browsers that do not read; then let these send, and see it arrive."""
    with opened(server, 2):
        pass
    settle(server.pid)
    before = server.memory()
    with opened(server, count) as browsers:
        for browser in browsers:
            browser.send(command(DOWN, offered))
        peak = _peak_until_quiet(server) - before
        memory = server.memory() - before
        share = _input_share(browsers, service)
    return Stalled(memory / count, peak / count, share)


def _peak_until_quiet(server: Server, timeout: float = 30.0) -> int:
    """Return the most memory that was seen before the server came to rest."""
    end = time.monotonic() + timeout
    peak = quiet = 0
    cpu = server.cpu()
    while quiet < 5 and time.monotonic() < end:
        time.sleep(0.2)
        peak = max(peak, server.memory())
        cpu, before = server.cpu(), cpu
        quiet = quiet + 1 if cpu - before < 0.01 else 0
    return peak


def _input_share(browsers: list[Browser], service: Service) -> float:
    """Return the share of what stalled browsers send that arrives."""
    message = masked(os.urandom(1000)) if browsers[0].framing == "ws" else os.urandom(1000)
    before = service.input_during_down()
    for browser in browsers:
        browser.sock.sendall(message)
    sent = 1000 * len(browsers)
    end = time.monotonic() + 3.0
    while (arrived := service.input_during_down() - before) < sent and time.monotonic() < end:
        time.sleep(0.02)
    return arrived / sent


# -- many tunnels


@dataclass
class Crowd:
    """What it costs to be one of many tunnels."""

    tunnels: int
    cpu_per_gib: float
    cpu_per_echo: float
    idle_cpu_per_second: float
    memory_each: float


def crowd(server: Server, counts: list[int], amount: int, messages: int) -> Iterator[Crowd]:
    """Open ever more tunnels, and measure the cost per byte and per message each time.

    Bytes go down through eight of the tunnels, messages there and back through all in turn,
    fifty at a time.
    """
    with opened(server, 2):
        pass
    settle(server.pid)
    before = server.memory()
    browsers: list[Browser] = []
    try:
        for count in counts:
            new = open_many(count - len(browsers), server.connect, 50)
            browsers += new
            for browser in new:
                echo(browser, b"!")
            settle(server.pid)
            yield _crowd(server, browsers, amount, messages, before)
    finally:
        for browser in browsers:
            browser.close()


def _crowd(
    server: Server, browsers: list[Browser], amount: int, messages: int, before: int
) -> Crowd:
    count = len(browsers)
    memory = (server.memory() - before) / count
    # Spread over all, for the place in the server's tables may matter.
    some = browsers[:: max(1, count // 8)][:8]
    each = amount // len(some)
    with measured(server) as bytes_run:
        for browser in some:
            browser.send(command(DOWN, each))
        swallow_all(some, each)
    rounds = -(-messages // count)
    asked = browsers[: messages // rounds]
    for browser in asked:
        browser.send(command(ECHO, 32 * rounds))
    settle(server.pid)
    with measured(server) as echo_run:
        for _ in range(rounds):
            _echo_in_groups(asked)
    with measured(server) as idle_run:
        time.sleep(2.0)
    return Crowd(
        count,
        bytes_run.cpu * GIB / (each * len(some)),
        echo_run.cpu / (rounds * len(asked)),
        idle_run.cpu / idle_run.wall,
        memory,
    )


def _echo_in_groups(browsers: list[Browser], size: int = 50) -> None:
    message = os.urandom(32)
    for first in range(0, len(browsers), size):
        group = browsers[first : first + size]
        for browser in group:
            browser.send(message)
        for browser in group:
            browser.read(32)


# -- enough of it


def enough(run: Callable[[int], Run], first: int, cpu: float, most: int) -> int:
    """Return how much work takes the server so many seconds of CPU; ``most`` bounds it."""
    amount = first
    while True:
        spent = run(amount).cpu
        if spent >= cpu / 3 or amount >= most:
            return min(most, max(first, int(amount * cpu / max(spent, 1e-4))))
        amount = min(most, amount * 4)
