from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import ADDRESS, FakeInstance, FakeLauncher, FakeSeat, make_desk, make_offer
from wsserver.errors import (
    ConnectFailed,
    NoSuchToken,
    Released,
    ServiceFailed,
    ShuttingDown,
    TokenInUse,
    WSServerError,
)
from wsserver.lifecycle import Event, Phase
from wsserver.sessions import Session, Sessions

WHERE = {"default": ADDRESS}


class SessionsTestCase(SynchronousTestCase):
    tuning: dict[str, Any] = {"max_connections": 2}

    def setUp(self) -> None:
        self.clock = Clock()
        self.launcher = FakeLauncher()
        self.desk = make_desk(self.clock, make_offer("Demo", 1, options={"x": 1}, **self.tuning))
        self.sessions = Sessions(self.desk, self.launcher, self.clock)  # type: ignore[arg-type]
        self.phases: list[Phase] = []
        self.desk.watch(lambda reservation: self.phases.append(reservation.phase))
        self.token = self.desk.reserve("Demo", {"y": "2"}).token

    def join(self) -> tuple[Session, FakeSeat]:
        """Take a seat."""
        seat = FakeSeat()
        return self.sessions.join(self.token, seat), seat

    def open(self) -> tuple[Session, FakeSeat]:
        """Take a seat, and be joined to the service."""
        session, seat = self.join()
        d = session.addresses()
        if not self.launcher.last.starting.called:
            self.launcher.last.starting.callback(WHERE)
        self.successResultOf(d)
        session.opened()
        return session, seat

    @property
    def instance(self) -> FakeInstance:
        return self.launcher.last

    def dismissed(self, seat: FakeSeat, error: type[WSServerError]) -> str:
        """Assert that a seat was dismissed just once, and return the words."""
        self.assertEqual([type(e) for e in seat.dismissals], [error])
        return str(seat.dismissals[0])

    def assert_over(self, phase: Phase) -> None:
        """Assert that the instance is stopped once, and its slot free after that only."""
        self.assertEqual((self.instance.stops, self.desk.free("Demo")), (1, 0))
        self.instance.stopping.callback(None)
        self.assertEqual((self.phases[-1], self.desk.free("Demo")), (phase, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertRaises(NoSuchToken, self.join)


class LaunchTests(SessionsTestCase):
    def test_first_seat_launches(self) -> None:
        """The first websocket launches the service, and is told where it listens."""
        session, _ = self.join()
        self.assertEqual(self.instance.starts, 0)
        d = session.addresses()
        self.assertNoResult(d)
        self.assertEqual((self.instance.index, self.instance.options), (0, {"y": "2"}))
        self.assertEqual(self.instance.offer.spec.options, {"x": 1})
        self.instance.starting.callback(WHERE)
        self.assertEqual(self.successResultOf(d), WHERE)
        self.assertEqual(self.phases[-1], Phase.STARTING)
        session.opened()
        self.assertEqual(self.phases[-1], Phase.OPEN)
        self.assertEqual(session.connect_timeout, 15.0)

    def test_progress(self) -> None:
        """What the script says on its way is kept for whoever asks."""
        session, _ = self.join()
        session.addresses()
        self.instance.say("warming up")
        self.assertEqual(self.desk.live()[0].progress, "warming up")

    def test_failure(self) -> None:
        """A start that fails is told to every seat, once, and ends the session."""
        session, first = self.join()
        _, second = self.join()
        waiting = [session.addresses(), session.addresses()]
        self.instance.starting.errback(ServiceFailed("no licence"))
        for d in waiting:
            self.failureResultOf(d, ServiceFailed)
        for seat in (first, second):
            self.assertEqual(self.dismissed(seat, ServiceFailed), "no licence")
        self.failureResultOf(session.addresses(), ServiceFailed)
        self.assertEqual(self.desk.live()[0].reason, "no licence")
        self.assert_over(Phase.FAILED)

    def test_leaves_when_told(self) -> None:
        """A start that fails is a failure, also where the seat leaves as soon as it hears."""
        session, seat = self.join()
        session.addresses().addErrback(lambda _: session.leave(seat))
        self.instance.starting.errback(ServiceFailed("no licence"))
        self.assertEqual(self.dismissed(seat, ServiceFailed), "no licence")
        self.assertEqual(self.desk.live()[0].reason, "no licence")
        self.assert_over(Phase.FAILED)

    def test_bug(self) -> None:
        """An error that is nobody's intention is logged, and not told."""
        session, seat = self.join()
        d = session.addresses()
        self.instance.starting.errback(KeyError("secret"))
        self.failureResultOf(d, WSServerError)
        self.assertEqual(self.dismissed(seat, WSServerError), "the service could not be started")
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assert_over(Phase.FAILED)

    def test_gone_while_starting(self) -> None:
        """A browser that leaves while the script is starting costs no slot."""
        session, seat = self.join()
        d = session.addresses()
        d.cancel()
        self.failureResultOf(d, CancelledError)
        session.leave(seat)
        self.assertEqual(seat.dismissals, [])
        self.instance.starting.callback(WHERE)
        self.assert_over(Phase.CLOSED)

    def test_fails_after_end(self) -> None:
        """A start that fails when the session has ended changes nothing."""
        session, seat = self.join()
        session.addresses().addErrback(lambda _: None)
        session.leave(seat)
        self.instance.starting.errback(ServiceFailed("cancelled"))
        self.assert_over(Phase.CLOSED)

    def test_gone_before_start(self) -> None:
        """A browser that leaves before it asks for anything leaves nothing behind."""
        session, seat = self.join()
        session.leave(seat)
        self.assertEqual(self.instance.starts, 0)
        self.assert_over(Phase.CLOSED)

    def test_opened_after_end(self) -> None:
        """A tunnel that is joined just when the session ends opens nothing."""
        session, seat = self.join()
        session.addresses()
        self.instance.starting.callback(WHERE)
        session.end(Event.CLOSE)
        session.opened()
        self.dismissed(seat, Released)
        self.assert_over(Phase.CLOSED)


class SharedTests(SessionsTestCase):
    def test_one_instance(self) -> None:
        """Websockets of one token share one instance, whether they come early or late."""
        session, _ = self.join()
        early = session.addresses()
        other, _ = self.join()
        late = other.addresses()
        self.instance.starting.callback(WHERE)
        self.assertIs(session, other)
        self.assertEqual([self.successResultOf(d) for d in (early, late)], [WHERE, WHERE])
        self.assertEqual(self.successResultOf(session.addresses()), WHERE)
        self.assertEqual((len(self.launcher.instances), self.instance.starts), (1, 1))

    def test_both_open(self) -> None:
        """Each of the websockets is joined to the service, and the session stays open."""
        self.open()
        self.open()
        self.assertEqual(self.phases[1:], [Phase.STARTING, Phase.OPEN])

    def test_too_many(self) -> None:
        """One websocket more than allowed is refused, and a seat that is left can be taken."""
        self.open()
        session, second = self.join()
        self.assertRaises(TokenInUse, self.join)
        session.leave(second)
        self.join()
        self.assertEqual(self.instance.stops, 0)

    def test_last_one_ends(self) -> None:
        """The session ends with the last of its websockets."""
        session, first = self.open()
        _, second = self.open()
        session.leave(first)
        session.leave(first)
        self.assertEqual(self.instance.stops, 0)
        session.leave(second)
        self.assertEqual(first.dismissals + second.dismissals, [])
        self.assert_over(Phase.CLOSED)

    def test_one_cancels_the_other(self) -> None:
        """A seat that goes while another is told of the start disturbs nobody."""
        session, _ = self.join()
        self.join()
        first, second = session.addresses(), session.addresses()
        first.addCallback(lambda _: second.cancel())
        self.instance.starting.callback(WHERE)
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)


class EndTests(SessionsTestCase):
    def test_release_while_starting(self) -> None:
        """A release while the service starts closes the websocket and stops the instance."""
        session, seat = self.join()
        d = session.addresses()
        self.desk.release(self.token)
        self.assertEqual(self.dismissed(seat, Released), "the session was released")
        d.cancel()
        self.failureResultOf(d, CancelledError)
        session.leave(seat)
        self.assert_over(Phase.RELEASED)

    def test_release_while_open(self) -> None:
        """A release while the tunnel is open closes it, in an orderly way."""
        session, seat = self.open()
        self.desk.release(self.token)
        self.assertEqual(self.dismissed(seat, Released), "the session was released")
        self.assertEqual(seat.dismissals[0].close_code, 1000)  # type: ignore[attr-defined]
        session.leave(seat)
        self.assert_over(Phase.RELEASED)

    def test_release_unused(self) -> None:
        """A release of a token that no websocket used concerns no session."""
        self.desk.release(self.token)
        self.assertEqual(self.launcher.instances, [])

    def test_first_end_counts(self) -> None:
        """Only the first end of a session counts."""
        session, seat = self.open()
        session.end(Event.CLOSE)
        session.end(Event.FAIL, ServiceFailed("too late"))
        self.desk.release(self.token)
        self.assertEqual(self.dismissed(seat, Released), "the session has ended")
        self.assert_over(Phase.CLOSED)

    def test_hung_stop(self) -> None:
        """An instance whose stop hangs keeps its slot, in quarantine, until it has ended."""
        session, seat = self.open()
        session.leave(seat)
        self.instance.hang("stop has not returned")
        self.assertEqual((self.phases[-1], self.desk.free("Demo")), (Phase.QUARANTINED, 0))
        self.instance.hang("still running: sh 12")
        (reservation,) = self.desk.live()
        self.assertEqual((reservation.reason, reservation.held), ("", "still running: sh 12"))
        self.assert_over(Phase.CLOSED)

    def test_stop_fails(self) -> None:
        """An end that fails is logged; its slot is kept, as programs may still run in it."""
        session, seat = self.open()
        session.leave(seat)
        self.instance.stopping.errback(KeyError("bug"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((self.phases[-1], self.desk.free("Demo")), (Phase.QUARANTINED, 0))
        self.assertEqual(self.desk.live()[0].held, "its end failed: see the log")

    def test_next_session(self) -> None:
        """After the end the slot is good for another session, with an instance of its own."""
        session, seat = self.open()
        session.leave(seat)
        self.instance.stopping.callback(None)
        self.token = self.desk.reserve("Demo", {}).token
        other, _ = self.open()
        self.assertIsNot(other, session)
        self.assertEqual(len(self.launcher.instances), 2)


class LimitTests(SessionsTestCase):
    tuning = {"max_connections": 2, "idle_timeout": 10.0, "max_duration": 60.0}

    def test_idle(self) -> None:
        """A session that moves no byte for too long ends."""
        _, seat = self.open()
        self.clock.advance(9.9)
        self.assertEqual(seat.dismissals, [])
        self.clock.advance(0.1)
        self.assertEqual(self.dismissed(seat, Released), "nothing moved for 10 s")
        self.assert_over(Phase.CLOSED)

    def test_busy(self) -> None:
        """Every byte counts: the time runs from the last one on."""
        session, seat = self.open()
        for _ in range(4):
            self.clock.advance(8)
            session.touch()
        self.clock.advance(9)
        self.assertEqual(seat.dismissals, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.clock.advance(1)
        self.dismissed(seat, Released)
        self.assert_over(Phase.CLOSED)

    def test_longest(self) -> None:
        """However busy it is, a session ends after its longest time."""
        session, seat = self.open()
        for _ in range(12):
            self.assertEqual(seat.dismissals, [])
            session.touch()
            self.clock.advance(5)
        self.assertEqual(self.dismissed(seat, Released), "the longest session is 60 s")
        self.assert_over(Phase.CLOSED)

    def test_second_seat(self) -> None:
        """A second websocket does not make the session any longer."""
        _, first = self.open()
        self.clock.advance(5)
        self.open()
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        self.clock.advance(5)
        self.dismissed(first, Released)

    def test_not_while_starting(self) -> None:
        """The limits are those of an open session: a slow start is none of their business."""
        session, seat = self.join()
        session.addresses()
        self.clock.advance(1000)
        self.assertEqual(seat.dismissals, [])

    def test_timers_end(self) -> None:
        """No timer outlives its session."""
        session, seat = self.open()
        session.leave(seat)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ShutdownTests(SessionsTestCase):
    def test_shutdown(self) -> None:
        """At the end of the server every session ends, and that is waited for."""
        self.sessions.startService()
        _, first = self.open()
        _, second = self.join()
        d = self.sessions.stopService()
        for seat in (first, second):
            self.assertEqual(self.dismissed(seat, ShuttingDown), "the server is shutting down")
        self.assertNoResult(d)
        self.instance.stopping.callback(None)
        self.successResultOf(d)
        self.assertEqual(self.phases[-1], Phase.CLOSED)

    def test_while_ending(self) -> None:
        """A session that is ending already is waited for as well."""
        session, seat = self.open()
        session.leave(seat)
        d = self.sessions.stopService()
        self.assertNoResult(d)
        self.instance.stopping.callback(None)
        self.successResultOf(d)
        self.assertEqual(self.instance.stops, 1)

    def test_nothing_runs(self) -> None:
        """Without a session there is nothing to wait for."""
        d: Deferred[Any] = self.sessions.stopService()
        self.successResultOf(d)


class ServiceEndsTests(SessionsTestCase):
    """The service ends, or breaks, before the browser leaves."""

    def test_failed(self) -> None:
        """The only websocket's failure is the session's, and the log tells what was printed."""
        session, seat = self.open()
        session.failed(ConnectFailed("the service broke the connection"))
        session.failed(ConnectFailed("again"))
        self.assertEqual(self.instance.logged, ["the service broke the connection"])
        self.dismissed(seat, ConnectFailed)
        self.assert_over(Phase.FAILED)

    def test_failed_for_one(self) -> None:
        """Where others still use the service, it goes on."""
        session, seat = self.open()
        self.open()
        session.failed(ConnectFailed("no answer"))
        session.finished()
        self.assertEqual((seat.dismissals, self.instance.stops), ([], 0))
        self.assertEqual(self.instance.logged, [])

    def test_finished(self) -> None:
        """An orderly end is logged with what was printed last."""
        session, seat = self.open()
        session.finished()
        session.leave(seat)
        session.finished()
        self.assertEqual(self.instance.logged, ["ended"])
        self.assert_over(Phase.CLOSED)

    def test_lost(self) -> None:
        """What the watch of the script finds out ends the session for all."""
        _, one = self.open()
        _, two = self.open()
        assert self.instance.lose is not None
        self.instance.lose(ServiceFailed("the job was cancelled"))
        for seat in (one, two):
            self.assertEqual(self.dismissed(seat, ServiceFailed), "the job was cancelled")
        self.assert_over(Phase.FAILED)

    def test_no_watch_after_end(self) -> None:
        """A start that comes home too late is not watched."""
        session, seat = self.join()
        session.addresses().addErrback(lambda _: None)
        session.leave(seat)
        self.instance.starting.callback(WHERE)
        self.assertIsNone(self.instance.lose)

    def test_share(self) -> None:
        """Credentials reach the reservation."""
        session, _ = self.join()
        session.addresses()
        self.instance.share({"password": "p"})
        self.assertEqual(self.desk.live()[0].credentials, {"password": "p"})
