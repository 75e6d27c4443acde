"""What is measured on which servers, in rounds: every round visits every server in turn."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks import figures, sessions
from benchmarks.figures import GIB, MIB, Run, enough
from benchmarks.peers import (
    ALL,
    AUTOBAHN,
    HAPROXY,
    OWN_PORT,
    SECURE,
    WSSERVER,
    Host,
    Peer,
    Server,
)
from benchmarks.service import Service

#: Values by figure and server, one for each round.
Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    rounds: int = 5
    #: CPU that each piece of work takes a server, in seconds: /proc is exact to 10 ms.
    cpu: float = 0.6
    tunnels: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    idle: int = 1_000
    stalled: int = 100
    starts: int = 300
    first_bytes: int = 10
    lag: float = 3.0


QUICK = Plan(1, 0.2, (1, 100, 1_000), 300, 30, 100, 3, 1.0)


class Results:
    """Everything that was seen."""

    def __init__(self) -> None:
        self.values: Values = defaultdict(lambda: defaultdict(list))
        #: The share of a core that a server had at least while a figure was measured.
        self.busy: Values = defaultdict(lambda: defaultdict(list))
        self.latencies: Values = defaultdict(lambda: defaultdict(list))
        self.memory: dict[str, dict[int, float]] = {}
        self.crowds: dict[str, list[figures.Crowd]] = {}

    def add(self, figure: str, server: str, value: float, busy: float | None = None) -> None:
        """Keep what one round saw."""
        self.values[figure][server].append(value)
        if busy is not None:
            self.busy[figure][server].append(busy)

    def median(self, figure: str, server: str) -> float | None:
        """Return the median of the rounds, None where it was not measured."""
        seen = self.values.get(figure, {}).get(server)
        return statistics.median(seen) if seen else None


Work = Callable[[Server, int], Run]

#: Figures in CPU seconds per GiB: the work, and the most of it in bytes.
BYTES: dict[str, tuple[Work, int]] = {
    "down": (figures.down, 16 * GIB),
    "down8": (partial(figures.down, connections=8), 16 * GIB),
    "up": (figures.up_64k, 8 * GIB),
}
_SMALL = {"down": 32 * MIB, "down8": 64 * MIB, "up": 16 * MIB}


class Session:
    """One run of the whole benchmark."""

    def __init__(
        self, host: Host, service: Service, plan: Plan, say: Callable[[str], None]
    ) -> None:
        self._host = host
        self._service = service
        self._plan = plan
        self._say = say
        self._amounts: dict[tuple[str, str], int] = {}
        self.results = Results()

    def steps(self) -> dict[str, Callable[[], None]]:
        """Return the parts of the benchmark by name."""
        return {
            "rounds": self.all_rounds,
            "memory": self.memory,
            "stalled": self.stalled,
            "crowd": self.crowd,
            "sessions": self.sessions,
        }

    def all_rounds(self) -> None:
        """Everything that is short, in rounds."""
        for number in range(self._plan.rounds):
            self._say(f"round {number + 1} of {self._plan.rounds}")
            for peer in self._turn(ALL, number):
                with self._host.serving(peer) as server:
                    if number == 0:
                        figures.verify(server)
                    self._bytes(server, "")
                    self._frames(server)
                    self._echo(server, "")
            for peer in self._turn(SECURE, number):
                with self._host.serving(peer, tls=True) as server:
                    if number == 0:
                        figures.verify(server)
                    self._bytes(server, "wss_", ("down", "up"))
                    self._echo(server, "wss_")
            for peer in self._turn([OWN_PORT, *ALL], number):
                with self._host.serving(peer) as server:
                    self._starts(server)

    @staticmethod
    def _turn(peers: list[Peer], number: int) -> Iterator[Peer]:
        """Begin with another server each round."""
        yield from peers[number % len(peers) :] + peers[: number % len(peers)]

    def _bytes(self, server: Server, prefix: str, names: tuple[str, ...] = tuple(BYTES)) -> None:
        for name in names:
            work, most = BYTES[name]
            run, amount = self._enough(prefix + name, server, work, _SMALL[name], most)
            self._keep(prefix + name, server, run, run.cpu * GIB / amount)

    def _frames(self, server: Server) -> None:
        if server.peer.framing != "ws":
            return
        run, amount = self._enough("frames", server, figures.up_8, 80_000, GIB)
        self._keep("frames", server, run, amount / 8 / run.cpu)

    def _echo(self, server: Server, prefix: str) -> None:
        run, count = self._enough(f"{prefix}echo", server, figures.echoes, 1_000, 20_000)
        self._keep(f"{prefix}echo_cpu", server, run, run.cpu / count)
        name = server.peer.name
        self.results.add(f"{prefix}echo_p50", name, statistics.median(run.latencies))
        self.results.latencies[f"{prefix}echo"][name] += run.latencies

    def _starts(self, server: Server) -> None:
        count = self._plan.starts // (6 if server.peer.forks else 1)
        figures.starts(server, self._service, 10)
        start, end = figures.starts(server, self._service, count)
        self._keep("start", server, start, start.cpu / count)
        self.results.add("start_and_end", server.peer.name, (start.cpu + end.cpu) / count)

    def _enough(
        self, name: str, server: Server, work: Work, small: int, most: int
    ) -> tuple[Run, int]:
        """Do as much as takes the server enough CPU; the first round finds out how much."""
        key = name, server.peer.name
        if key not in self._amounts:
            measured = partial(work, server)
            self._amounts[key] = enough(measured, small, self._plan.cpu, most)
        amount = self._amounts[key]
        return work(server, amount), amount

    def _keep(self, name: str, server: Server, run: Run, value: float) -> None:
        self.results.add(name, server.peer.name, value, run.busy)

    def memory(self) -> None:
        """What an idle tunnel takes."""
        for peer in ALL:
            self._say(f"idle tunnels: {peer.label}")
            most = self._plan.idle // (10 if peer.forks else 1)
            counts = sorted({1, most // 10, most // 2, most})
            with self._host.serving(peer) as server:
                taken = figures.idle_memory(server, counts)
            self.results.memory[peer.name] = taken
            self.results.add("idle_memory", peer.name, taken[most] / most)

    def stalled(self) -> None:
        """Browsers that do not read."""
        for peer in ALL:
            self._say(f"browsers that do not read: {peer.label}")
            count = self._plan.stalled // (5 if peer.forks else 1)
            with self._host.serving(peer) as server:
                seen = figures.stalled(server, self._service, count, 400_000_000)
            self.results.add("stalled_memory", peer.name, seen.peak_each)
            self.results.add("stalled_input", peer.name, seen.input_share)

    def crowd(self) -> None:
        """One server, ever more tunnels."""
        room = (self._host.files - 200) // 2
        counts = sorted({min(count, room) for count in self._plan.tunnels})
        for peer in (WSSERVER, AUTOBAHN, HAPROXY):
            self._say(f"up to {counts[-1]} tunnels: {peer.label}")
            with self._host.serving(peer) as server:
                seen = list(figures.crowd(server, counts, 2 * GIB, 20_000))
            self.results.crowds[peer.name] = seen
            hundred = next((c for c in seen if c.tunnels == 100), seen[0])
            self.results.add("crowd", peer.name, seen[-1].cpu_per_gib / hundred.cpu_per_gib)
            self.results.add("crowd_echo", peer.name, seen[-1].cpu_per_echo / hundred.cpu_per_echo)
            self.results.add("crowd_tunnels", peer.name, seen[-1].tunnels)

    def sessions(self) -> None:
        """Launched services: the first byte, and scripts that compute."""
        self._say("launched services")
        with sessions.launching(self._host) as server:
            for name, waits in (("first_byte", True), ("first_byte_connecting", False)):
                for seconds in sessions.first_bytes(server, self._plan.first_bytes, waits):
                    self.results.add(name, WSSERVER.name, seconds)
            for scripts in (0, 1, 2):
                seen = sessions.lag(server, self._plan.lag, scripts)
                self.results.latencies["lag"][f"{scripts} scripts compute"] = seen


PEER_NAMES: dict[str, str] = {peer.name: peer.label for peer in [*ALL, OWN_PORT]}
