"""``make conformance``: the Autobahn test suite, and its port, against the real server.

Exit status 1 where a case comes to a verdict that expected.py does not allow.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.conformance import client, suite
from tests.conformance.cases import cases
from tests.conformance.expected import ECHO, TUNNEL, Difference, allowed, wrong
from tests.integration.parts import ROOT, Server, certificate, folder

#: The categories of the suite; it has no cases numbered 8 or 11.
BASIC = [1, 2, 3, 4, 5, 6, 7, 10]
ALL = [*BASIC, 9, 12, 13]
#: A client that does not answer a close is given up soon: some cases do not.
OPTIONS = ["--interface", "127.0.0.1", "--max_message_size", 0, "--close_timeout", 1]


class EchoServer(Server):
    """The real server with the tunnel of echo.py."""

    program = [sys.executable, "-m", "tests.conformance.echo"]
    # Where the tests are found.
    folder = ROOT


@contextlib.contextmanager
def echo_service() -> Iterator[int]:
    """Run a TCP service that sends back what it gets; give its port."""

    def echo(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(1 << 18):
                peer.sendall(data)

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=[peer], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        threading.Thread(target=accept, args=[listener], daemon=True).start()
        yield listener.getsockname()[1]


def main() -> int:
    """Run everything; return the exit status."""
    began = time.monotonic()
    python = suite.python27()
    if python is not None and not suite.install(python):
        python = None
    if python is None:
        print("no CPython 2.7 with the suite here: the port of its cases serves")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(echo_service())
        cert, key = certificate(stack.enter_context(folder()))
        failures = 0
        for kind, table, categories in ((EchoServer, ECHO, ALL), (Server, TUNNEL, BASIC)):
            failures += _on_every_path(kind, table, categories, python, port, (cert, key))
    print(
        f"{time.monotonic() - began:.0f} s; {failures or 'no'} cases that are not as they must be"
    )
    return failures > 0


def _on_every_path(
    kind: type[Server],
    table: list[Difference],
    categories: list[int],
    python: str | None,
    port: int,
    tls: tuple[Any, Any],
) -> int:
    """Run a server plain, with TLS, and on the HTTP port; return how many cases failed."""
    label = "echo" if kind is EchoServer else "tunnel"
    options = [*OPTIONS, "--client_port", port]
    own_port = ["--http_port", -1, 0]
    paths = {
        "relay": own_port,
        "TLS": [*own_port, "--cert", tls[0], "--key", tls[1]],
        "HTTP port": ["--http_port", 0],
    }
    failures = 0
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(kind(*options, *more)) for name, more in paths.items()}
        urls = {name: f"ws{s.secure}://127.0.0.1:{s.ws_port}/" for name, s in servers.items()}
        runs = {
            name: suite.Run(python, f"{label} {name}", url, categories)
            for name, url in urls.items()
            if python is not None
        }
        for name, url in urls.items():
            ported = client.verdicts(url, cases())
            failures += _told(f"{label}, {name}, port of the cases", table, ported)
            if name in runs:
                judged = runs[name].verdicts(150)
                failures += _told(f"{label}, {name}, Autobahn test suite", table, judged)
                _compare(table, judged, ported)
        for name, server in servers.items():
            server.stop()
            bad = [
                line for line in server.log.splitlines() if re.search("Traceback|#critical", line)
            ]
            print(*(f"{label}, {name}: {line}" for line in bad), sep="\n", end="")
            failures += len(bad)
    return failures


def _told(what: str, table: list[Difference], verdicts: dict[str, str]) -> int:
    """Print the counts of a run and what is wrong; return how many cases that is."""
    counts = ", ".join(f"{n} {v}" for v, n in Counter(verdicts.values()).most_common())
    failed = wrong(table, verdicts)
    print(
        f"{what}: {len(verdicts)} cases: {counts}; {len(failed) or 'none'} unexpected", flush=True
    )
    for case, verdict in failed.items():
        print(f"    {case}: {verdict}")
    return len(failed)


def _compare(table: list[Difference], judged: dict[str, str], ported: dict[str, str]) -> None:
    """Print where suite and port differ in what is not left open."""
    for case in [case for case in judged if int(case.split(".")[0]) in BASIC]:
        both = (judged[case], ported.get(case))
        if both[0] != both[1] and len(allowed(table, case)) == 1:
            print(f"    {case}: {both[0]} by the suite, {both[1]} by the port")


if __name__ == "__main__":
    sys.exit(main())
