"""The table of faults: a function for each row of ../shared/docs/reliability.md, section B."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from tests.faults.world import World

Run = Callable[[World, Random], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """A fault: ``run`` injects it once, and raises where the server does not stand it.

    ``weight`` is how often it is drawn; ``apart`` tells that it has servers of its own.
    """

    number: str
    run: Run
    weight: float
    apart: bool

    @property
    def title(self) -> str:
        return (self.run.__doc__ or "").splitlines()[0].rstrip(".")


ROWS: dict[str, Row] = {}


def row(number: str | int, weight: float = 1.0, apart: bool = False) -> Callable[[Run], Run]:
    """Put a function into the table."""

    def put(run: Run) -> Run:
        ROWS[str(number)] = Row(str(number), run, weight, apart)
        return run

    return put
