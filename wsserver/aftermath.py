"""What servers that died have left is ended before this one listens.

Only processes that are known for certain are signalled: by the mark in their environment;
or as a supervisor that the journal names, with its start time and on the same boot of the
machine, and what is below it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from twisted.logger import Logger

from wsserver.family import marked
from wsserver.journal import Owner, Supervised, boot_id, owner_of, sessions_of
from wsserver.proc import Process, below, running, tell

#: How long the supervisors of a dead server may take to end by themselves, and how long
#: whatever they have left may take to be gone when it is killed, in seconds.
WAIT, KILL_WAIT = 3.0, 5.0
#: How often it is looked what is left, in seconds.
POLL = 0.05

_log = Logger(namespace="wsserver.aftermath")


def clean(directory: Path) -> None:
    """End what servers that have died have left; the log has a line for each of them.

    Blocks for some seconds where anything is left.  Only processes that are known for
    certain are signalled.
    """
    try:
        files = sorted(directory.iterdir())
    except OSError:
        return
    for path in files:
        owner = owner_of(path)
        if owner is not None and not owner.alive:
            _clean_after(owner, path)


def _clean_after(owner: Owner, path: Path) -> None:
    try:
        sessions = sessions_of(path.read_bytes())
    except OSError as error:
        _log.error("{path}: {e}", path=str(path), e=error)
        return
    killed = left = 0
    if owner.boot == boot_id():
        killed, left = _end(sessions)
    if left:
        what = f"{left} processes of its sessions do not end"
        _log.error("server {pid} died: {what}", pid=owner.pid, what=what)
        return
    path.unlink(missing_ok=True)
    what = f"it had {len(sessions)} sessions; {killed} processes were left, and are killed"
    _log.info("server {pid} died: {what}", pid=owner.pid, what=what)


def _end(sessions: Sequence[Supervised]) -> tuple[int, int]:
    """Let sessions end, and then kill what is left; return how many had to be, and remain."""
    deadline = time.monotonic() + WAIT
    while (left := survivors(sessions)) and time.monotonic() < deadline:
        time.sleep(POLL)
    killed: set[tuple[int, int]] = set()
    deadline = time.monotonic() + KILL_WAIT
    while left and time.monotonic() < deadline:
        for process in left:
            killed.add((process.pid, process.start))
            tell(process, signal.SIGKILL)
        time.sleep(POLL)
        left = survivors(sessions)
    return len(killed), len(left)


def survivors(sessions: Sequence[Supervised]) -> list[Process]:
    """Return what runs of these sessions: by mark, and below supervisors that are the same."""
    found = {process.pid: process for process in marked({session.mark for session in sessions})}
    for session in sessions:
        supervisor = running(session.pid, session.start)
        if supervisor is not None:
            family = [supervisor, *below(supervisor.pid)]
            found |= {process.pid: process for process in family}
    return list(found.values())
