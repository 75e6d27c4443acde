"""Figures that need services of our server, started by scripts: only it can be measured."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.browser import Browser
from benchmarks.figures import MIB, echo, ping_pong
from benchmarks.peers import WSSERVER, Host, Peer, Place, Server, serving, twistd
from benchmarks.service import DOWN, ECHO, command

_SCRIPTS = Path(__file__).parent / "scripts"
#: How many late services start at one time.
LATE = 6


@contextlib.contextmanager
def scripted(host: Host) -> Iterator[Server]:
    """Run our server with the scripts, and a tunnel without token besides."""
    port = {"port": host.service_port}
    services = {
        "Late": {"script": "late.py", "count": 4 * LATE, "options": {}},
        "Burn": {"script": "burn.py", "count": 2, "options": port},
    }
    # Scripts must stand beside their service file.
    folder = shutil.copytree(_SCRIPTS, host.folder / "scripts", dirs_exist_ok=True)
    file = folder / "services.json"
    file.write_text(json.dumps(services))

    def argv(place: Place) -> list[str]:
        basic = ["--client_port", str(place.service_port)]
        return twistd(place, "-c", str(file), "--http_port", str(place.port), *basic)

    with serving(Peer("scripted", WSSERVER.label, argv), host.place()) as server:
        yield server


def _reserve(server: Server, query: str) -> str:
    url = f"http://127.0.0.1:{server.place.port}/v1/reserve/{query}"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as answer:
        return f"/websockify?token={json.load(answer)['token']}"


def first_bytes(server: Server, wait: bool) -> list[float]:
    """Return how long after the services listened their first byte was in the browsers.

    They listen one after the other, a tenth of a second apart, about a second from now.
    """
    seconds: list[float] = []

    def browse(number: int) -> None:
        delay = 1.0 + 0.117 * number
        path = _reserve(server, f"Late?delay={delay}&wait={str(wait).lower()}")
        browser = server.open(path)
        (began,) = struct.unpack("d", browser.read(8))
        seconds.append(time.monotonic() - began)
        browser.close()

    threads = [threading.Thread(target=browse, args=(number,)) for number in range(LATE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) != LATE:
        raise RuntimeError("a late service was not reached; see above")
    return seconds


def lag(server: Server, seconds: float, burners: int) -> tuple[list[float], float]:
    """Return the latencies of echoes, and MiB/s down, while scripts compute in their threads."""
    waiting = []
    for _ in range(burners):
        path = _reserve(server, f"Burn?seconds={2 * seconds + 5}")
        # The websocket is there at once, the service behind it is not.
        waiting.append(server.open(path))
    browser = server.open()
    try:
        echo(browser, b"!")
        return _echoes_for(browser, seconds), _rate_for(browser, seconds)
    finally:
        for one in [browser, *waiting]:
            one.close()


def _echoes_for(browser: Browser, seconds: float) -> list[float]:
    latencies: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        browser.send(command(ECHO, 32 * 20))
        latencies += ping_pong(browser, b"x" * 32, 20)
        # So that the server sleeps now and then, as it would.
        time.sleep(0.002)
    return latencies


def _rate_for(browser: Browser, seconds: float) -> float:
    end = time.monotonic() + seconds
    began, amount = time.monotonic(), 0
    while time.monotonic() < end:
        left = 4 * MIB
        browser.send(command(DOWN, left))
        while left:
            left -= browser.swallow()
        amount += 4
    return amount / (time.monotonic() - began)
