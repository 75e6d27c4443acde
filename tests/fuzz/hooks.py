"""Loaded by schemathesis: each call comes from an address of its own.

One that shows wrong tokens has to wait for long, and so would all others with it.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import schemathesis

_addresses = count(1)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Say where the call comes from, as a trusted front proxy does."""
    number = next(_addresses)
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    case.headers = {**(case.headers or {}), "X-Forwarded-For": address}
