"""The figures of the table: what they are called, and what is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    ``ratios`` bound our value by those of peers, ``limit`` bounds it alone; where ``more`` is
    better both are lower bounds.
    """

    title: str
    unit: str
    digits: int = 2
    ratios: dict[str, float] = field(default_factory=dict)
    limit: float | None = None
    more: bool = False


_DOWN = {"websockify": 0.75, "websocat": 0.9, "haproxy": 1.0}
_UP = {"websockify": 0.35, "websocat": 0.45}
_SMALL = {"websockify": 40.0, "websocat": 1.5}
_ECHO = {"websockify": 1.0, "websocat": 1.0}
_WSS = {"websockify": 0.65}
_CPU = "CPU s/GiB"

FIGURES = {
    "down_1": Figure("down, 1 connection", _CPU, ratios=_DOWN),
    "down_8": Figure("down, 8 connections", _CPU, ratios=_DOWN),
    "up_64k": Figure("up, 64 KiB frames", _CPU, ratios=_UP),
    "up_8": Figure("up, 8-byte frames", "1,000/CPU s", 0, _SMALL, more=True),
    "up_mixed": Figure("up, small frames of mixed sizes", "1,000/CPU s", 0, more=True),
    "echo_cpu": Figure("32-byte echo, CPU", "us", 1, _ECHO),
    "echo_p50": Figure("32-byte echo, p50", "us", 1, _ECHO),
    "echo_p99": Figure("32-byte echo, p99", "us", 1),
    "burst_p50": Figure("two messages at once, p50", "us", 0),
    "burst_p99": Figure("two messages at once, p99", "us", 0),
    "wss_down_1": Figure("wss, down, 1 connection", _CPU, ratios=_WSS),
    "wss_down_8": Figure("wss, down, 8 connections", _CPU, ratios=_WSS),
    "wss_up_64k": Figure("wss, up, 64 KiB frames", _CPU, ratios=_WSS),
    "wss_echo_cpu": Figure("wss, 32-byte echo, CPU", "us", 1, {"websockify": 1.0}),
    "wss_echo_p50": Figure("wss, 32-byte echo, p50", "us", 1),
    "wss_echo_p99": Figure("wss, 32-byte echo, p99", "us", 1),
    "start": Figure("handshake + connect, CPU", "ms", limit=0.5),
    "starts": Figure("the same, connections", "per CPU s", 0, limit=1000, more=True),
    "end": Figure("end of a connection, CPU", "ms"),
    "wss_start": Figure("wss, handshake + connect, CPU", "ms"),
    "idle": Figure("memory of an idle tunnel", "KiB", 1, limit=20),
    "wss_idle": Figure("wss, memory of an idle tunnel", "KiB", 1),
    "stalled": Figure("memory, browser that does not read", "KiB", 0, limit=1024),
    "stalled_peak": Figure("the same, at its peak", "KiB", 0),
    "stalled_input": Figure("its input that still arrives", "%", 0, limit=100, more=True),
    "tunnels": Figure("open tunnels on one process", "", 0, limit=10_000, more=True),
    "crowd_bytes": Figure("CPU per byte, most tunnels : 100", "x", limit=1.2),
    "crowd_echo": Figure("CPU per message, most tunnels : 100", "x"),
    "first_byte": Figure("first byte, address at once", "ms", 1, limit=20),
    "first_byte_wait": Figure("first byte, wait_for_port", "ms", 1, limit=20),
    "lag_p50": Figure("echo beside a busy script, p50", "ms"),
    "lag_p99": Figure("echo beside a busy script, p99", "ms"),
    "lag_max": Figure("echo beside a busy script, longest", "ms"),
    "lag_down": Figure("down beside a busy script", "MiB/s", 0, more=True),
    "calm_p50": Figure("echo without it, p50", "ms"),
    "calm_p99": Figure("echo without it, p99", "ms"),
    "calm_max": Figure("echo without it, longest", "ms"),
    "calm_down": Figure("down without it", "MiB/s", 0, more=True),
}
