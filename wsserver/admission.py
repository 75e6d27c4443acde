"""How much of everything one address, and all together, may have at one time.

The slots of a service are the registry's business; these bounds keep the machine usable
for everybody else while somebody asks for too much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil

from wsserver.addresses import party
from wsserver.config import Limits
from wsserver.errors import AtCapacity, TooMany
from wsserver.lifecycle import Phase, Reservation

#: What a client is told to wait, in seconds, where nobody knows how long it takes.
RETRY = 10
#: The same while others start.
RETRY_START = 2
#: From which part of the open files on everything new is refused: scripts that end, and
#: logs, need some.  Beyond the second nobody is even told.
SCARCE, EXHAUSTED = 0.8, 0.9


class Visit:
    """One connection of a client, or one request where a front proxy speaks for many.

    It counts until its ``end``; ``refusal`` tells why it may do nothing, if so.
    """

    def __init__(self, counts: Counter[str], address: str, limit: int) -> None:
        self._counts = counts
        self._party = party(address)
        self._ended = False
        counts[self._party] += 1
        self.refusal: TooMany | None = None
        if limit and counts[self._party] > limit:
            self.refusal = TooMany("too many connections from your address", RETRY)

    def end(self) -> None:
        """Count no more; only the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._counts[self._party] -= 1
        if not self._counts[self._party]:
            del self._counts[self._party]


def no_files(more: int) -> float:
    """Tell that files are no matter."""
    return 0.0


class Admission:
    """Counts the visits of each address, and keeps some of the open files in reserve.

    ``limit`` visits are served, 0 for any number; ``files`` returns which part of the
    files that may be open would be so with ``more`` of them (of many, of the last of them).
    """

    def __init__(self, limit: int = 0, files: Callable[[int], float] = no_files) -> None:
        self._limit = limit
        self._files = files
        self._counts: Counter[str] = Counter()

    def visit(self, address: str) -> Visit:
        """Count a visit."""
        return Visit(self._counts, address, self._limit)

    def hears(self, address: str) -> bool:
        """Tell whether an address may still be told that it is refused."""
        overrun = self._limit and self._counts[party(address)] >= 2 * self._limit
        return not overrun and self._files(0) < EXHAUSTED

    def room(self, more: int = 0) -> AtCapacity | None:
        """Return why nothing new may begin, None while there is room for ``more`` files."""
        if self._files(more) < SCARCE:
            return None
        return AtCapacity("the server has no room for more connections", RETRY)

    def visits(self) -> int:
        """Return how many visits there are."""
        return self._counts.total()


def check_reserve(limits: Limits, live: Sequence[Reservation]) -> None:
    """Raise AtCapacity where no more sessions may be promised."""
    if limits.max_sessions and len(live) >= limits.max_sessions:
        raise AtCapacity("no more sessions are allowed at one time", RETRY)


def check_unused(
    limits: Limits, live: Sequence[Reservation], client: str, now: float, timeout: float
) -> None:
    """Raise TooMany where an address has as many unused reservations as it may."""
    if not limits.max_reservations_per_address:
        return
    mine = party(client)
    unused = [r.since for r in live if r.phase is Phase.RESERVED and party(r.client) == mine]
    if len(unused) >= limits.max_reservations_per_address:
        wait = max(1, ceil(min(unused) + timeout - now))
        raise TooMany("too many unused reservations from your address", wait)


def check_start(limits: Limits, live: Sequence[Reservation]) -> None:
    """Raise AtCapacity where as many sessions start as may at one time."""
    starting = sum(1 for r in live if r.phase is Phase.STARTING)
    if limits.max_starting and starting >= limits.max_starting:
        raise AtCapacity("too many sessions are starting, try again", RETRY_START)
