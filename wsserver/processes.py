"""Start programs of a family, keep the tail of what they print, and end them one by one.

Every program runs in a session, hence a process group, of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from threading import Lock, Thread
from typing import IO

from wsserver.family import Family, Leader, environment

#: How much of a program's output is kept, and how much of what a short program prints, in bytes.
TAIL_SIZE = 16 * 1024
ANSWER_SIZE = 16 * 1024 * 1024
#: How long the output of a program that has ended is waited for, in seconds.
LAST_WORDS = 0.2
#: How often it is asked whether a program has ended, in seconds.
FIRST_POLL, LAST_POLL = 0.002, 0.05


class ProcessGroup:
    """A running program with everything that it starts, unless that runs away from it.

    ``stdin`` is written to its standard input, which then stays open; it must be short.
    None is /dev/null.  ``env`` None is the server's environment.

    Raises OSError where the program cannot be started.
    """

    def __init__(
        self,
        family: Family,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | None = None,
    ) -> None:
        self.name = os.path.basename(argv[0])
        self._gone = False
        self._input: IO[bytes] | None = None
        with ExitStack() as files:
            output, sink = _pipe(files)
            source, feed = (_nothing(files), None) if stdin is None else _pipe(files)
            variables = environment() if env is None else env
            self._leader = family.start(argv, variables, cwd, (source, sink, sink))
            self._output = Output(output, TAIL_SIZE)
            if feed is not None:
                self._input = open(os.dup(feed), "wb", buffering=0)  # noqa: SIM115
        if self._input is not None and stdin:
            with suppress(BrokenPipeError):
                self._input.write(stdin)

    @property
    def pid(self) -> int:
        """The number of the leader, which is that of the group too."""
        return self._leader.pid

    @property
    def running(self) -> bool:
        """Whether the leader still runs."""
        return self.status() is None

    def status(self) -> int | None:
        """Return the leader's exit status, negative for a signal, or None while it runs."""
        return self._leader.status()

    def output(self) -> str:
        """Return the end of what the group has printed."""
        if self.status() is not None:
            self._output.wait()
        return self._output.kept().decode("utf-8", "replace")

    def stop(self, timeout: float) -> None:
        """End the whole group: TERM, then after ``timeout`` seconds KILL.  Blocks.

        A program with a standard input of its own first gets as long to end with it.
        """
        if self._input is not None:
            self._input.close()
            self._input = None
            self._wait_gone(timeout)
        for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, None)):
            if not self._gone:
                self._leader.signal(number)
                self._wait_gone(patience)

    def _wait_gone(self, patience: float | None) -> None:
        self.status()
        pause = FIRST_POLL
        deadline = None if patience is None else time.monotonic() + patience
        # To count the group costs a look at all processes of the host.
        while self.running or self._leader.signal(0):
            if deadline is not None and time.monotonic() >= deadline:
                return
            time.sleep(pause)
            pause = min(2 * pause, LAST_POLL)
        self._gone = True
        self.status()


class Output:
    """What comes out of a pipe, read in a thread to its end; the last ``size`` bytes are kept.

    ``handle`` is duplicated.
    """

    def __init__(self, handle: int, size: int) -> None:
        self._size = size
        self._tail = bytearray()
        self._lock = Lock()
        stream = open(os.dup(handle), "rb", buffering=0)  # noqa: SIM115  the thread closes it
        self._reading = Thread(target=self._read, args=(stream,), daemon=True)
        self._reading.start()

    def wait(self) -> None:
        """Wait for the last words of a program that has ended; what it has left may go on."""
        self._reading.join(LAST_WORDS)

    def kept(self) -> bytes:
        """Return what has come so far."""
        with self._lock:
            return bytes(self._tail)

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := stream.read(64 * 1024):
                with self._lock:
                    self._tail += chunk
                    del self._tail[: -self._size]


def run(family: Family, argv: Sequence[str], timeout: float) -> tuple[int, bytes, bytes]:
    """Run a short program to its end; return its status and what it has printed.

    Raises:
        OSError: it cannot be started.
        TimeoutError: it did not end within ``timeout`` seconds, and was killed.
    """
    with ExitStack() as files:
        (out, sink), (errors, errors_sink) = _pipe(files), _pipe(files)
        standard = (_nothing(files), sink, errors_sink)
        leader = family.start(argv, environment(), None, standard)
        printed = [Output(handle, ANSWER_SIZE) for handle in (out, errors)]
    status = _wait(leader, timeout)
    for output in printed:
        output.wait()
    return status, printed[0].kept(), printed[1].kept()


def _wait(leader: Leader, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    pause = FIRST_POLL
    while (status := leader.status()) is None:
        if time.monotonic() >= deadline:
            leader.signal(signal.SIGKILL)
            raise TimeoutError
        time.sleep(pause)
        pause = min(2 * pause, LAST_POLL)
    return status


def _nothing(files: ExitStack) -> int:
    handle = os.open(os.devnull, os.O_RDONLY)
    files.callback(os.close, handle)
    return handle


def _pipe(files: ExitStack) -> tuple[int, int]:
    """Return both ends of a new pipe, which are closed with the stack."""
    ends = os.pipe()
    for handle in ends:
        files.callback(os.close, handle)
    return ends
