"""A token is good once (T5 of reliability.md): desk, sessions and tunnels together, in memory."""

from __future__ import annotations

import txaio
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import FakeLauncher, make_desk, make_offer
from tests.wires import DONE, Plug, Wire, request
from wsserver import connect
from wsserver.lifecycle import Event, Phase
from wsserver.sessions import Sessions
from wsserver.tunnel import Tunnel, TunnelFactory

TOKENS = 100
SOCKETS = 20


class ReplayTests(SynchronousTestCase):
    connections = 3

    def setUp(self) -> None:
        self.clock = Clock()
        self.patch(txaio.config, "loop", self.clock)
        self.patch(connect, "endpoint", Plug(Wire))
        self.launcher = FakeLauncher()
        offer = make_offer("Demo", TOKENS, max_connections=self.connections)
        self.desk = make_desk(self.clock, offer)
        sessions = Sessions(self.desk, self.launcher, self.clock)  # type: ignore[arg-type]
        self.factory = TunnelFactory(self.clock, sessions.join)

    def dial(self, token: str) -> tuple[str, Tunnel]:
        """Return the status of a handshake."""
        tunnel: Tunnel = self.factory.buildProtocol(None)
        wire = Wire(1, 2)
        tunnel.makeConnection(wire)
        tunnel.dataReceived(request(f"?token={token}"))
        return wire.take().split(b" ", 2)[1].decode(), tunnel

    def test_many_sockets(self) -> None:
        """Of many sockets with one token so many are let in as may share it; it starts once."""
        tokens = [self.desk.reserve("Demo", {}).token for _ in range(TOKENS)]
        # As they would arrive: a first socket of each token, then a second one, ...
        dialled = {token: [] for token in tokens}  # type: dict[str, list[tuple[str, Tunnel]]]
        for _ in range(SOCKETS):
            for token in tokens:
                dialled[token].append(self.dial(token))
        self.assertEqual(len(self.launcher.instances), TOKENS)
        self.assertEqual({instance.starts for instance in self.launcher.instances}, {1})
        for token in tokens:
            answers = [answer for answer, _ in dialled[token]]
            refused = SOCKETS - self.connections
            self.assertEqual(answers, ["101"] * self.connections + ["409"] * refused)

    def test_dead_for_ever(self) -> None:
        """Once its last socket has left, a token is dead, also while its service still stops."""
        token = self.desk.reserve("Demo", {}).token
        one, two = self.dial(token)[1], self.dial(token)[1]
        one.connectionLost(DONE)
        # Somebody is still there, and somebody else may come in.
        self.assertEqual(self.dial(token)[0], "101")
        for tunnel in [two, *self.factory.tunnels]:
            if tunnel in self.factory.tunnels:
                tunnel.connectionLost(DONE)
        self.assertIs(self.desk.find(token).phase, Phase.STOPPING)
        self.assertEqual(self.dial(token)[0], "404")
        self.launcher.last.stopping.callback(None)
        self.assertEqual(self.dial(token)[0], "404")
        self.assertEqual((self.launcher.last.starts, self.launcher.last.stops), (1, 1))

    def test_the_same_words(self) -> None:
        """Unknown, expired, used and released tokens get the same answer, to the byte."""
        used, released, expired = (self.desk.reserve("Demo", {}).token for _ in range(3))
        self.dial(used)[1].connectionLost(DONE)
        self.desk.release(released)
        answers = {self.answer(token) for token in (used, released, "never", "")}
        self.clock.advance(self.desk.timeout)
        answers.add(self.answer(expired))
        self.assertEqual(len(answers), 1)
        self.assertTrue(answers.pop().startswith(b"HTTP/1.1 404 "))
        self.desk.report(used, Event.STOPPED)

    def answer(self, token: str) -> bytes:
        tunnel = self.factory.buildProtocol(None)
        wire = Wire(1, 2)
        tunnel.makeConnection(wire)
        tunnel.dataReceived(request(f"?token={token}"))
        return wire.take()


class OneSocketTests(ReplayTests):
    """The same where a token is for a single socket."""

    connections = 1

    def test_dead_for_ever(self) -> None:
        """A second socket is one too many, and after the first one the token is dead."""
        token = self.desk.reserve("Demo", {}).token
        _, tunnel = self.dial(token)
        self.assertEqual(self.dial(token)[0], "409")
        tunnel.connectionLost(DONE)
        self.assertEqual(self.dial(token)[0], "404")
