"""Results as JSON, and as a table to read."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import peers
from benchmarks.rounds import Bench
from benchmarks.targets import FIGURES, Figure

_COLUMNS = ["wsserver", "websockify", "websocat", "haproxy", "autobahn"]
_LABELS = {peer.name: peer.label for peer in [*peers.ALL, peers.OWN_PORT]}


def collect(bench: Bench, seconds: float) -> dict[str, Any]:
    """Return everything that was seen."""
    medians = {
        name: {peer: median(seen) for peer, seen in values.items()}
        for name, values in bench.values.items()
    }
    return {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "rounds": bench.rounds,
        "quick": bench.quick,
        "machine": machine(),
        "open_files": bench.host.files,
        "versions": peers.versions(),
        "medians": medians,
        "verdicts": {name: verdict(FIGURES[name], medians[name]) for name in medians},
        "rounds_of": bench.values,
        "busy": {
            name: {peer: median(seen) for peer, seen in values.items()}
            for name, values in bench.busy.items()
        },
        "generator_alone": bench.alone,
        "latency_us": {
            name: {peer: _quantiles(seen) for peer, seen in values.items()}
            for name, values in bench.latencies.items()
        },
        "memory": bench.memory,
        "crowd": {peer: [asdict(crowd) for crowd in seen] for peer, seen in bench.crowds.items()},
    }


def machine() -> dict[str, Any]:
    """Return what matters of the machine, and nothing that tells which one it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "load_before": os.getloadavg()[0],
    }


def verdict(figure: Figure, values: dict[str, float]) -> dict[str, Any]:
    """Return the ratios to the peers, and whether the target is met (None: there is none)."""
    ours = values.get("wsserver")
    if ours is None:
        return {"ratios": {}, "met": None}
    ratios = {peer: ours / values[peer] for peer in _COLUMNS[1:] if values.get(peer)}
    checks = [
        _within(ratios[peer], bound, figure.more)
        for peer, bound in figure.ratios.items()
        if peer in ratios
    ]
    if figure.limit is not None:
        checks.append(_within(ours, figure.limit, figure.more))
    return {"ratios": ratios, "met": all(checks) if checks else None}


def _within(value: float, bound: float, more: bool) -> bool:
    return value >= bound if more else value <= bound


def _quantiles(seen: list[float]) -> list[float]:
    """Return 0 %, 0.5 % ... 100 % in microseconds."""
    ordered = sorted(seen)
    last = len(ordered) - 1
    return [round(ordered[last * part // 200] * 1e6, 1) for part in range(201)]


def write(results: dict[str, Any], folder: Path) -> None:
    """Write both files."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(_rounded(results), indent=1)
    (folder / "results.json").write_text(text + "\n")
    (folder / "table.md").write_text(table(results))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def table(results: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    said = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    head = ["figure", "unit", *(_LABELS[name] for name in _COLUMNS), "target", "met"]
    lines = [
        f"`make bench`, {results['date']}: {said['cores']} cores of {said['cpu']}, "
        f"Linux {said['kernel']}, {results['rounds']} rounds"
        f"{' (quick)' if results['quick'] else ''}, medians. {versions}.",
        "",
        _row(head),
        _row(["---"] * 2 + ["--:"] * len(_COLUMNS) + ["---"] * 2),
        *(
            _row(_line(FIGURES[name], results["medians"][name], results["verdicts"][name]))
            for name in FIGURES
            if name in results["medians"]
        ),
        "",
        "In brackets: our value divided by the peer's.",
        *_own_port(results),
        "",
        *_busy(results),
    ]
    return "\n".join(lines) + "\n"


def _line(figure: Figure, values: dict[str, float], verdict: dict[str, Any]) -> list[str]:
    cells = []
    for peer in _COLUMNS:
        value, ratio = values.get(peer), verdict["ratios"].get(peer)
        shown = "" if value is None else f"{value:,.{figure.digits}f}"
        if peer == "wsserver" and shown:
            shown = f"**{shown}**"
        elif shown and ratio is not None and figure.unit != "x" and figure.title[:4] != "open":
            shown += f" ({ratio:.{2 if ratio < 10 else 0}f})"
        cells.append(shown)
    met = {None: "", True: "yes", False: "**no**"}[verdict["met"]]
    return [figure.title, figure.unit, *cells, _target(figure), met]


def _target(figure: Figure) -> str:
    sign = ">=" if figure.more else "<="
    parts = [f"{bound:g} x {_LABELS[peer]}" for peer, bound in figure.ratios.items()]
    if figure.limit is not None:
        parts.append(f"{figure.limit:,g}")
    return f"{sign} {', '.join(parts)}" if parts else ""


def _own_port(results: dict[str, Any]) -> list[str]:
    """Return what differs where the websockets have a port of their own."""
    name = peers.OWN_PORT.name
    seen = [
        f"{FIGURES[figure].title} {values[name]:.{FIGURES[figure].digits}f} {FIGURES[figure].unit}"
        for figure, values in results["medians"].items()
        if name in values
    ]
    return ["", f"With the websockets on a port of their own: {'; '.join(seen)}."] if seen else []


def _busy(results: dict[str, Any]) -> list[str]:
    """Return the table that shows whether the server was the bottleneck."""
    if not results["busy"]:
        return []
    lines = [
        "The server's share of one core during a run; near 1 it was the bottleneck, not the",
        "generator:",
        "",
        _row(["run", *(_LABELS[name] for name in _COLUMNS), "generator without a server"]),
        _row(["---"] + ["--:"] * (len(_COLUMNS) + 1)),
    ]
    alone = results["generator_alone"]
    units = {"down_1": "GiB/s", "down_8": "GiB/s", "up_64k": "GiB/s", "echo": "us (p50)"}
    for name, values in results["busy"].items():
        seen = [f"{values[peer]:.2f}" if peer in values else "" for peer in _COLUMNS]
        rate = alone.get("echo_p50" if name == "echo" else name)
        lines.append(_row([name, *seen, f"{rate:.1f} {units[name]}" if rate else ""]))
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
