"""Figures of launched services, which only our server has."""

from __future__ import annotations

import json
import shutil
import struct
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.figures import opened, ping_pong
from benchmarks.peers import Host, Peer, Place, Server, serving, twistd
from benchmarks.service import ECHO, command

SCRIPTS = Path(__file__).parent / "scripts"


def _argv(services: Path, place: Place) -> list[str]:
    basic = ["--client_port", str(place.service_port)]
    return twistd(place, "-c", str(services), "--http_port", str(place.port), *basic)


@contextmanager
def launching(host: Host) -> Iterator[Server]:
    """Run our server with the scripts of this folder, and tunnels without token, too."""
    folder = host.folder / "scripts"
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    services = folder / "services.json"
    late = {"script": "late.py", "count": 4, "options": {}}
    burn = {"script": "burn.py", "count": 4, "options": {"port": host.service_port}}
    services.write_text(json.dumps({"Late": late, "Burn": burn}))
    with serving(Peer("sessions", "wsserver", partial(_argv, services)), host.place()) as server:
        yield server


def _reserve(server: Server, query: str) -> str:
    url = f"http://127.0.0.1:{server.place.port}/v1/reserve/{query}"
    with urllib.request.urlopen(url) as answer:
        token: str = json.load(answer)["token"]
    return f"/websockify?token={token}"


def first_bytes(server: Server, count: int, waits: bool) -> list[float]:
    """Return the seconds from a service's ``listen`` to its first bytes in the browser.

    ``waits``: the script waits for the port; otherwise it returns at once, and the server
    tries to connect again and again.
    """
    query = f"Late?delay=1.0&wait={'true' if waits else 'false'}"
    times = []
    for _ in range(count):
        with closing(server.open(_reserve(server, query))) as browser:
            (listened,) = struct.unpack("d", browser.read(8))
            times.append(time.monotonic() - listened)
    return times


def lag(server: Server, seconds: float, scripts: int) -> list[float]:
    """Return the times of echoes while so many scripts compute in their threads."""
    burning = [_reserve(server, f"Burn?seconds={seconds + 2}") for _ in range(scripts)]
    message = bytes(32)
    latencies: list[float] = []
    with opened(server, 1) as (browser,):
        sessions = [server.open(path) for path in burning]
        browser.send(command(ECHO, 32 * 1_000_000))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            latencies += ping_pong(browser, message, 20)
        for session in sessions:
            session.close()
    return latencies
