"""Keeps messages of one kind from drowning the log: what is too many is counted instead."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, LogLevel
from zope.interface import implementer

#: So many messages of one kind are logged in so many seconds.
MOST = 1000
PERIOD = 10.0
#: Of so many kinds are the counts kept; all others are one.
KINDS = 1000

#: What stands for all kinds beyond that.
_OTHERS = "messages of all kinds"


@implementer(ILogObserver)
class Flood:
    """Passes events on, at most ``MOST`` of one kind in each ``PERIOD``.

    How many of a kind were dropped is told with the first event after that.  A kind is
    what has one format, whatever is filled in.
    """

    def __init__(
        self, observer: ILogObserver, seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._observer = observer
        self._seconds = seconds
        self._began = seconds()
        self._counts: Counter[str] = Counter()

    def __call__(self, event: LogEvent) -> None:
        """Pass an event on, unless there are too many like it."""
        if self._seconds() - self._began >= PERIOD:
            self._tell()
        kind = f"{event.get('log_namespace')}: {event.get('log_format')}"
        if kind not in self._counts and len(self._counts) >= KINDS:
            kind = _OTHERS
        self._counts[kind] += 1
        if self._counts[kind] <= MOST:
            self._observer(event)

    def _tell(self) -> None:
        counts, self._counts = self._counts, Counter()
        self._began = self._seconds()
        for kind, count in counts.items():
            if count > MOST:
                self._observer(_dropped(kind, count - MOST))


def _dropped(kind: str, count: int) -> LogEvent:
    return {
        "log_namespace": "wsserver.flood",
        "log_level": LogLevel.warn,
        "log_time": time.time(),
        "log_format": "{count} more were not logged of {kind}",
        "count": count,
        "kind": kind,
    }
