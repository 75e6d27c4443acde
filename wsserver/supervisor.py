"""The supervisor: a small process that starts the programs of one session, and surely ends them.

It runs by itself, on the standard library alone, to be there quickly.  As their subreaper
it becomes the parent of whatever loses its own below it, however it ran away: so it has no
child left only when nothing of the session is left.  It ends everything when it is told
to, or when its socket to the server does: then the server is dead, or has let go.

Messages are tuples: a length of four bytes, then what `marshal` makes of them.
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

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn

#: How long programs may take to end once the server is dead, in seconds.
PATIENCE = 2.0
#: How often it is looked whether a process has appeared that has to end, in seconds.
FIRST_LOOK, LAST_LOOK = 0.01, 0.5
#: Numbers of prctl(2).
_PDEATHSIG, _NAME, _SUBREAPER = 1, 15, 36

_prctl = ctypes.CDLL(None).prctl


class Process:
    """A process as it stands in /proc; number and start time tell it from all others."""

    def __init__(self, pid: int, stat: bytes) -> None:
        head, _, tail = stat.rpartition(b") ")
        fields = tail.split()
        self.pid = pid
        self.name = head.partition(b"(")[2].decode("utf-8", "replace")
        self.zombie = fields[0] in (b"Z", b"X")
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start = int(fields[19])

    def __str__(self) -> str:
        return f"{self.name} {self.pid}"


def look(pid: int) -> Process | None:
    """Return what /proc/PID/stat says (proc(5)), or None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes() -> Iterator[Process]:
    """Yield all that runs on this host, zombies excepted."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := look(int(name))) and not process.zombie:
            yield process


def below(root: int) -> list[Process]:
    """Return the descendants of a process."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found = children.pop(root, [])
    for process in found:
        found += children.pop(process.pid, [])
    return found


def tell(process: Process, number: int) -> None:
    """Signal a process, and never a later one that has got its number."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        now = look(process.pid)
        if now is not None and now.start == process.start:
            signal.pidfd_send_signal(handle, number)
            if number == signal.SIGTERM:
                # A stopped process sees it only once it goes on.
                signal.pidfd_send_signal(handle, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass  # it has just ended; or has become another user's
    finally:
        os.close(handle)


def send(peer: socket.socket, message: Sequence[Any], handles: Sequence[int] = ()) -> None:
    """Send a message, and open files with it."""
    data = marshal.dumps(tuple(message))
    socket.send_fds(peer, [len(data).to_bytes(4, "big")], handles)
    peer.sendall(data)


def receive(peer: socket.socket) -> tuple[Any, list[int]]:
    """Return a message and the open files that came with it.

    Raises:
        EOFError: the other side has gone.
    """
    size, handles, _, _ = socket.recv_fds(peer, 4, 3)
    for handle in handles:
        # Python lets them in as inheritable, whatever the flags.
        os.set_inheritable(handle, False)
    data = bytearray()
    while len(size) < 4 or len(data) < int.from_bytes(size, "big"):
        if len(size) < 4 or not (more := peer.recv(int.from_bytes(size, "big") - len(data))):
            raise EOFError
        data += more
    return marshal.loads(data), handles  # noqa: S302  both ends are ours


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
            here = os.getpid()
            if (pid := os.fork()) == 0:
                _become(here, argv, env, cwd, files, failed)
            os.close(failed)
            with open(report, "rb") as reports:
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


def main() -> None:
    """Serve the socket that is standard input; the argument is the pid of the server."""
    _prctl(_SUBREAPER, 1, 0, 0, 0)
    _prctl(_NAME, b"wsserver-super")
    Supervisor(socket.socket(fileno=0), int(sys.argv[1])).run()
    os._exit(0)


if __name__ == "__main__":
    main()
