"""A server under test, and everything that must hold of it: the invariants I1 to I7.

I1 no process of an ended session lives; I2 the slots in use are the live sessions; I3
descriptors and what the reactor watches come back to where they were; I4 one start at most
for each token, and a stop for each start; I5 bytes arrive in order, all of them unless the
fault cuts the stream (the rows compare them); I6 a session that is not concerned goes on,
and answers in time; I7 no error in the log that was not made on purpose, and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.faults.double_session import MARK
from tests.faults.wire import Browser, Refused, Service, connection, fetch, service
from tests.integration.parts import Server

#: How long the server may take to be clean again, in seconds.
PATIENCE = 10.0
#: How late the control session may be answered, in milliseconds, on a machine with other work.
LAG = 2000.0

#: Shorter than anybody would want them, for a row must not take long.
DEADLINES = {
    "head_timeout": 3,
    "ping_interval": 1,
    "ping_timeout": 1,
    "stall_timeout": 8,
    "close_timeout": 2,
    "timeout": 3,
    "shutdown_timeout": 6,
}
_QUICK = {"start_timeout": 20, "stop_timeout": 2, "connect_timeout": 5}
_SHORT = {"start_timeout": 1, "stop_timeout": 1, "connect_timeout": 1}
SERVICES: dict[str, dict[str, Any]] = {
    "Double": {"count": 200, **_QUICK},
    "Short": {"count": 50, **_SHORT},
    "Few": {"count": 2, **_QUICK},
    "Shared": {"count": 20, "max_connections": 3, **_QUICK},
    "Control": {"count": 1, **_QUICK},
}


class Violation(AssertionError):
    """An invariant does not hold; ``kind`` says which one, in a word."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


async def until(condition: Callable[[], Any], kind: str, what: str, patience: float) -> None:
    """Wait until something is true; it is a violation of that kind where it does not become so."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise Violation(kind, what)
        await asyncio.sleep(0.02)


class Session:
    """A reservation with a service of its own, and the websockets that use it."""

    def __init__(self, world: World, name: str, mark: str, service: Service) -> None:
        self.world = world
        self.name = name
        self.mark = mark
        self.service = service
        self.token = ""
        self.browsers: list[Browser] = []

    async def connect(self, **options: Any) -> Browser:
        """Open a websocket with the token.  Raises Refused."""
        browser = await Browser.connect(self.world.port, self.token, **options)
        self.browsers.append(browser)
        return browser

    def close(self) -> None:
        """Close the websockets without a word."""
        for browser in self.browsers:
            browser.close()

    async def release(self) -> int:
        """Release the token; return the HTTP status."""
        return (await fetch(self.world.port, f"/v1/release/{self.token}", ""))[0]

    async def state(self) -> str:
        """What the status tells of it; "" where it has ended."""
        live = await self.world.status()
        return str(live[self.token]["state"]) if self.token in live else ""

    async def reached(self, *states: str, patience: float = PATIENCE) -> None:
        """Wait until the reservation is in one of these states."""
        deadline = time.monotonic() + patience
        while (state := await self.state()) not in states:
            if time.monotonic() > deadline:
                raise Violation("slot", f"{state!r}, and not one of {states}")

    def notes(self) -> list[str]:
        """What was asked of its script, in order."""
        return [what for _, what, *_ in self.world.notes.of(self.mark)]

    async def ended(self, starts: int | None = None, patience: float = PATIENCE) -> None:
        """Wait for the end, and check what must hold then of a single session."""
        await self.reached("", patience=patience)
        self._check_calls(starts)
        if left := list(marked({self.mark})):
            raise Violation("process", f"left behind: {left}")
        with contextlib.suppress(Refused):
            await self.connect()
            raise Violation("slot", "a token that has ended was let in")

    def _check_calls(self, starts: int | None) -> None:
        notes = self.notes()
        calls = [what for what in notes if what in ("start", "started", "stop", "stopped")]
        if starts is not None and calls.count("start") != starts:
            raise Violation("start", f"{calls}: wanted {starts} starts")
        if tuple(calls) not in PATHS:
            raise Violation("start", f"{calls}")


#: All that may become of a script: see tests/test_schedules.py.
PATHS = {
    (),
    ("start", "started", "stop", "stopped"),
    ("start", "stop", "stopped", "started", "stop", "stopped"),
    ("start", "stop", "started", "stopped", "stop", "stopped"),
    ("start", "started", "stop", "stopped", "stop", "stopped"),
}


class Notes:
    """What the doubles have noted, by the marks of the reservations."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._by_mark: dict[str, list[list[str]]] = {}

    def of(self, mark: str) -> list[list[str]]:
        """Return time, word, mark, service, index and more of each note."""
        self.read()
        return self._by_mark.get(mark, [])

    def all(self) -> list[list[str]]:
        self.read()
        return [note for notes in self._by_mark.values() for note in notes]

    def read(self) -> None:
        for line in self._file.read().decode().splitlines():
            note = line.split("\t")
            self._by_mark.setdefault(note[2], []).append(note)


def marked(marks: Iterable[str] | None = None) -> list[tuple[int, str]]:
    """Return pid and command of the live processes with one of these marks, or with any."""
    wanted = {f"{MARK}={mark}".encode() for mark in marks} if marks is not None else None
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                variables = Path(entry.path, "environ").read_bytes().split(b"\0")
                mine = [v for v in variables if v.startswith(f"{MARK}=".encode())]
                if mine and (wanted is None or mine[0] in wanted):
                    command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append((int(entry.name), command.decode("utf-8", "replace")[:60]))
    return found


class World:
    """A server process with the doubles for services."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None, **settings: object) -> None:
        self.folder = folder
        self.secret = f"canary-{secrets.token_hex(8)}"
        self.env = {"WEBSOCKETSERVER_SECURITY_TOKEN": self.secret, **(env or {})}
        self.settings = {**DEADLINES, "state_directory": folder / "state", **settings}
        self.services = folder / "services.json"
        self.name = secrets.token_hex(4)
        self.marks = 0
        self.tokens: list[str] = []
        #: Rows that concern the whole server take turns.
        self.turn = asyncio.Lock()
        self._polls: list[asyncio.Future[dict[str, Any]]] = []
        self._poll: asyncio.Task[None] | None = None
        self._log_seen = 0
        shutil.copy(Path(__file__).with_name("double_session.py"), folder)
        self.notes = Notes(folder / "notes")
        self.write_services(SERVICES)

    def write_services(self, services: dict[str, dict[str, Any]]) -> None:
        """Write the service file."""
        common = {"script": "double_session.py", "options": {"notes": str(self.folder / "notes")}}
        self.services.write_text(json.dumps({n: {**common, **s} for n, s in services.items()}))

    async def __aenter__(self) -> World:
        settings = {"http_port": 0, "interface": "127.0.0.1", **self.settings}
        args = ["-c", self.services, *(w for n, v in settings.items() for w in (f"--{n}", v))]
        self.server = await asyncio.to_thread(Server, *args, env=self.env, cwd=self.folder)
        if "log_file" in self.settings:
            # Its first line says where it listens, and goes elsewhere.
            self.port = int(str(self.settings["http_port"]))
            await self._listens()
        else:
            await asyncio.to_thread(self.server.__enter__)
            self.port = self.server.http_port
        return self

    async def _listens(self) -> None:
        while True:
            with contextlib.suppress(ConnectionError):
                (await connection(self.port)).close()
                return
            await asyncio.sleep(0.05)

    def left(self) -> list[tuple[int, str]]:
        """Return what runs of any of its sessions."""
        return marked({f"{self.name}-{number + 1}" for number in range(self.marks)})

    async def __aexit__(self, *_: object) -> None:
        if self._poll is not None:
            self._poll.cancel()
        if self.server.process.poll() is None:
            await asyncio.to_thread(self.server.stop)
        self.server._home.cleanup()

    @property
    def pid(self) -> int:
        return self.server.process.pid

    # -- sessions

    @contextlib.asynccontextmanager
    async def session(
        self,
        mode: str = "good",
        name: str = "Double",
        echoes: bool = True,
        starts: int | None = 1,
        **options: object,
    ) -> AsyncIterator[Session]:
        """Reserve; afterwards wait for the end, and check it: ``starts`` of None is 0 or 1."""
        async with service(echoes) as there:
            session = await self.reserve(name, there, mode=mode, **options)
            try:
                yield session
            finally:
                session.close()
                with contextlib.suppress(Exception):
                    if await session.state() == "reserved":
                        await session.release()
            await session.ended(starts)

    async def reserve(self, name: str, there: Service, **options: object) -> Session:
        """Make a reservation.  Raises Refused."""
        self.marks += 1
        session = Session(self, name, f"{self.name}-{self.marks}", there)
        query = urlencode({"port": there.port, **options, "mark": session.mark})
        status, body = await fetch(self.port, f"/v1/reserve/{name}?{query}", self.secret)
        if status != 200:
            raise Refused(status, body)
        session.token = json.loads(body)["token"]
        self.tokens.append(session.token)
        return session

    async def status(self) -> dict[str, dict[str, Any]]:
        """Return the live reservations by token, as they are now; who asks together shares it."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._polls.append(answer)
        if self._poll is None or self._poll.done():
            self._poll = asyncio.ensure_future(self._answer_polls())
        return await answer

    async def _answer_polls(self) -> None:
        while self._polls:
            await asyncio.sleep(0.05)
            asking, self._polls = self._polls, []
            try:
                status, body = await fetch(self.port, "/v1/status", self.secret)
                assert status == 200, body
                live = {i["token"]: i for s in json.loads(body) for i in s["instances"]}
            except Exception as error:
                for answer in asking:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for answer in asking:
                if not answer.done():
                    answer.set_result(live)

    # -- what must hold

    async def census(self) -> dict[str, int]:
        """Count open files and what the reactor watches, while one session counts."""
        async with self.session("census") as session:
            browser = await session.connect()
            await browser.send(b"x")
            await browser.receive(1)
            await until(lambda: "census" in session.notes(), "error", "no census", PATIENCE)
            (note,) = [n for n in self.notes.of(session.mark) if n[1] == "census"]
            files = self.files()
        names = ("readers", "writers", "timers")
        return {"files": files, **dict(zip(names, map(int, note[5:]), strict=True))}

    def rss(self) -> float:
        """Return the memory of the server, in MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    async def assert_clean(self, baseline: dict[str, int], keep: Iterable[str] = ()) -> None:
        """Check all that must hold when no row is under way; ``keep`` are tokens that live."""
        keep = set(keep)
        deadline = time.monotonic() + PATIENCE
        while (live := set(await self.status())) != keep:
            if time.monotonic() > deadline:
                raise Violation("slot", f"{len(live - keep)} too many, {len(keep - live)} gone")
        while (now := await self.census()) != baseline:
            if time.monotonic() > deadline:
                raise Violation("descriptors", f"{now}, and not {baseline}")
        if self.server.process.poll() is not None:
            raise Violation("error", "the server has ended")
        self.check_log()

    def check_log(self) -> None:
        """Check what was logged since the last time."""
        text = self.server.log
        fresh, self._log_seen = text[self._log_seen :], len(text)
        if problem := log_problem(fresh, [self.secret, *self.tokens]):
            raise Violation("error", problem)
        self.tokens.clear()


def log_problem(text: str, canaries: Iterable[str]) -> str | None:
    """Return what a log holds that it must not: an error that nobody made, a secret."""
    for secret in canaries:
        if secret in text:
            place = text.index(secret)
            return f"a secret: {text[max(0, place - 200) : place + 50]}"
    # one event is a line, and further ones that begin with a tab
    for event in re.split(r"\n(?!\t)", text):
        meant = "on purpose" in event or "wsserver.errors.ServiceFailed" in event
        if "Unhandled" in event or ("Traceback" in event and not meant):
            return event[-1500:]
    return None


class Control:
    """The control session of a world; its service and its client are processes of their own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lags: list[tuple[int, float, float, float]] = []

    async def __aenter__(self) -> Control:
        async with service() as nobody:
            self.session = await self.world.reserve("Control", nobody, mode="dies")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.control", str(self.world.port), self.session.token,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await self.session.reached("open")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def check(self) -> None:
        """Check that the session lives, and was answered in time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"?\n")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), PATIENCE)
            count, median, high, longest = map(float, line.split())
        except (TimeoutError, ValueError, ConnectionError):
            raise Violation("lag", "the control session has broken off") from None
        self.lags.append((int(count), median, high, longest))
        if longest > LAG:
            raise Violation("lag", f"an echo of the control session took {longest:.0f} ms")
