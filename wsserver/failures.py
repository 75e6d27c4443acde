"""Wrong secrets, counted by the address they come from and their kind: guessing is slow.  Pure.

The threat is T3 of reliability.md.  Nobody is shut out but by what came over a TCP
connection from that very address, or by the word of a proxy of ours.  A kind is what is
shown where: a foreign page can make a browser send a wrong field of a query, and locks it
out of nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from wsserver.addresses import party
from wsserver.errors import TooManyFailures

#: The most addresses that are remembered; the one that was quiet longest is forgotten.
MAX_ADDRESSES = 10_000


class Failures:
    """The failures of late, by address and kind.

    After ``limit`` of them an address has to wait with that kind for ``memory`` seconds,
    which is also how long a failure is remembered.  What is right does not clear what was wrong, or
    somebody with an account could go on guessing at others.  ``now`` is monotonic; ``tell``
    is called with each address that has to wait from then on, and with the kind.
    """

    def __init__(
        self,
        now: Callable[[], float],
        limit: int = 5,
        memory: float = 300.0,
        tell: Callable[[str, str], object] = lambda address, kind: None,
    ) -> None:
        self._now = now
        self._limit = limit
        self._memory = memory
        self._tell = tell
        # Count and the time to forget it, the earliest first.
        self._noted: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def check(self, address: str, kind: str) -> None:
        """Raise TooManyFailures while an address has to wait with that kind."""
        count, until = self._noted.get((party(address), kind), (0, 0.0))
        left = until - self._now()
        if count >= self._limit and left > 0:
            raise TooManyFailures(int(left) + 1)

    def note(self, address: str, kind: str) -> None:
        """Count a wrong secret."""
        self._forget()
        source = party(address), kind
        count, _ = self._noted.pop(source, (0, 0.0))
        self._noted[source] = count + 1, self._now() + self._memory
        if len(self._noted) > MAX_ADDRESSES:
            self._noted.popitem(last=False)
        if count + 1 == self._limit:
            self._tell(address, kind)

    def __len__(self) -> int:
        return len(self._noted)

    def _forget(self) -> None:
        while self._noted:
            source, (_, until) = next(iter(self._noted.items()))
            if until > self._now():
                return
            del self._noted[source]
