"""The servers that are measured, and how each is started."""

from __future__ import annotations

import contextlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from benchmarks.browser import Browser
from benchmarks.processes import cpu_seconds, free_port, pss_bytes, running, wait_for_port


@dataclass(frozen=True)
class Place:
    """Where a server works: its port, the service behind it, and its files."""

    port: int
    service_port: int
    folder: Path
    tls: bool = False
    files: int = 1024

    @property
    def cert(self) -> str:
        return str(self.folder / "cert.pem")

    @property
    def key(self) -> str:
        return str(self.folder / "key.pem")


@dataclass(frozen=True)
class Peer:
    """A kind of server."""

    name: str
    label: str
    argv: Callable[[Place], list[str]]
    framing: str = "ws"
    #: A process for each connection: no fit for thousands.
    forks: bool = False


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    peer: Peer
    place: Place
    pid: int

    def cpu(self) -> float:
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        return pss_bytes(self.pid)

    def connect(self, path: str = "/websockify") -> Browser:
        """Return a connection that has not asked for anything yet."""
        return Browser(self.place.port, self.peer.framing, self.place.tls, path)

    def open(self, path: str = "/websockify") -> Browser:
        return self.connect(path).ask().opened()


def _program(name: str) -> str:
    """Return a program of this environment, or else of the system."""
    here = Path(sys.executable).with_name(name)
    found = str(here) if here.exists() else shutil.which(name, path="/usr/sbin:/usr/bin")
    if found is None:
        raise RuntimeError(f"{name} is not installed; `make bench` brings it in")
    return found


def twistd(place: Place, *options: str) -> list[str]:
    """Return the command line of our server."""
    argv = [_program("twistd"), "-n", "--pidfile=", "wsserver", "--interface", "127.0.0.1"]
    if place.tls:
        argv += ["--cert", place.cert, "--key", place.key]
    # All load comes from one address.
    for limit in ("connections_per_address", "reservations_per_address", "starting"):
        argv += [f"--max_{limit}", "0"]
    return [*argv, *options]


def _wsserver(place: Place) -> list[str]:
    basic = ["--client_port", str(place.service_port)]
    return twistd(place, "--http_port", str(place.port), *basic)


def _wsserver_own_port(place: Place) -> list[str]:
    basic = ["--client_port", str(place.service_port)]
    return twistd(place, "--http_port", "-1", *basic, str(place.port))


def _websockify(place: Place) -> list[str]:
    tls = ["--cert", place.cert, "--key", place.key, "--ssl-only"] if place.tls else []
    ends = [f"127.0.0.1:{place.port}", f"127.0.0.1:{place.service_port}"]
    return [sys.executable, "-m", "websockify", *tls, *ends]


def _websocat(place: Place) -> list[str]:
    ends = [f"ws-l:127.0.0.1:{place.port}", f"tcp:127.0.0.1:{place.service_port}"]
    return [_program("websocat"), "-b", *ends]


def _autobahn(place: Place) -> list[str]:
    tls = [place.cert, place.key] if place.tls else []
    ends = [str(place.port), str(place.service_port)]
    return [sys.executable, "-m", "benchmarks.autobahn_relay", *ends, *tls]


_HAPROXY = """
global
    nbthread 1
    maxconn {connections}
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
frontend in
    bind 127.0.0.1:{place.port} backlog 4096 {tls}
    maxconn {connections}
    default_backend out
backend out
    server service 127.0.0.1:{place.service_port} maxconn {connections}
"""


def _haproxy(place: Place) -> list[str]:
    both = place.folder / "both.pem"
    if place.tls:
        both.write_text(Path(place.cert).read_text() + Path(place.key).read_text())
    path = place.folder / f"haproxy-{place.port}.cfg"
    tls = f"ssl crt {both}" if place.tls else ""
    # Two files for each connection, and some for itself.
    connections = min(11_000, (place.files - 60) // 2)
    path.write_text(_HAPROXY.format(place=place, tls=tls, connections=connections))
    return [_program("haproxy"), "-db", "-q", "-f", str(path)]


WSSERVER = Peer("wsserver", "wsserver", _wsserver)
OWN_PORT = Peer("wsserver_own_port", "wsserver, port of its own", _wsserver_own_port)
WEBSOCKIFY = Peer("websockify", "websockify", _websockify, forks=True)
WEBSOCAT = Peer("websocat", "websocat", _websocat)
HAPROXY = Peer("haproxy", "HAProxy, raw TCP", _haproxy, framing="raw")
AUTOBAHN = Peer("autobahn", "Autobahn, usual way", _autobahn)
#: No server at all: the browser speaks to the service, to see what the generator can do.
DIRECT = Peer("direct", "without a server", lambda place: [], framing="raw")

ALL = [WSSERVER, WEBSOCKIFY, WEBSOCAT, HAPROXY, AUTOBAHN]
#: Those that speak TLS as servers; HAProxy does so without a websocket inside.
SECURE = [WSSERVER, WEBSOCKIFY, HAPROXY, AUTOBAHN]


@contextlib.contextmanager
def serving(peer: Peer, place: Place) -> Iterator[Server]:
    """Run a server."""
    log = place.folder / f"{peer.name}-{place.port}.log"
    with running(peer.argv(place), log) as process:
        try:
            wait_for_port(process, place.port)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text()[-2000:]}") from None
        yield Server(peer, place, process.pid)


class Host:
    """Starts servers in one folder, before one service."""

    def __init__(self, folder: Path, service_port: int, files: int) -> None:
        self.folder = folder
        self.service_port = service_port
        self.files = files
        _make_certificate(folder)

    def place(self, tls: bool = False) -> Place:
        return Place(free_port(), self.service_port, self.folder, tls, self.files)

    def serving(self, peer: Peer, tls: bool = False) -> contextlib.AbstractContextManager[Server]:
        return serving(peer, self.place(tls))


def _make_certificate(folder: Path) -> None:
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subject = ["-subj", "/CN=localhost"]
    subprocess.run([*argv.split(), *files, *subject], check=True, capture_output=True)


def versions() -> dict[str, str]:
    """Return the versions of all that is measured."""
    names = ["Twisted", "autobahn", "pyOpenSSL", "cryptography", "websockify", "numpy", "websocat"]
    found = {name: metadata.version(name) for name in names}
    found["wsserver"] = metadata.version("websocketserver") + _commit()
    said = subprocess.run([_program("haproxy"), "-v"], check=True, capture_output=True, text=True)
    found["HAProxy"] = said.stdout.split()[2]
    found["Python"] = platform.python_version()
    return found


def _commit() -> str:
    git = partial(subprocess.run, capture_output=True, text=True, cwd=Path(__file__).parent)
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = git(["git", "status", "--porcelain", "--", "../wsserver"]).stdout.strip()
    return f" ({commit}{', changed' if changed else ''})" if commit else ""
