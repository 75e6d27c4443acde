"""Start process groups, keep the tail of what they print, and surely end them.

Every program runs in a session, hence a process group, of its own: a signal to the
group reaches what the program started as well.  The leader stays unreaped until its
group is gone, so that its number cannot be given to somebody else meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from threading import Lock, Thread
from typing import IO

import psutil

#: How much of a program's output is kept, in bytes.
TAIL_SIZE = 16 * 1024
#: How long the output of a program that has ended is waited for, in seconds.
LAST_WORDS = 0.2
#: How often a group that was told to end is looked at, in seconds.
POLL = 0.02


class ProcessGroup:
    """A running program with everything that it starts.

    ``stdin`` is written to its standard input, which then stays open; it must be short.
    None is /dev/null.

    Raises OSError where the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | None = None,
    ) -> None:
        self.name = os.path.basename(argv[0])
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        if self._process.stdin is not None and stdin:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._process.stdin.fileno(), stdin)
        self._tail = bytearray()
        self._lock = Lock()
        assert self._process.stdout is not None
        self._reading = Thread(target=self._keep_tail, args=(self._process.stdout,), daemon=True)
        self._reading.start()

    @property
    def pid(self) -> int:
        """The number of the leader, which is that of the group too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the leader still runs."""
        return self.status() is None

    def status(self) -> int | None:
        """Return the leader's exit status, negative for a signal, or None while it runs."""
        if self._process.returncode is not None:
            return self._process.returncode
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def output(self) -> str:
        """Return the end of what the group has printed."""
        if self.status() is not None:
            # Its last words may still be under way; what it left running may go on.
            self._reading.join(LAST_WORDS)
        with self._lock:
            return self._tail.decode("utf-8", "replace")

    def stop(self, timeout: float) -> None:
        """End the whole group: TERM, then after ``timeout`` seconds KILL.  Blocks.

        A program with a standard input of its own first gets as long to end with it.
        """
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._wait_gone(timeout)
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, None)):
            if self._process.returncode is not None:
                return
            os.killpg(self.pid, number)
            # A stopped process sees TERM only once it goes on.
            os.killpg(self.pid, signal.SIGCONT)
            if self._wait_gone(patience):
                self._process.wait()

    def _wait_gone(self, patience: float | None) -> bool:
        deadline = None if patience is None else time.monotonic() + patience
        while _alive(self.pid):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(POLL)
        return True

    def _keep_tail(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 64 * 1024):
                with self._lock:
                    self._tail += chunk
                    del self._tail[:-TAIL_SIZE]


def _alive(group: int) -> bool:
    """Tell whether a process of the group still runs; a zombie does not."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) != group:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                return True
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return False
