"""The results as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks import peers

_COLOURS = {
    "wsserver": "#c0392b",
    "websockify": "#7f8c8d",
    "websocat": "#d4a017",
    "haproxy": "#2c7fb8",
    "autobahn": "#74a57f",
}
_LABELS = {peer.name: peer.label for peer in peers.ALL}


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw whatever was measured."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    if "down_1" in results["medians"]:
        _save(_cpu(results), folder / "cpu.png")
    if "echo" in results["latency_us"]:
        _save(_latency(results), folder / "latency.png")
    if results["memory"]:
        _save(_memory(results), folder / "memory.png")
    if results["crowd"]:
        _save(_crowd(results), folder / "crowd.png")


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    # No version of matplotlib in the file, or it would change for nothing.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _cpu(results: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(9, 3.6))
    shown = {
        "down_1": "down",
        "down_8": "down,\n8 connections",
        "up_64k": "up",
        "wss_down_1": "wss, down",
        "wss_down_8": "wss, down,\n8 connections",
        "wss_up_64k": "wss, up",
    }
    names = [name for name in shown if name in results["medians"]]
    width = 0.16
    for place, (peer, colour) in enumerate(_COLOURS.items()):
        values = [results["medians"][name].get(peer, 0) for name in names]
        at = [number + (place - 2) * width for number in range(len(names))]
        axes.bar(at, values, width, color=colour, label=_LABELS[peer])
    axes.set_xticks(range(len(names)), [shown[name] for name in names])
    axes.set_ylabel("server CPU, seconds per GiB")
    axes.set_title("What a GiB costs (less is better)")
    axes.legend(frameon=False)
    return figure


def _latency(results: dict[str, Any]) -> Any:
    kinds = [name for name in ("echo", "wss_echo") if name in results["latency_us"]]
    figure, all_axes = plt.subplots(1, len(kinds), figsize=(9, 3.6), sharey=True, squeeze=False)
    share = [part / 2 for part in range(201)]
    for axes, kind in zip(all_axes[0], kinds, strict=True):
        for peer, quantiles in results["latency_us"][kind].items():
            axes.plot(quantiles, share, color=_COLOURS[peer], label=_LABELS[peer])
        axes.set_xscale("log")
        axes.set_xlabel("microseconds")
        axes.set_title("32-byte echo" + (", wss" if kind != "echo" else ""))
        axes.grid(alpha=0.3, which="both")
    all_axes[0][0].set_ylabel("% of the echoes at most")
    all_axes[0][0].legend(frameon=False)
    return figure


def _memory(results: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for key, taken in results["memory"].items():
        kind, _, peer = key.partition(" ")
        if peer in _COLOURS:
            style = "--" if kind == "wss_idle" else "-"
            label = _LABELS[peer] + (", wss" if kind == "wss_idle" else "")
            # Nothing open is no place on a logarithmic axis.
            counts = [int(count) for count in taken if int(count)]
            sizes = [size / 2**20 for count, size in taken.items() if int(count)]
            axes.plot(counts, sizes, style, marker="o", ms=3, color=_COLOURS[peer], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("open tunnels")
    axes.set_ylabel("MiB (PSS) that they take")
    axes.set_title("Memory against open tunnels")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=7)
    return figure


def _crowd(results: dict[str, Any]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for peer, crowds in results["crowd"].items():
        counts = [crowd["tunnels"] for crowd in crowds]
        for axes, key, factor in (left, "cpu_per_gib", 1.0), (right, "cpu_per_echo", 1e6):
            values = [crowd[key] * factor for crowd in crowds]
            axes.plot(counts, values, marker="o", ms=4, color=_COLOURS[peer], label=_LABELS[peer])
    _crowd_axes(left, "server CPU, seconds per GiB", "Bytes, through 8 of them")
    _crowd_axes(right, "server CPU, us per 32-byte echo", "Messages, through all in turn")
    left.legend(frameon=False)
    return figure


def _crowd_axes(axes: Any, label: str, title: str) -> None:
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("open tunnels")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(alpha=0.3)
