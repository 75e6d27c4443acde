"""Every process of one session, kept together by a supervisor (see there) of its own.

A family has a mark, which all its processes carry in their environment: by that the
survivors of a supervisor that was killed are found.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, Protocol

import wsserver
from wsserver.errors import ConfigError
from wsserver.messages import receive, send
from wsserver.proc import Process, processes, tell
from wsserver.supervisor import PROGRAM

#: The environment variable that every process of a session carries.
MARK = "WSSERVER_SESSION"
#: Where a supervisor finds this package.
_FOLDER = os.path.dirname(os.path.dirname(wsserver.__file__))
#: What a service has no business to know.
_SECRET_VARIABLES = ("WEBSOCKETSERVER_SECURITY_TOKEN",)
#: A supervisor that does not answer for so long is killed, in seconds; what it starts may
#: lie on a slow disk.
ANSWER_TIMEOUT, START_TIMEOUT = 10.0, 60.0
#: How often it is asked whether it still answers while it ends everything, in seconds.
LOOK_PERIOD = 1.0
#: How often survivors are looked for, in seconds.
FIRST_LOOK, LAST_LOOK = 0.01, 0.5


class Notes(Protocol):
    """Where it stands which families there are, for whoever cleans up after a crash."""

    def began(self, mark: str, pid: int) -> None:
        """Note a supervisor before it starts anything; raises where that is impossible."""

    def ended(self, mark: str) -> None:
        """Note that nothing is left of a family."""


#: Who is told, every LOOK_PERIOD, name and pid of what has not ended yet.
Told = Callable[[list[str]], object]


def _nobody(names: list[str]) -> None:
    pass


class Gone(OSError):
    """The supervisor has ended, or does not answer."""


class Supervisor:
    """Our end of a supervisor; its threads take turns."""

    def __init__(self, mark: str) -> None:
        self._lock = Lock()
        self._peer, theirs = socket.socketpair()
        try:
            with theirs:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", PROGRAM, _FOLDER, str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**environment(), MARK: mark},
                    start_new_session=True,
                )
        except BaseException:
            self._peer.close()
            raise

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def call(self, *request: object, handles: Sequence[int] = ()) -> Any:
        """Make a request; raise Gone where there is no answer."""
        with self._lock:
            try:
                self._peer.settimeout(START_TIMEOUT if handles else ANSWER_TIMEOUT)
                send(self._peer, request, handles)
                return receive(self._peer)[0][0]
            except (OSError, EOFError) as error:
                # Whatever it says after this is the answer to something else.
                self._peer.close()
                raise Gone(errno.ECONNRESET, "the supervisor of the session has gone") from error

    def end(self, patience: float, told: Told) -> bool:
        """End everything, and block until it is gone; False: it is the supervisor that went."""
        with contextlib.suppress(Gone):
            self.call("end", patience)
        while True:
            try:
                status = self._process.wait(LOOK_PERIOD)
                break
            except subprocess.TimeoutExpired:
                try:
                    told(self.call("left"))
                except Gone:
                    self._process.kill()
        with self._lock:
            self._peer.close()
        # Where SIGCHLD is ignored (by a host that embeds us), nobody learns how a child ended.
        return status == 0 and signal.getsignal(signal.SIGCHLD) != signal.SIG_IGN


class Leader:
    """A program that was started, at the head of a session (setsid(2)) of its own."""

    def __init__(self, supervisor: Supervisor, start: int, pid: int) -> None:
        self.pid = pid
        self._supervisor = supervisor
        self._start = start
        self._status: int | None = None

    def status(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        if self._status is None:
            try:
                self._status = self._supervisor.call("status", self._start)
            except Gone:
                self._status = -signal.SIGKILL
        return self._status

    def signal(self, number: int) -> int:
        """Signal its whole session, unless ``number`` is 0; return how many run in it.

        A process that was stopped goes on with SIGTERM.
        """
        try:
            count: int = self._supervisor.call("signal", self._start, int(number))
            return count
        except Gone:
            return 0


class Family:
    """All processes of a session.  Its methods block, and may be called in any thread."""

    def __init__(self, journal: Notes | None = None) -> None:
        self.journal = journal
        self.mark = secrets.token_hex(16)
        self._lock = Lock()
        self._supervisor: Supervisor | None = None
        self._closed = False

    @property
    def supervisor_pid(self) -> int | None:
        """The number of the supervisor, where there is one now."""
        return None if self._supervisor is None else self._supervisor.pid

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        files: tuple[int, int, int],
    ) -> Leader:
        """Start a program with these standard files, which the caller keeps and closes.

        Raises:
            OSError: it cannot be started; or the family has ended, or is about to.
            WSServerError: the journal cannot be written.
        """
        words = [os.fsencode(word) for word in argv]
        variables = {os.fsencode(k): os.fsencode(v) for k, v in {**env, MARK: self.mark}.items()}
        if any(b"\0" in word for word in [*words, *variables, *variables.values()]):
            raise ValueError("a program was given a null byte")
        supervisor = self._present()
        where = os.fsencode(cwd or "")
        reply = supervisor.call("start", words, variables, where, handles=files)
        if reply[0] < 0:
            _, number, at_cwd = reply
            raise OSError(number, os.strerror(number), cwd if at_cwd else argv[0])
        return Leader(supervisor, *reply)

    def end(self, patience: float, told: Told = _nobody) -> None:
        """End everything, and block until nothing is left: TERM, after ``patience`` s KILL.

        Programs may be started afterwards.
        """
        with self._lock:
            supervisor = self._supervisor
        if supervisor is None:
            return
        if not supervisor.end(patience, told):
            kill_marked([self.mark], told)
        with self._lock:
            if self._supervisor is supervisor:
                self._supervisor = None
                if self.journal is not None:
                    self.journal.ended(self.mark)

    def close(self, patience: float, told: Told = _nobody) -> None:
        """End everything, for good."""
        with self._lock:
            self._closed = True
        self.end(patience, told)

    def left(self) -> list[str]:
        """Return name and pid of all that runs."""
        supervisor = self._supervisor
        if supervisor is None:
            return []
        try:
            found: list[str] = supervisor.call("left")
            return found
        except Gone:
            return [str(process) for process in marked([self.mark])]

    def _present(self) -> Supervisor:
        """Return the supervisor, started where there is none."""
        with self._lock:
            if self._closed:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            if self._supervisor is None:
                fresh = Supervisor(self.mark)
                try:
                    if self.journal is not None:
                        self.journal.began(self.mark, fresh.pid)
                except BaseException:
                    fresh.end(0, _nobody)
                    raise
                self._supervisor = fresh
            return self._supervisor


def check_host() -> None:
    """Raise ConfigError where the host cannot do what no session can do without."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        why = f"pidfd_open(2) fails ({error.strerror})"
        raise ConfigError([f"{why}: Linux 5.3 is needed, and a sandbox that allows it"]) from error


def environment() -> dict[str, str]:
    """Return the server's own environment, without what a service has no business to know."""
    return {k: v for k, v in os.environ.items() if k not in _SECRET_VARIABLES}


def marked(marks: Collection[str]) -> Iterator[Process]:
    """Yield the processes that carry one of these marks."""
    wanted = {f"{MARK}={mark}".encode() for mark in marks}
    for process in processes():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue  # it has just ended, or is another user's
        if not wanted.isdisjoint(variables):
            yield process


def kill_marked(marks: Collection[str], told: Told = _nobody) -> None:
    """Kill the processes that carry one of these marks; block until none is left."""
    pause = FIRST_LOOK
    while found := list(marked(marks)):
        for process in found:
            tell(process, signal.SIGKILL)
        time.sleep(pause)
        if pause == LAST_LOOK:
            told([str(process) for process in found])
        pause = min(2 * pause, LAST_LOOK)
