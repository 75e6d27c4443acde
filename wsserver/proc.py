"""Processes as they stand in /proc (proc(5)), and signals that reach the right one.

The supervisor imports this, which has to start quickly: nothing that is slow to import.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    """A process as it stands in /proc; number and start time tell it from all others."""

    def __init__(self, pid: int, stat: bytes) -> None:
        head, _, tail = stat.rpartition(b") ")
        fields = tail.split()
        self.pid = pid
        self.name = head.partition(b"(")[2].decode("utf-8", "replace")
        # Where only the first thread has ended, the others go on, and are to be signalled.
        self.zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
        self.parent = int(fields[1])
        self.session = int(fields[3])
        self.start = int(fields[19])

    def __str__(self) -> str:
        return f"{self.name} {self.pid}"


def look(pid: int) -> Process | None:
    """Return what /proc/PID/stat says (proc(5)); None where there is no such process, or
    it is another user's and hidden from us (hidepid).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return Process(pid, file.read())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def running(pid: int, start: int) -> Process | None:
    """Return a process where it runs, and is still the one that started then."""
    now = look(pid)
    return now if now is not None and now.start == start and not now.zombie else None


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
