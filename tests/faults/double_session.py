"""The service script of the fault tests: ``mode`` and ``end`` of a reservation say what it does.

Each start and stop is noted in one shared file, with one write each: when (CLOCK_MONOTONIC,
nanoseconds), what, the mark of the reservation, service and index.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from twisted.internet import reactor

from wsserver import RemoteServiceScript

#: Every program of a session carries the mark of its reservation.
MARK = "FAULT_MARK"

ECHO = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
peer = listener.accept()[0]
while data := peer.recv(65536):
    peer.sendall(data)
"""

#: Ignores TERM, as does its child; its grandchild has run away; another one is stopped.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not os.fork():
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
elif not os.fork():
    os.kill(os.getpid(), signal.SIGSTOP)
print("ready", flush=True)
time.sleep(600)
"""

GARBAGE: list[Any] = [
    None, (), [], {}, "", "127.0.0.1:5900", 5900, ("127.0.0.1",), ("127.0.0.1", 5900, 1),
    ("127.0.0.1", "5900"), ("127.0.0.1", 5900.0), ("127.0.0.1", 0), ("127.0.0.1", -1),
    ("127.0.0.1", 65536), ("127.0.0.1", True), ("127.0.0.1", None), ("", 5900), ("  ", 5900),
    (None, 5900), (b"127.0.0.1", 5900), (5900, "127.0.0.1"), {"127.0.0.1", 5900},
    {"vnc": None}, {"vnc": "127.0.0.1:5900"}, {"vnc": ("127.0.0.1", 0)}, {5900: ("x", 1)},
    "x" * 1_000_000, b"\x00" * 64, object(), iter(("127.0.0.1", 5900)),
]  # fmt: skip


class OnPurpose(Exception):
    """What the doubles raise: the log may hold it."""


class Double(RemoteServiceScript):
    """Misbehaves as it is told."""

    patience = 0.3

    def start(self) -> Any:
        self._note("start")
        try:
            return getattr(self, f"start_{self._options.get('mode', 'good')}")()
        finally:
            self._note("started")

    def stop(self) -> None:
        self._note("stop")
        try:
            getattr(self, f"stop_{self._options.get('end', 'good')}")()
        finally:
            self._note("stopped")

    def start_good(self) -> Any:
        self._start("sleep", "600")
        return "127.0.0.1", int(self._options["port"])

    def start_bad(self) -> Any:
        self._start("sleep", "600")
        raise OnPurpose("start fails on purpose")

    def start_slow(self) -> Any:
        time.sleep(self._delay)
        return self.start_good()

    def start_slow_bad(self) -> Any:
        time.sleep(self._delay)
        return self.start_bad()

    def start_never(self) -> Any:
        """Notices no cancellation, and comes home much too late with a program just started."""
        self._start("sleep", "600")
        time.sleep(self._delay)
        return "127.0.0.1", int(self._options["port"])

    def start_exit(self) -> Any:
        raise SystemExit("exit on purpose")

    def start_garbage(self) -> Any:
        return GARBAGE[int(self._options["n"])]

    def start_port(self) -> Any:
        return self._options.get("host", "127.0.0.1"), int(self._options["port"])

    def start_rogue(self) -> Any:
        return self.wait_for_port(int(self._options["port"]), banner=b"RFB 003.", timeout=0.3)

    def start_fork(self) -> Any:
        self._start("sh", "-c", "sleep 600 & exit 0")
        return self.start_port()

    def start_flood(self) -> Any:
        self._start(
            "sh", "-c", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; sleep 600"
        )
        return self.start_port()

    def start_stubborn(self) -> Any:
        group = self._start(sys.executable, "-S", "-c", STUBBORN)
        self.wait_until(lambda: "ready" in group.output(), "not ready", group)
        return self.start_port()

    def start_dies(self) -> Any:
        port = self.free_port()
        group = self._start(sys.executable, "-S", "-c", ECHO, str(port))
        self._note("program", group.pid)
        # Who looked whether somebody listens would be served instead.
        return "127.0.0.1", port

    def start_block(self) -> Any:
        reactor.callFromThread(time.sleep, self._delay)  # type: ignore[attr-defined]
        return self.start_port()

    def start_census(self) -> Any:
        reactor.callFromThread(self._census)  # type: ignore[attr-defined]
        return self.start_port()

    def stop_good(self) -> None:
        super().stop()

    def stop_bad(self) -> None:
        raise OnPurpose("stop fails on purpose")

    def stop_never(self) -> None:
        time.sleep(self._delay)

    @property
    def _delay(self) -> float:
        return float(self._options.get("delay", "0"))

    def _start(self, *argv: str) -> Any:
        return self.spawn(argv, env={MARK: self._options["mark"]})

    def _census(self) -> None:
        """Note how much the reactor watches."""
        loop: Any = reactor
        counts = len(loop.getReaders()), len(loop.getWriters()), len(loop.getDelayedCalls())
        self._note("census", *counts)

    def _note(self, what: str, *more: object) -> None:
        words = (time.monotonic_ns(), what, self._options["mark"], self._name, self._index, *more)
        line = "\t".join(map(str, words)) + "\n"
        file = os.open(self._common_options["notes"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)


def create(*args: Any) -> Double:
    return Double(*args)
