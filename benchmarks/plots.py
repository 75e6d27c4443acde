"""The plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.report import COLUMNS
from benchmarks.rounds import PEER_NAMES, Results

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = dict(zip(COLUMNS, ["#0b6e99", "#d9822b", "#b3452c", "#8a8f94", "#7d6ba6"], strict=True))


def draw(results: Results, folder: Path) -> None:
    """Draw what was measured."""
    if results.values.get("down"):
        _save(_cpu(results), folder / "cpu.png")
        _save(_latency(results), folder / "latency.png")
    if results.memory:
        _save(_memory(results), folder / "memory.png")
    if results.crowds:
        _save(_crowd(results), folder / "tunnels.png")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _axes(title: str, columns: int = 1, width: float = 7.0) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, columns, figsize=(width, 3.6), layout="constrained")
    figure.suptitle(title)
    for one in np.atleast_1d(axes):
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cpu(results: Results) -> Any:
    """CPU per GiB, in bars."""
    kinds = {
        "down": "down",
        "down8": "down, 8",
        "up": "up",
        "wss_down": "wss down",
        "wss_up": "wss up",
    }
    figure, axes = _axes("CPU seconds of the server per GiB (less is better)", width=9)
    width = 0.8 / len(COLUMNS)
    for number, name in enumerate(COLUMNS):
        heights = [results.median(kind, name) or 0 for kind in kinds]
        places = np.arange(len(kinds)) + (number - len(COLUMNS) / 2 + 0.5) * width
        bars = axes.bar(places, heights, width, label=PEER_NAMES[name], color=COLOURS[name])
        labels = [f"{height:.2f}" if height else "" for height in heights]
        axes.bar_label(bars, labels, fontsize=6)
    axes.set_xticks(np.arange(len(kinds)), kinds.values())
    axes.legend(frameon=False, fontsize=8)
    return figure


def _latency(results: Results) -> Any:
    """The distribution of echoes."""
    figure, axes = _axes("Echo of 32 bytes: share of echoes within a time")
    for name in COLUMNS:
        seen = np.sort(results.latencies["echo"].get(name, []))
        if len(seen):
            share = np.linspace(0, 1, len(seen))
            axes.plot(seen * 1e6, share, label=PEER_NAMES[name], color=COLOURS[name])
    axes.set(xscale="log", xlabel="microseconds", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _memory(results: Results) -> Any:
    """Memory against open tunnels."""
    figure, axes = _axes("Memory of open, idle tunnels")
    for name, taken in results.memory.items():
        counts = sorted(taken)
        sizes = [taken[count] / 2**20 for count in counts]
        axes.plot(counts, sizes, "o-", label=PEER_NAMES[name], color=COLOURS[name])
    axes.set(xlabel="tunnels", ylabel="MiB (PSS)", yscale="symlog", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _crowd(results: Results) -> Any:
    """The cost of bytes and messages against open tunnels."""
    figure, axes = _axes("What it costs to be one of many tunnels", 2, width=9)
    for name, crowds in results.crowds.items():
        counts = [crowd.tunnels for crowd in crowds]
        style = {"label": PEER_NAMES[name], "color": COLOURS[name]}
        axes[0].plot(counts, [crowd.cpu_per_gib for crowd in crowds], "o-", **style)
        axes[1].plot(counts, [crowd.cpu_per_echo * 1e6 for crowd in crowds], "o-", **style)
    axes[0].set(xscale="log", xlabel="open tunnels", ylabel="CPU s/GiB", ylim=(0, None))
    axes[1].set(xscale="log", xlabel="open tunnels", ylabel="CPU us per echo", ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    return figure
