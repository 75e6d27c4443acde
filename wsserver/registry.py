"""The rules of admission.  Pure: the time is an argument, nothing is kept.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

from wsserver.config import ServiceSpec
from wsserver.errors import AtCapacity
from wsserver.lifecycle import Phase, Reservation

#: What a client is told to wait, in seconds, when nobody knows when a slot comes free.
DEFAULT_RETRY = 10


def free_index(spec: ServiceSpec, live: Sequence[Reservation]) -> int | None:
    """Return the lowest index of ``spec`` that no live reservation holds, or None.

    After a reload there may be more instances than ``spec`` has indexes for: they count.
    """
    if not free_count(spec, live):
        return None
    taken = {r.index for r in live if r.service == spec.name}
    return next((i for i in range(spec.count) if i not in taken), None)


def free_count(spec: ServiceSpec, live: Sequence[Reservation]) -> int:
    """Return how many instances of ``spec`` are free; never below 0."""
    return max(0, spec.count - sum(1 for r in live if r.service == spec.name))


def retry_after(
    spec: ServiceSpec, live: Sequence[Reservation], now: float, timeout: float
) -> int | None:
    """Return the seconds until the oldest unused reservation of ``spec`` expires, or None."""
    unused = [r.since for r in live if r.service == spec.name and r.phase is Phase.RESERVED]
    return max(1, ceil(min(unused) + timeout - now)) if unused else None


def admit(spec: ServiceSpec, live: Sequence[Reservation], now: float, timeout: float) -> int:
    """Return the index for a new reservation.

    Raises:
        AtCapacity: every instance is taken; ``retry_after`` says when to ask again.
    """
    index = free_index(spec, live)
    if index is None:
        wait = retry_after(spec, live, now, timeout) or DEFAULT_RETRY
        raise AtCapacity(f"all {spec.count} instances of {spec.name} are in use", wait)
    return index


def expired(live: Iterable[Reservation], now: float, timeout: float) -> list[Reservation]:
    """Return the reservations that nobody used within ``timeout`` seconds."""
    return [r for r in live if r.phase is Phase.RESERVED and now - r.since >= timeout]
