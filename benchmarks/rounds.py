"""Runs the figures: peers in turn within each round, and round after round."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import figures, peers, sessions
from benchmarks.figures import GIB, MIB, Run
from benchmarks.peers import Host, Peer, Server
from benchmarks.service import Service

#: What ``--only`` chooses from: methods of Bench, in the order in which they run.
PARTS = [
    "generator", "plain", "wss", "starts", "idle", "stalled", "crowd", "first_byte", "lag",
]  # fmt: skip

#: figure -> peer -> one value for each round
Values = dict[str, dict[str, list[float]]]


def _table() -> Values:
    return defaultdict(lambda: defaultdict(list))


class Bench:
    """All figures, and what they came to."""

    def __init__(self, host: Host, service: Service, rounds: int, quick: bool) -> None:
        self.host = host
        self.service = service
        self.rounds = rounds
        self.quick = quick
        #: What is measured, in the units of the table.
        self.values = _table()
        #: The share of a core that the server had meanwhile.
        self.busy = _table()
        #: GiB/s or messages/s of the generator and service without a server between.
        self.alone: dict[str, float] = {}
        self.latencies: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.memory: dict[str, dict[int, float]] = {}
        self.crowds: dict[str, list[figures.Crowd]] = {}
        self._amounts: dict[tuple[str, str], int] = {}

    # -- bytes, frames and messages

    def generator(self) -> None:
        """Measure what the generator does when browser and service are joined directly."""
        place = peers.Place(self.host.service_port, self.host.service_port, self.host.folder)
        direct = Server(peers.DIRECT, place, pid=self.service.pid)
        for name, run in _PLAIN.items():
            if name in ("down_1", "down_8", "up_64k"):
                self.alone[name] = 2 * GIB / run(direct, 2 * GIB).wall / GIB
        seen = sorted(figures.echoes(direct, 2000).latencies)
        self.alone["echo_p50"] = seen[1000] * 1e6

    def plain(self) -> None:
        """Bytes, frames and messages over plain websockets."""
        with self._all(peers.ALL) as servers:
            for name, run in _PLAIN.items():
                self._rounds(name, servers, run)

    def wss(self) -> None:
        """Bytes and messages over TLS."""
        with self._all(peers.SECURE, tls=True) as servers:
            for name in ("down_1", "down_8", "up_64k", "echo"):
                self._rounds(name, servers, _PLAIN[name], "wss_")

    def _rounds(
        self, name: str, servers: Sequence[Server], run: Callable[[Server, int], Run], wss: str = ""
    ) -> None:
        _say(f"{wss}{name}")
        for number in range(self.rounds):
            for server in _turned(servers, number):
                # A peer without websockets has no frames either.
                if name in ("up_8", "up_mixed") and server.peer.framing == "raw":
                    continue
                amount = self._amount(name, wss, server, run)
                self._note(name, wss, server.peer.name, amount, run(server, amount))

    def _amount(
        self, name: str, wss: str, server: Server, run: Callable[[Server, int], Run]
    ) -> int:
        """Return how much makes a run; the first time this finds out, and so warms up."""
        if name in ("echo", "burst"):
            return {"echo": 3000, "burst": 200}[name] // (3 if self.quick else 1)
        key = (wss + name, server.peer.name)
        if key not in self._amounts:
            first, most = (
                (2000, 40_000_000) if name in ("up_8", "up_mixed") else (16 * MIB, 4 * GIB)
            )
            cpu = 0.2 if self.quick else 0.5
            self._amounts[key] = figures.enough(lambda n: run(server, n), first, cpu, most)
        return self._amounts[key]

    def _note(self, name: str, wss: str, peer: str, amount: int, run: Run) -> None:
        self.busy[wss + name][peer].append(run.busy)
        if name in ("echo", "burst"):
            seen = sorted(run.latencies)
            self.latencies[wss + name][peer] += seen
            for part in 50, 99:
                value = seen[len(seen) * part // 100] * 1e6
                self.values[f"{wss}{name}_p{part}"][peer].append(value)
            if name == "echo":
                self.values[wss + "echo_cpu"][peer].append(run.cpu / amount * 1e6)
        elif name in ("up_8", "up_mixed"):
            self.values[wss + name][peer].append(amount / run.cpu / 1000)
        else:
            self.values[wss + name][peer].append(run.cpu / amount * GIB)

    # -- connections

    def starts(self) -> None:
        """What a connection costs to begin and to end."""
        _say("starts")
        with self._all([*peers.ALL, peers.OWN_PORT]) as servers:
            for number in range(self.rounds + 1):
                for server in _turned(servers, number):
                    # The first round is a warm-up.
                    self._starts(server, "", note=number > 0)
        with self._all(peers.SECURE, tls=True) as servers:
            for number in range(self.rounds + 1):
                for server in _turned(servers, number):
                    self._starts(server, "wss_", note=number > 0)

    def _starts(self, server: Server, wss: str, note: bool) -> None:
        count = 40 if server.peer.forks else 200
        start, end = figures.starts(server, self.service, count)
        if not note:
            return
        peer = server.peer.name
        self.busy[wss + "start"][peer].append(start.busy)
        self.values[wss + "start"][peer].append(start.cpu / count * 1e3)
        if not wss:
            self.values["starts"][peer].append(count / start.cpu)
            self.values["end"][peer].append(end.cpu / count * 1e3)

    # -- memory

    def idle(self) -> None:
        """Memory of tunnels that are open and do nothing."""
        for tls in (False, True):
            for peer in peers.SECURE if tls else [*peers.ALL, peers.OWN_PORT]:
                _say(f"{'wss_' * tls}idle {peer.name}")
                counts = [100, 300, 1000]
                if peer.forks:
                    counts = [10, 30, 100]
                with self.host.serving(peer, tls) as server:
                    taken = figures.idle_memory(server, counts)
                name = "wss_idle" if tls else "idle"
                self.memory[f"{name} {peer.name}"] = taken
                self.values[name][peer.name].append(taken[counts[-1]] / counts[-1] / 1024)

    def stalled(self) -> None:
        """Memory of browsers that do not read."""
        for peer in peers.ALL:
            _say(f"stalled {peer.name}")
            with self.host.serving(peer) as server:
                seen = figures.stalled(server, self.service, 100, 400 * 10**6)
            self.values["stalled"][peer.name].append(seen.memory_each / 1024)
            self.values["stalled_peak"][peer.name].append(seen.peak_each / 1024)
            self.values["stalled_input"][peer.name].append(seen.input_share * 100)

    # -- many tunnels

    def crowd(self) -> None:
        """Up to 10,000 tunnels on one process."""
        # Our server keeps 500 files in reserve, and some for connections that are to come.
        most = min(10_000, (self.host.files - 900) // 2)
        for peer in (peers.WSSERVER, peers.AUTOBAHN, peers.HAPROXY):
            counts = [1, 10, 100, 1000, most]
            if self.quick and peer is not peers.WSSERVER:
                counts = counts[:-1]
            with self.host.serving(peer) as server:
                self.crowds[peer.name] = []
                amount, messages = (GIB // 4, 5000) if self.quick else (GIB, 20_000)
                for seen in figures.crowd(server, counts, amount, messages):
                    _say(f"crowd {peer.name} {seen.tunnels}")
                    self.crowds[peer.name].append(seen)
            self._note_crowd(peer.name, self.crowds[peer.name])

    def _note_crowd(self, peer: str, crowds: list[figures.Crowd]) -> None:
        by_count = {crowd.tunnels: crowd for crowd in crowds}
        hundred, last = by_count[100], crowds[-1]
        self.values["tunnels"][peer].append(last.tunnels)
        self.values["crowd_bytes"][peer].append(last.cpu_per_gib / hundred.cpu_per_gib)
        self.values["crowd_echo"][peer].append(last.cpu_per_echo / hundred.cpu_per_echo)

    # -- services with scripts

    def first_byte(self) -> None:
        """From listening to the first byte in the browser."""
        _say("first_byte")
        with sessions.scripted(self.host) as server:
            for _ in range(1 if self.quick else 2):
                for name, wait in ("first_byte", False), ("first_byte_wait", True):
                    seconds = sessions.first_bytes(server, wait)
                    self.values[name]["wsserver"] += [s * 1e3 for s in seconds]

    def lag(self) -> None:
        """Tunnels beside a script that computes."""
        _say("lag")
        with sessions.scripted(self.host) as server:
            for _ in range(1 if self.quick else 2):
                for name, burners in ("calm", 0), ("lag", 1):
                    latencies, rate = sessions.lag(server, 2.0, burners)
                    seen = sorted(s * 1e3 for s in latencies)
                    for part in 50, 99:
                        value = seen[len(seen) * part // 100]
                        self.values[f"{name}_p{part}"]["wsserver"].append(value)
                    self.values[f"{name}_max"]["wsserver"].append(seen[-1])
                    self.values[f"{name}_down"]["wsserver"].append(rate)

    @contextlib.contextmanager
    def _all(self, kinds: Sequence[Peer], tls: bool = False) -> Iterator[list[Server]]:
        """Run servers side by side, each of which has shown that it tunnels rightly."""
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(self.host.serving(kind, tls)) for kind in kinds]
            for server in servers:
                figures.verify(server)
            yield servers


_PLAIN: dict[str, Callable[[Server, int], Run]] = {
    "down_1": figures.down,
    "down_8": lambda server, amount: figures.down(server, amount, 8),
    "up_64k": figures.up_64k,
    "up_8": figures.up_8,
    "up_mixed": figures.up_mixed,
    "echo": figures.echoes,
    "burst": figures.bursts,
}


def _turned(servers: Sequence[Server], number: int) -> list[Any]:
    """Let another one begin each round."""
    first = number % len(servers)
    return [*servers[first:], *servers[:first]]


def _say(what: str) -> None:
    print(time.strftime("%H:%M:%S"), what, flush=True)
