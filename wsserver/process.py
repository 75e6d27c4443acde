"""What a process of our own sets for itself; a host that embeds the server is left alone."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from functools import cache, lru_cache
from threading import Timer
from typing import Any

from twisted.logger import Logger

#: What is wanted of open files: two a tunnel, and some for everything else.
WANTED_FILES = 65536
SPARE_FILES = 200
#: Where more may be open, scarcity begins among the last so many of them: see admission.
LAST_FILES = 2500
#: How long a thread of a busy script may keep the reactor's thread waiting, in seconds.
SWITCH_INTERVAL = 0.0005
#: How much longer than an orderly stop the process may take to end, in seconds.
SPARE_TIME = 1.0

_log = Logger(namespace="wsserver")


def prepare(reactor: Any) -> None:
    """Set the clock of the timers and the turns of the threads, before anything is timed."""
    # Twisted's timers follow the wall clock, which may step.
    reactor.seconds = time.monotonic
    # Python's own 5 ms are waited for at each system call of the reactor's thread.
    sys.setswitchinterval(SWITCH_INTERVAL)


@cache
def own_names() -> frozenset[str]:
    """Return the names of this machine, short and in full; to look them up may take a while."""
    name = socket.gethostname()
    return frozenset({name, socket.getfqdn(name)})


def raise_file_limit() -> None:
    """Allow as many open files as may be, and tell where they are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = WANTED_FILES if hard == unlimited else min(WANTED_FILES, hard)
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != unlimited and soft < WANTED_FILES:
        # A fifth of the last ones is kept in reserve: see admission.
        room = max(0, soft - min(soft, LAST_FILES) // 5 - SPARE_FILES) // 2
        _log.info("{soft} open files are allowed: room for {room} tunnels", soft=soft, room=room)


def files_in_use(more: int = 0) -> float:
    """Return which part of the files that may be open would be so with ``more`` of them.

    Of many only the last LAST_FILES count: a reserve need not be larger.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return 0.0
    try:
        last = min(allowed, LAST_FILES)
        return max(0.0, 1 - (allowed - _open_files() - more) / last)
    except OSError:
        return 1.0


def _open_files() -> int:
    """Return how many files are open, or a little less; raise OSError where no more can be."""
    try:
        # Linux tells it from 6.2 on; before, it is 0.
        known = os.stat("/proc/self/fd").st_size
    except OSError:
        known = 0
    if known:
        return known
    # The lowest number that is free: all below are in use, and above it what was counted of late.
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    return max(lowest, _counted(int(time.monotonic())))


@lru_cache(maxsize=1)
def _counted(second: int) -> int:
    """Count the open files, once in a second: of ten thousand that takes some milliseconds."""
    return len(os.listdir("/proc/self/fd")) - 1


def settle() -> None:
    """Spare the collector of garbage what will stay to the end anyway."""
    gc.collect()
    gc.freeze()


def end_in_time(timeout: float) -> None:
    """Let the process end within ``timeout`` seconds and a little, and at once by a signal.

    Something may hang that nobody can end, such as a look-up of a name.  What runs for
    sessions ends as well: their supervisors see that the server is gone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    watchdog = Timer(timeout + SPARE_TIME, _end_at_once, (signal.SIGALRM, None))
    watchdog.daemon = True
    watchdog.start()


def _end_at_once(number: int, _: object) -> None:
    try:
        why = "it takes too long" if number == signal.SIGALRM else "a second signal"
        _log.critical("the server ends at once: {why}", why=why)
    finally:
        os._exit(128 + number)
