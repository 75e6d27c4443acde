"""Processes of a run: started so that nothing is left, and asked for CPU and memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

_libc = ctypes.CDLL(None, use_errno=True)
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all below it, dead and reaped ones included."""
    return sum(_own_seconds(p) + _reaped_seconds(p) for p in tree(pid))


def pss_bytes(pid: int) -> int:
    """Return the memory of a process and all below it; what they share is counted once."""
    return sum(_pss(p) for p in tree(pid))


def tree(pid: int) -> list[int]:
    """Return a process and everything below it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def _own_seconds(pid: int) -> float:
    """Return utime + stime.

    /proc/PID/stat tells them in steps of 10 ms; the CPU clock of the process is the same sum
    in nanoseconds.
    """
    clock = ctypes.c_int()
    if _libc.clock_getcpuclockid(pid, ctypes.byref(clock)) != 0:
        return 0.0
    try:
        return time.clock_gettime(clock.value)
    except OSError:
        return sum(_stat(pid)[:2])


def _reaped_seconds(pid: int) -> float:
    return sum(_stat(pid)[2:])


def _stat(pid: int) -> list[float]:
    """Return utime, stime, and both of the children that were waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return [0.0] * 4
    # The name in brackets may hold spaces; what follows it does not.
    return [int(field) / _TICKS for field in text.rpartition(")")[2].split()[11:15]]


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line[:4] == "Pss:")


def settle(pid: int, quiet: float = 0.1, timeout: float = 10.0) -> None:
    """Wait until a process tree does (next to) nothing."""
    end = time.monotonic() + timeout
    before = cpu_seconds(pid)
    while time.monotonic() < end:
        time.sleep(quiet)
        now = cpu_seconds(pid)
        if now - before < 0.02 * quiet:
            return
        before = now


@contextlib.contextmanager
def running(argv: Sequence[str], log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program; with the context it ends, and everything that it started with it.

    Its standard output is a pipe unless ``log`` takes it.
    """
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("ab")) if log else None
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out or subprocess.PIPE,
            stderr=out,
            # A group of its own, so that it can be ended with all its children.
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def wait_for_port(process: subprocess.Popen[bytes], port: int, timeout: float = 20.0) -> None:
    """Wait until a program listens."""
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args!r} does not listen on {port}") from None
            time.sleep(0.05)


def raise_file_limit(wanted: int = 100_000) -> int:
    """Let us and the programs that we start open many files; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        # Root may, unless the machine is a container that keeps it from it.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted), hard))
    return min(hard, wanted)
