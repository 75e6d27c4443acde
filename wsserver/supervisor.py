"""The supervisor: a small process that starts the programs of one session, and surely ends them.

It runs by itself, on the standard library alone, to be there quickly.  As their subreaper
it becomes the parent of whatever loses its own below it, however it ran away: so it has no
child left only when nothing of the session is left.  It ends everything when it is told
to, or when its socket to the server does: then the server is dead, or has let go.
"""

from __future__ import annotations

import ctypes
import errno
import marshal
import os
import select
import signal
import socket
import sys
import time

from wsserver.messages import receive, send
from wsserver.proc import below, tell

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

#: How it is run (python -I -S -c), with the folder of this package, and the pid of the server.
PROGRAM = "import sys; sys.path.append(sys.argv[1]); import wsserver.supervisor as s; s.main()"

#: How long programs may take to end once the server is dead, in seconds.
PATIENCE = 2.0
#: How often it is looked whether a process has appeared that has to end, in seconds.
FIRST_LOOK, LAST_LOOK = 0.01, 0.5
#: Numbers of prctl(2).
_PDEATHSIG, _NAME, _SUBREAPER = 1, 15, 36

_prctl = ctypes.CDLL(None).prctl


class Supervisor:
    """What the process does: one request after the other, and the end.

    The public methods are the requests.
    """

    def __init__(self, server: socket.socket, parent: int) -> None:
        self._server = server
        self._parent = parent
        #: Exit statuses by the number of the start, negative for a signal; None: it runs.
        self._statuses: list[int | None] = []
        #: The newest start by the pid of its leader, which is the number of its session.
        self._starts: dict[int, int] = {}
        #: When whoever has not ended is killed, monotonic; None while nobody has to end.
        self._kill_at: float | None = None
        self._told: set[tuple[int, int, int]] = set()
        self._pause = FIRST_LOOK

    def run(self) -> None:
        """Serve until everything has ended."""
        signs, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        # A process that the server has forked may keep the socket open: watch the server, too.
        peers = [os.pidfd_open(os.getppid()), self._server.fileno()]
        if os.getppid() != self._parent:
            self.end(PATIENCE)
        poll = select.poll()
        for handle in (signs, *peers):
            poll.register(handle, select.POLLIN)
        while self._anybody_left() or self._kill_at is None:
            timeout = None if self._kill_at is None else self._pause * 1000
            ready = {handle for handle, _ in poll.poll(timeout)}
            if signs in ready:
                os.read(signs, 4096)
            if peers[0] in ready or (peers[1] in ready and not self._serve()):
                for handle in peers:
                    poll.unregister(handle)
                self.end(PATIENCE)
            if self._kill_at is not None:
                self._press(self._kill_at)

    def start(self, argv: list[bytes], env: dict[bytes, bytes], cwd: bytes, *files: int) -> Any:
        """Start a program; ``files`` become its standard input, output and error.

        Return the number of the start and the pid; or -1, the error number, and whether it
        is ``cwd`` that is wrong.
        """
        if self._kill_at is not None:
            return -1, errno.ECANCELED, False
        if len(files) != 3:
            return -1, errno.EMFILE, False
        try:
            report, failed = os.pipe2(os.O_CLOEXEC)
            with open(report, "rb") as reports:
                try:
                    here = os.getpid()
                    if (pid := os.fork()) == 0:
                        _become(here, argv, env, cwd, files, failed)
                finally:
                    os.close(failed)
                failure = reports.read()
        except OSError as error:
            return -1, error.errno, False
        if failure:
            return marshal.loads(failure)  # noqa: S302  of a child that was still ours
        self._starts[pid] = len(self._statuses)
        self._statuses.append(None)
        return self._starts[pid], pid

    def status(self, start: int) -> int | None:
        """Return the exit status of a leader."""
        return self._statuses[start]

    def signal(self, start: int, number: int) -> int:
        """Signal what runs in the session of a leader, unless ``number`` is 0; count it."""
        # Where two starts had one pid, everything of the older has ended long ago.
        found = [p for p in below(os.getpid()) if self._starts.get(p.session) == start]
        for process in found if number else []:
            tell(process, number)
        return len(found)

    def end(self, patience: float) -> None:
        """Begin to end everything: TERM, after ``patience`` seconds KILL."""
        kill_at = time.monotonic() + patience
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)
        self._pause = FIRST_LOOK

    def left(self) -> list[str]:
        """Return name and pid of all that runs."""
        return [str(process) for process in below(os.getpid())]

    def _signalled(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self.end(PATIENCE)

    def _serve(self) -> bool:
        """Answer a request; return False where there will be no more."""
        handles: list[int] = []
        try:
            (verb, *words), handles = receive(self._server)
            send(self._server, [getattr(self, verb)(*words, *handles)])
        except (EOFError, OSError):
            return False
        finally:
            for handle in handles:
                os.close(handle)
        return True

    def _anybody_left(self) -> bool:
        """Note who has ended; tell whether there is a child, and hence a descendant, left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            start = self._starts.get(pid)
            if start is not None and self._statuses[start] is None:
                self._statuses[start] = os.waitstatus_to_exitcode(status)

    def _press(self, kill_at: float) -> None:
        """Tell everybody to end who has not been told yet."""
        number = signal.SIGKILL if time.monotonic() >= kill_at else signal.SIGTERM
        self._pause = min(2 * self._pause, LAST_LOOK)
        for process in below(os.getpid()):
            told = (process.pid, process.start, number)
            if told not in self._told:
                self._told.add(told)
                self._pause = FIRST_LOOK
                tell(process, number)


def _become(
    supervisor: int,
    argv: list[bytes],
    env: dict[bytes, bytes],
    cwd: bytes,
    files: Sequence[int],
    failed: int,
) -> NoReturn:
    """Become the program, in a session of its own; report where that fails."""
    at_cwd = False
    try:
        os.setsid()
        for target, handle in enumerate(files):
            os.dup2(handle, target)
        # Python ignores these, and what is ignored stays so.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        # Whoever kills the supervisor ends the leaders as well.  Sound, as it has one thread.
        _prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            if cwd:
                at_cwd = True
                os.chdir(cwd)
                at_cwd = False
            os.execvpe(argv[0], argv, env)  # noqa: S606  no shell is wanted
    except OSError as error:
        os.write(failed, marshal.dumps((-1, error.errno, at_cwd)))
    finally:
        os._exit(127)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own (prctl(2))."""
    _prctl(_SUBREAPER, 1, 0, 0, 0)


def main() -> None:
    """Serve the socket that is standard input."""
    adopt_orphans()
    _prctl(_NAME, b"wsserver-super")
    Supervisor(socket.socket(fileno=0), int(sys.argv[2])).run()
    os._exit(0)
