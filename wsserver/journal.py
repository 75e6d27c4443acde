"""The journal: on disk, which sessions have processes, for the server that starts after a crash.

A file per server in the state directory.  Its name says whose it is: pid, start time and
boot id; each line is a JSON object.  Nothing is synced to the disk: what a crash of the
machine takes away is of no use, as it ends all processes and changes the boot id.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from twisted.logger import Logger

from wsserver.errors import ConfigError, ServiceFailed
from wsserver.proc import look, running

SUFFIX, UNFINISHED = ".journal", ".new"
#: A journal with so many lines more than sessions is written anew.
SPARE_LINES = 1000

_log = Logger(namespace="wsserver.journal")


class Owner(NamedTuple):
    """The process of a server; with the boot id it differs from any other, ever."""

    pid: int
    start: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.boot == boot_id() and running(self.pid, self.start) is not None


class Supervised(NamedTuple):
    """A session with processes: its mark, and its supervisor."""

    mark: str
    pid: int
    start: int


class Journal:
    """The journal of this server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = Lock()
        self._path: Path | None = None
        self._file = -1
        self._lines = 0
        self._live: dict[str, bytes] = {}
        self._closing = False

    def open(self) -> None:
        """Begin the journal; where that is impossible it is tried again with each session.

        Raises:
            ConfigError: others could write into the state directory.
        """
        try:
            make_directory(self.directory)
            with self._lock:
                self._open()
        except OSError as error:
            _log.error("no session can start: the journal cannot be written: {e}", e=error)

    def began(self, mark: str, pid: int) -> None:
        """Note the supervisor of a session, before it starts anything.

        Raises:
            ServiceFailed: it cannot be noted, hence the session must not begin.
        """
        supervisor = look(pid)
        assert supervisor is not None, "a child that nobody has waited for"
        line = _line(session=mark, pid=pid, start=supervisor.start)
        with self._lock:
            try:
                self._open()
                self._append(line)
            except OSError as error:
                _log.error("a session cannot start: {e}", e=error)
                raise ServiceFailed("the journal of the server cannot be written") from error
            self._live[mark] = line

    def ended(self, mark: str) -> None:
        """Note that nothing is left of a session."""
        with self._lock:
            self._live.pop(mark, None)
            if self._closing:
                self._close()
                return
            try:
                if self._lines > len(self._live) + SPARE_LINES:
                    self._rewrite()
                self._append(_line(ended=mark))
            except OSError as error:
                # The next server finds nothing to kill.
                _log.warn("the journal cannot be written: {e}", e=error)

    def close(self) -> None:
        """End the journal; until the last session has ended it stays, for the next server."""
        with self._lock:
            self._closing = True
            self._close()

    def _close(self) -> None:
        if self._path is not None and not self._live:
            os.close(self._file)
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                # Whoever has begun it was somebody else (twistd --uid).
                _log.warn("the journal cannot be removed: {e}", e=error)
            self._path, self._lines = None, 0

    def _open(self) -> None:
        self._closing = False
        if self._path is not None and not os.fstat(self._file).st_nlink:
            # Somebody has cleared the directory; no other server would find this file.
            os.close(self._file)
            self._path, self._lines = None, 0
        if self._path is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.directory / _name()
            self._file = _create(path)
            self._path = path
            for line in self._live.values():
                self._append(line)

    def _append(self, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            raise OSError("the disk is full")
        self._lines += 1

    def _rewrite(self) -> None:
        """Leave out what has ended."""
        assert self._path is not None
        fresh = self._path.with_suffix(UNFINISHED)
        lines = list(self._live.values())
        file = _create(fresh)
        try:
            for line in lines:
                if os.write(file, line) != len(line):
                    raise OSError("the disk is full")
            fresh.replace(self._path)
        except OSError:
            os.close(file)
            fresh.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file, self._lines = file, len(lines)


def state_directory(wanted: str | None, environment: Mapping[str, str]) -> Path:
    """Return where journals are: as set, as systemd or the login session offer, else below /tmp."""
    if wanted is not None:
        return Path(wanted)
    if by_systemd := environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        return Path(by_systemd)
    if by_login := environment.get("XDG_RUNTIME_DIR"):
        return Path(by_login) / "wsserver"
    return Path(tempfile.gettempdir()) / f".wsserver-{os.geteuid()}"


def make_directory(directory: Path) -> None:
    """Make the state directory; raise ConfigError where others may write into it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError([f"settings.state_directory: others may write into {directory}"])


def sessions_of(journal: bytes) -> list[Supervised]:
    """Return the sessions that had not ended; lines that are torn do not count."""
    found: dict[str, Supervised] = {}
    for line in journal.splitlines():
        match _parsed(line):
            case {"session": str(mark), "pid": int(pid), "start": int(start)}:
                found[mark] = Supervised(mark, pid, start)
            case {"ended": str(mark)}:
                found.pop(mark, None)
    return list(found.values())


def owner_of(path: Path) -> Owner | None:
    """Return whose journal a file is, or None where it is no journal."""
    try:
        pid, start, boot, _ = path.stem.split(".")
        owner = Owner(int(pid), int(start), boot)
    except ValueError:
        return None
    return owner if path.suffix in (SUFFIX, UNFINISHED) else None


def boot_id() -> str:
    """Return what differs with each start of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _name() -> str:
    me = look(os.getpid())
    assert me is not None
    # One process may hold several servers.
    return f"{me.pid}.{me.start}.{boot_id()}.{secrets.token_hex(4)}{SUFFIX}"


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _line(**fields: object) -> bytes:
    # The line break comes first, so that a torn line spoils no other.
    return b"\n" + json.dumps(fields).encode()


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
