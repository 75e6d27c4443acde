"""``make soak``: mixed sessions for so many minutes, then everything must have come back.

Exit status 1 where descriptors, processes or slots do not, a session went wrong, or the
server logged what nobody has handled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.rest import unhandled
from tests.integration.parts import Server, certificate, folder, until
from tests.soak.load import Load
from tests.soak.watch import Sample, sample, slope, told

AT_A_TIME = 24
#: How often memory is looked at, in seconds, and from when on it counts.
PERIOD, WARM = 5.0, 60.0

SCRIPT = """
import time
from wsserver import RemoteServiceScript, ServiceFailed

class Elsewhere(RemoteServiceScript):
    def start(self):
        time.sleep(self._common_options.get("delay", 0))
        if self._common_options["port"] is None:
            raise ServiceFailed("it is broken")
        return "127.0.0.1", self._common_options["port"]
"""


def echo(peer: socket.socket) -> None:
    """Send back what comes."""
    with peer, contextlib.suppress(OSError):
        while data := peer.recv(1 << 18):
            peer.sendall(data)


def sluggish(peer: socket.socket) -> None:
    """Take what comes, slowly."""
    with peer, contextlib.suppress(OSError):
        peer.sendall(b"!")
        while peer.recv(1 << 16):
            time.sleep(0.01)


@contextlib.contextmanager
def service(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a TCP service; give its port."""

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=serve, args=[peer], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        yield listener.getsockname()[1]


def write_services(path: Path, echo_port: int, sluggish_port: int) -> Path:
    """Write the service file and its script."""
    (path / "elsewhere.py").write_text(SCRIPT)

    def entry(count: int, port: int | None, **options: object) -> dict[str, object]:
        options = {"port": port, **options}
        return {"script": "elsewhere.py", "count": count, "options": options}

    services = {
        "Light": entry(60, echo_port),
        "Sluggish": entry(10, sluggish_port),
        "Late": entry(20, echo_port, delay=0.5),
        "Broken": entry(10, None),
        "Echo": {"script": "echo_session.py", "count": 4, "options": {}},
    }
    file = path / "services.json"
    file.write_text(json.dumps(services))
    return file


async def soak(load: Load, servers: dict[str, Server], seconds: float) -> dict[str, list[Sample]]:
    """Run the load for so long; return what was seen of each server meanwhile."""
    seen: dict[str, list[Sample]] = {name: [] for name in servers}
    running = asyncio.create_task(load.run(AT_A_TIME))
    began = time.monotonic()
    minute = 1
    while (now := time.monotonic() - began) < seconds:
        await asyncio.sleep(min(PERIOD, seconds - now))
        for name, server in servers.items():
            seen[name].append(await asyncio.to_thread(sample, server))
        if time.monotonic() - began >= 60 * minute:
            for name in servers:
                tell(f"{minute:3} min, {name}", seen[name][-1], sum(load.done.values()))
            minute += 1
    load.end()
    await running
    return seen


def tell(when: str, one: Sample, sessions: int) -> None:
    """Print a line of figures."""
    print(
        f"{when}: {sessions} sessions in all, PSS {one.pss:.1f} MiB, RSS {one.rss:.1f} MiB, "
        f"{one.files} files, {one.threads} threads, {one.processes} processes",
        flush=True,
    )


def lost(server: Server, before: Sample) -> list[str]:
    """Return what does not come back when all is over."""
    problems = []
    for what, back in {
        "slots": lambda: all(s["free"] == s["count"] for s in server.get("/v1/services").json()),
        "instances": lambda: not any(s["instances"] for s in server.get("/v1/status").json()),
        "processes": lambda: sample(server).processes <= before.processes,
        "files": lambda: sample(server).files <= before.files,
    }.items():
        try:
            until(back, 30)
        except AssertionError:
            problems.append(f"{what} do not come back: {before} before, {sample(server)} now")
    return problems


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(folder())
        ports = [stack.enter_context(service(serve)) for serve in (echo, sluggish)]
        options = ["-c", write_services(path, *ports), "--http_port", 0, "--timeout", 5]
        options += ["--interface", "127.0.0.1", "--max_reservations_per_address", 0]
        cert, key = certificate(path)
        servers = {
            "plain": stack.enter_context(Server(*options)),
            "TLS": stack.enter_context(Server(*options, "--cert", cert, "--key", key)),
        }
        return report(servers, args.minutes, args.seed)


def report(servers: dict[str, Server], minutes: float, seed: int) -> int:
    """Soak, and print what came of it; return the exit status."""
    for server in servers.values():
        # The first session opens what stays open.
        server.get(f"/v1/release/{server.reserve('Light')}")
    before = {name: sample(server) for name, server in servers.items()}
    load = Load(list(servers.values()), seed)
    seen = asyncio.run(soak(load, servers, 60 * minutes))
    problems = load.wrong
    for name, server in servers.items():
        problems += [f"{name}: {problem}" for problem in lost(server, before[name])]
        warm = [s for s in seen[name] if s.time - seen[name][0].time >= min(WARM, 30 * minutes)]
        tell(f"at the end, {name}", sample(server), sum(load.done.values()))
        print(f"    memory grows by {slope(warm):+.1f} MiB/h; {told(server)}")
        # That service is broken on purpose, and the log tells how.
        bad = [line for line in unhandled(server.log) if "] Broken " not in line]
        problems += [f"{name}: {line}" for line in bad]
    print("    " + ", ".join(f"{count} {kind}" for kind, count in load.done.most_common()))
    for problem in problems[:20]:
        print(problem)
    print(f"{len(problems) or 'no'} problems")
    return len(problems) > 0


if __name__ == "__main__":
    sys.exit(main())
