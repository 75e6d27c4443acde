"""Wrong secrets, counted by the address they come from: guessing is slow.  Pure.

The threat is T3 of reliability.md.  Nobody is shut out but by what came over a TCP
connection from that very address, or by the word of a proxy of ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from wsserver.errors import TooManyFailures

#: The most addresses that are remembered; the one that was quiet longest is forgotten.
MAX_ADDRESSES = 10_000


class Failures:
    """The failures of late, by address.

    After ``limit`` of them an address has to wait for ``memory`` seconds, which is also how
    long a failure is remembered.  What is right does not clear what was wrong, or
    somebody with an account could go on guessing at others.  ``now`` is monotonic; ``tell``
    is called with each address that has to wait from then on.
    """

    def __init__(
        self,
        now: Callable[[], float],
        limit: int = 5,
        memory: float = 300.0,
        tell: Callable[[str], object] = lambda address: None,
    ) -> None:
        self._now = now
        self._limit = limit
        self._memory = memory
        self._tell = tell
        # Count and the time to forget it, the earliest first.
        self._noted: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise TooManyFailures while an address has to wait."""
        count, until = self._noted.get(_source(address), (0, 0.0))
        left = until - self._now()
        if count >= self._limit and left > 0:
            raise TooManyFailures(int(left) + 1)

    def note(self, address: str) -> None:
        """Count a wrong secret."""
        self._forget()
        source = _source(address)
        count, _ = self._noted.pop(source, (0, 0.0))
        self._noted[source] = count + 1, self._now() + self._memory
        if len(self._noted) > MAX_ADDRESSES:
            self._noted.popitem(last=False)
        if count + 1 == self._limit:
            self._tell(address)

    def __len__(self) -> int:
        return len(self._noted)

    def _forget(self) -> None:
        while self._noted:
            source, (_, until) = next(iter(self._noted.items()))
            if until > self._now():
                return
            del self._noted[source]


def _source(address: str) -> str:
    """Return what counts as one source: of IPv6 the network that one site has."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return address
    # A socket that takes both kinds names IPv4 clients so: they are no single site.
    return str(found.ipv4_mapped) if found.ipv4_mapped else found.exploded[:19]
