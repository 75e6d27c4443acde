"""The server as a process, and what else the integration tests start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect as connect_plain

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"

ECHO = '''
import os, pathlib, sys
from wsserver import RemoteServiceScript

SERVER = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def echo(peer):
    while data := peer.recv(65536):
        peer.sendall(data)
    peer.close()
while True:
    threading.Thread(target=echo, args=listener.accept()[:1], daemon=True).start()
"""

class Echo(RemoteServiceScript):
    def start(self):
        port = self.free_port()
        group = self.spawn([sys.executable, "-c", SERVER, str(port)])
        return self.wait_for_port(port, process=group)

    def stop(self):
        super().stop()
        if "mark" in self._options:
            pathlib.Path(self._options["mark"]).touch()
'''


def until(condition: Callable[[], T], seconds: float = 20.0) -> T:
    """Return the first true value of a condition; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition} did not come true within {seconds} s")
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder that holds the echo script."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        (path / "echo_session.py").write_text(ECHO)
        yield path


def echo_services(path: Path, **more: Any) -> Path:
    """Write a service file with one echo service."""
    file = path / "services.json"
    entry = {"script": "echo_session.py", "count": 2, "options": {}, **more}
    file.write_text(json.dumps({"Echo": entry}))
    return file


def certificate(path: Path) -> tuple[Path, Path]:
    """Make a certificate and a key for localhost."""
    cert, key = path / "cert.pem", path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return cert, key


TRUSTING = ssl._create_unverified_context()


def connect(url: str, **options: Any) -> Any:
    """Open a websocket whose calls block; by wss any certificate will do."""
    return SecureBrowser(url, **options) if url.startswith("wss") else connect_plain(url, **options)


class SecureBrowser:
    """A client by wss, in a loop of its own that runs while it is used.

    The blocking client reads in a thread of its own, and until Python 3.13 two threads that
    meet within one TLS connection lose what they write.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._options = {"ssl": TRUSTING, **options}
        self._peer = self._run(self._open(url))

    def send(self, data: bytes) -> None:
        self._run(self._peer.send(data))

    def recv(self, timeout: float | None = None) -> bytes:
        return self._run(asyncio.wait_for(self._peer.recv(), timeout))

    def close(self) -> None:
        if not self._loop.is_closed():
            self._run(self._peer.close())
            self._loop.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._peer, name)

    def __enter__(self) -> SecureBrowser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _open(self, url: str) -> Any:
        return await connect_async(url, **self._options)

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)


class Server:
    """``twistd wsserver`` with its log in a file, which never fills up.

    Its home is a folder of its own: the shells of a session must not run the start-up
    files of whoever runs the tests, which may take long or wait for a lock.
    """

    program = [str(Path(sys.executable).with_name("twistd"))]
    folder: Path | str = tempfile.gettempdir()

    def __init__(
        self,
        *args: object,
        twistd: str | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        command = [*([twistd] if twistd else self.program), "-n", "--pidfile="]
        self._home = tempfile.TemporaryDirectory(prefix="home-", ignore_cleanup_errors=True)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*command, "wsserver", *map(str, args)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=cwd or self.folder,
            env={**os.environ, "HOME": self._home.name, **(env or {})},
        )
        self.http_port = self.ws_port = 0

    def __enter__(self) -> Server:
        until(lambda: "wsserver listens on" in self.log or self.process.poll() is not None, 60)
        http = re.search(r"http(s?)://\S+?:(\d+)/", self.log)
        own = re.search(r"wss?://\S+?:(\d+)/", self.log)
        if http is None and own is None:
            raise AssertionError(f"the server did not start:\n{self.log}")
        self.secure = "s" if re.search(r"(https|wss)://", self.log) else ""
        if http is not None:
            self.http_port = int(http[2])
        self.ws_port = int(own[1]) if own is not None else self.http_port
        return self

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return os.pread(self._log.fileno(), 1 << 30, 0).decode()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._home.cleanup()

    @property
    def http(self) -> str:
        return f"http{self.secure}://localhost:{self.http_port}"

    @property
    def ws(self) -> str:
        return f"ws{self.secure}://localhost:{self.ws_port}/websockify"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the server, wait for its end, and return the exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self, seconds: float = 30) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def get(self, path: str, **headers: str) -> Answer:
        return fetch(self.http + path, **headers)

    def reserve(self, name: str = "Echo", query: str = "") -> str:
        return self.get(f"/v1/reserve/{name.replace(' ', '%20')}?{query}").json()["token"]

    def instances(self, name: str = "Echo") -> list[dict[str, Any]]:
        found = [s for s in self.get("/v1/status").json() if s["name"] == name]
        return found[0]["instances"]

    def children(self) -> list[psutil.Process]:
        """Return all that runs for sessions, but for their supervisors."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in found if alive(child) and not supervises(child)]

    def supervisors(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [child for child in found if alive(child) and supervises(child)]


def supervises(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("wsserver.supervisor" in word for word in process.cmdline())
    return False


def alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie waits for its parent alone."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Answer:
    """An HTTP answer, whatever its status."""

    def __init__(self, status: int, reason: str, headers: Any, body: bytes) -> None:
        self.status, self.reason, self.headers, self.body = status, reason, headers, body

    def json(self) -> Any:
        return json.loads(self.body)


def fetch(url: str, method: str = "GET", **headers: str) -> Answer:
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20, context=TRUSTING) as answer:
            return Answer(answer.status, answer.reason, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.reason, error.headers, error.read())


@contextlib.contextmanager
def chromium(playwright: Any, *more: str) -> Iterator[Any]:
    """Debian's Chromium, without a window; with more flags, if any."""
    flags = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync"
    )
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), headless=True, args=[*flags.split(), *more]
    )
    try:
        yield browser
    finally:
        browser.close()
