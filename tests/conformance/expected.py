"""What each case of the Autobahn test suite must come to, where that is not a plain OK.

A case is named as in the suite; ``6.5-23`` are all from 6.5.1 on to the last of 6.23.
The suite's verdict NON-STRICT means that the close came before an echo that was still
under way; UNIMPLEMENTED that an extension was declined in the handshake.  ``1003``
means that the websocket was closed with that code and nothing was sent back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

Key = tuple[int, ...]


class Difference(NamedTuple):
    """Verdicts that are allowed besides OK, or instead of it."""

    reason: str
    verdicts: frozenset[str]
    cases: str


def _row(reason: str, verdicts: str, cases: str) -> Difference:
    return Difference(reason, frozenset(verdicts.split()), cases)


#: With whole messages handed back (echo.py); they go over TCP to a service and back.
ECHO = [
    _row(
        "a frame that is wrong comes in the same segment as a message: the websocket is closed "
        "at once, while the message is on its way to the service and back",
        "OK NON-STRICT",
        "3.2-4 4.1.3-5 4.2.3-5 5.15 7.1.6",
    ),
    _row("no compression is offered (docs/operate.md)", "UNIMPLEMENTED", "12-13"),
]

#: The tunnel as it is.
TUNNEL = [
    _row("the suite does not judge it, its port does; it is text", "OK 1003", "7.1.6"),
    _row(
        "text is refused (contract.md: payload is binary frames), whatever else is wrong",
        "1003",
        "1.1 3.2-4 4.1.3-5 4.2.3-5 5.3-8 5.15 5.18-20 6 7.1.1 7.1.5 10",
    ),
    _row("no byte goes over, so none comes back", "FAILED", "1.2.1"),
    _row(
        "bytes come back in the pieces in which the service sends them: boundaries of messages "
        "are no part of a tunnel",
        "OK FAILED",
        "1.2.6-8",
    ),
]


def allowed(table: list[Difference], case: str) -> frozenset[str]:
    """Return the verdicts that a case may come to."""
    for row in table:
        if any(first <= key(case)[: len(first)] <= last for first, last in _ranges(row.cases)):
            return row.verdicts
    return frozenset({"OK"})


def key(case: str) -> Key:
    """Return what sorts cases."""
    return tuple(map(int, case.split(".")))


def wrong(table: list[Difference], verdicts: Mapping[str, str]) -> dict[str, str]:
    """Return the cases whose verdict is not allowed."""
    return {c: v for c, v in sorted(verdicts.items()) if v not in allowed(table, c)}


def _ranges(cases: str) -> Iterator[tuple[Key, Key]]:
    for one in cases.split():
        first, _, last = one.partition("-")
        begin = key(first)
        yield begin, (*begin[:-1], int(last)) if last else begin
