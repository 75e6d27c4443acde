"""What a server takes of the machine while it runs."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.integration.parts import Server

MIB = 1 << 20


class Sample(NamedTuple):
    """One look at a server; memory in MiB, time in seconds."""

    time: float
    pss: float
    rss: float
    files: int
    threads: int
    processes: int


def sample(server: Server) -> Sample:
    """Look at a server."""
    process = psutil.Process(server.process.pid)
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    sizes = {name: int(kib) / 1024 for name, kib in re.findall(r"(?m)^(Pss|Rss):\s+(\d+)", text)}
    return Sample(
        time.monotonic(),
        sizes["Pss"],
        sizes["Rss"],
        process.num_fds(),
        process.num_threads(),
        len(server.children()) + len(server.supervisors()),
    )


def slope(samples: list[Sample]) -> float:
    """Return by how much the memory grows, in MiB an hour: least squares over PSS."""
    count = len(samples)
    if count < 2:
        return 0.0
    middle = sum(s.time for s in samples) / count
    mean = sum(s.pss for s in samples) / count
    over = sum((s.time - middle) * (s.pss - mean) for s in samples)
    return 3600 * over / sum((s.time - middle) ** 2 for s in samples)


def told(server: Server) -> dict[str, int]:
    """Return how often the log tells of what becomes of a session."""
    words = ("reserved", "starting", "open", "stopping", "closed", "released", "expired", "failed")
    log = server.log
    return {word: len(re.findall(rf"wsserver.desk#info\] .* \d+: {word}\b", log)) for word in words}
