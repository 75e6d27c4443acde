"""What a fuzz finds."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """Something that must not happen: in which part, and what, with all that repeats it."""

    part: str
    what: str
