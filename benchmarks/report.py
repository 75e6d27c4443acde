"""The table: medians, ratios to the peers, and whether the targets hold."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.rounds import PEER_NAMES, Results

OURS = "wsserver"
COLUMNS = ["wsserver", "websockify", "websocat", "haproxy", "autobahn"]


@dataclass(frozen=True)
class Row:
    """A figure: its words, its unit, and what it should be at most (or at least)."""

    figure: str
    title: str
    unit: str
    scale: float = 1.0
    #: By peer, the greatest ratio of ours to it; the least one where ``more`` is better.
    ratios: dict[str, float] | None = None
    limit: float | None = None
    more: bool = False


ROWS = [
    Row("down", "down, 1 connection", "CPU s/GiB", 1,
        {"websockify": 0.75, "websocat": 0.9, "haproxy": 1.0}),
    Row("down8", "down, 8 connections", "CPU s/GiB", 1,
        {"websockify": 0.75, "websocat": 0.9, "haproxy": 1.0}),
    Row("up", "up, frames of 64 KiB", "CPU s/GiB", 1, {"websockify": 0.35, "websocat": 0.45}),
    Row("frames", "8-byte frames per CPU second", "thousand", 1e-3,
        {"websockify": 40, "websocat": 1.5}, more=True),
    Row("echo_cpu", "echo of 32 bytes, CPU", "us", 1e6, {"websockify": 1.0, "websocat": 1.0}),
    Row("echo_p50", "echo of 32 bytes, median", "us", 1e6, {"websockify": 1.0, "websocat": 1.0}),
    Row("wss_down", "wss, down", "CPU s/GiB", 1, {"websockify": 0.65}),
    Row("wss_up", "wss, up", "CPU s/GiB", 1, {"websockify": 0.65}),
    Row("wss_echo_cpu", "wss, echo, CPU", "us", 1e6, {"websockify": 1.0}),
    Row("idle_memory", "memory of an idle tunnel", "KiB", 1 / 1024, limit=20),
    Row("stalled_memory", "memory of a browser that does not read, peak", "KiB", 1 / 1024,
        limit=1024),
    Row("stalled_input", "its input that still arrives", "%", 100, limit=100, more=True),
    Row("start", "handshake and connect, CPU", "ms", 1e3, limit=0.5),
    Row("start_and_end", "the same and its end, CPU", "ms", 1e3, limit=1.0),
    Row("crowd_tunnels", "most open tunnels tried", "", 1),
    Row("crowd", "CPU per byte, that many tunnels : 100", "", 1, limit=1.2),
    Row("crowd_echo", "CPU per message, that many tunnels : 100", "", 1),
    Row("first_byte", "first byte after listen(), script waits", "ms", 1e3, limit=20),
    Row("first_byte_connecting", "the same, server connects", "ms", 1e3, limit=20),
]  # fmt: skip


def table(results: Results) -> str:
    """Return the results as Markdown."""
    lines = [
        "| figure | unit | "
        + " | ".join(PEER_NAMES[name] for name in COLUMNS)
        + " | target | met |",
        "|---|---|" + "---:|" * len(COLUMNS) + "---|---|",
    ]
    lines += [_line(row, results) for row in ROWS if results.median(row.figure, OURS) is not None]
    return "\n".join([*lines, "", *_lags(results), ""])


def _line(row: Row, results: Results) -> str:
    seen = [results.median(row.figure, name) for name in COLUMNS]
    cells = ["" if value is None else _short(value * row.scale) for value in seen]
    target, met = _judged(row, results)
    return f"| {row.title} | {row.unit} | {' | '.join(cells)} | {target} | {met} |"


def _judged(row: Row, results: Results) -> tuple[str, str]:
    """Return the target in words, and whether it is met, with the ratios that were seen."""
    ours = results.median(row.figure, OURS)
    assert ours is not None
    sign, holds = (">=", float.__ge__) if row.more else ("<=", float.__le__)
    wanted, met = [], []
    for peer, ratio in (row.ratios or {}).items():
        theirs = results.median(row.figure, peer)
        if theirs:
            wanted.append(f"{sign} {ratio:g} x {PEER_NAMES[peer].partition(',')[0]}")
            met.append(_mark(holds(ours / theirs, float(ratio)), f"{ours / theirs:.2f}"))
    if row.limit is not None:
        wanted.append(f"{sign} {row.limit:g}")
        met.append(_mark(holds(round(ours * row.scale, 6), float(row.limit)), ""))
    return ", ".join(wanted), ", ".join(met)


def _mark(holds: bool, seen: str) -> str:
    return f"{'yes' if holds else '**no**'} {seen}".strip()


def _lags(results: Results) -> list[str]:
    """Return lines about scripts that compute in a thread of the server."""
    lags = results.latencies.get("lag", {})
    if not lags:
        return []
    head = ["| echo while ... | p50 ms | p99 ms | longest ms |", "|---|---:|---:|---:|"]
    return head + [f"| {name} | {' | '.join(_quantiles(seen))} |" for name, seen in lags.items()]


def _quantiles(seen: Iterable[float]) -> list[str]:
    ordered = sorted(seen)
    last = len(ordered) - 1
    return [f"{1e3 * ordered[round(last * share)]:.2f}" for share in (0.5, 0.99, 1.0)]


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def busy(results: Results) -> str:
    """Return how busy each server was while it was measured, at the least busy round."""
    least: Callable[[list[float]], float] = min
    lines = ["| share of one core | " + " | ".join(PEER_NAMES[name] for name in COLUMNS) + " |"]
    lines.append("|---|" + "---:|" * len(COLUMNS))
    for figure, by_server in results.busy.items():
        shares = [by_server.get(name) for name in COLUMNS]
        cells = ["" if not seen else f"{100 * least(seen):.0f} %" for seen in shares]
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def as_json(results: Results) -> dict[str, object]:
    """Return everything that was seen, latencies by their quantiles."""
    return {
        "values": results.values,
        "busy": results.busy,
        "latencies": {
            figure: {name: _spread(seen) for name, seen in by_server.items()}
            for figure, by_server in results.latencies.items()
        },
        "memory": results.memory,
        "crowds": {name: [vars(c) for c in seen] for name, seen in results.crowds.items()},
    }


def _spread(seen: list[float]) -> list[float]:
    """Return the percentiles 0 ... 100."""
    return [min(seen), *statistics.quantiles(seen, n=100), max(seen)]
