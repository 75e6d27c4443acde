from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import WALL, FakeScript, make_desk, make_offer
from wsserver.errors import (
    AtCapacity,
    BadRequest,
    IllegalTransition,
    NoSuchService,
    NoSuchToken,
    ShuttingDown,
    TooMany,
    Unavailable,
)
from wsserver.lifecycle import Event, Phase, Reservation
from wsserver.offers import Script


def picky(common: Mapping[str, Any], options: Mapping[str, str]) -> None:
    if "size" in options:
        raise ValueError(f"size must be one of {common['sizes']}")


class DeskTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.desk = make_desk(
            self.clock,
            make_offer("Demo", 2),
            make_offer("Single", 1),
            make_offer("Picky", 1, Script(FakeScript, check=picky), options={"sizes": ["1x1"]}),
            make_offer("Broken", 1, unavailable="no display here"),
            timeout=60.0,
        )
        self.changes: list[Reservation] = []
        self.desk.watch(self.changes.append)

    @property
    def seen(self) -> list[Phase]:
        """The phases that a watcher was told of."""
        return [reservation.phase for reservation in self.changes]


class ReserveTests(DeskTestCase):
    def test_promised(self) -> None:
        """A reservation keeps what was on offer when it was made, to its end."""
        token = self.desk.reserve("Demo", {}).token
        before = self.desk.offer("Demo")
        self.desk.offers = {}
        self.assertIs(self.desk.promised(token), before)
        self.desk.release(token)
        self.assertRaises(KeyError, self.desk.promised, token)

    def test_reserve(self) -> None:
        """A reservation holds a slot, keeps its options, and knows both times."""
        options = {"size": "1x1"}
        reservation = self.desk.reserve("Demo", options)
        options.clear()
        self.assertEqual(
            reservation,
            Reservation("token-1", "Demo", 0, {"size": "1x1"}, 1000.0, WALL, Phase.RESERVED),
        )
        self.assertEqual((self.desk.live(), self.changes), ([reservation], [reservation]))

    def test_lowest_index(self) -> None:
        """Instances of a service have the lowest index that is free."""
        first, second = self.desk.reserve("Demo", {}), self.desk.reserve("Demo", {})
        self.assertEqual((first.index, second.index), (0, 1))
        self.desk.release(first.token)
        self.assertEqual(self.desk.reserve("Demo", {}).index, 0)
        self.assertEqual(self.desk.reserve("Single", {}).index, 0)

    def test_free(self) -> None:
        """It is known how many are free."""
        self.assertEqual(self.desk.free("Demo"), 2)
        self.desk.reserve("Demo", {})
        self.assertEqual((self.desk.free("Demo"), self.desk.free("Single")), (1, 1))

    def test_full(self) -> None:
        """Where all are taken, the client is told when one may be free."""
        self.desk.reserve("Single", {})
        self.clock.advance(20)
        error = self.assertRaises(AtCapacity, self.desk.reserve, "Single", {})
        self.assertEqual((error.retry_after, self.desk.retry_in("Single")), (40, 40))
        self.desk.claim("token-1")
        error = self.assertRaises(AtCapacity, self.desk.reserve, "Single", {})
        self.assertEqual((error.retry_after, self.desk.retry_in("Single")), (10, None))

    def test_unknown(self) -> None:
        """An unknown service is told by its name, as it was asked for."""
        error = self.assertRaises(NoSuchService, self.desk.reserve, "demo\n", {})
        self.assertEqual(str(error), "no service is called 'demo\\n'")
        self.assertRaises(NoSuchService, self.desk.offer, "")

    def test_unavailable(self) -> None:
        """A service that cannot run here says why."""
        error = self.assertRaises(Unavailable, self.desk.reserve, "Broken", {})
        self.assertEqual(str(error), "no display here")

    def test_bad_option(self) -> None:
        """A script refuses bad options before anything is reserved, in its own words."""
        error = self.assertRaises(BadRequest, self.desk.reserve, "Picky", {"size": "9x9"})
        self.assertEqual(str(error), "size must be one of ['1x1']")
        self.assertEqual(self.desk.live(), [])
        self.desk.reserve("Picky", {})

    def test_limits(self) -> None:
        """Beyond the slots there are bounds for one client, and for all together."""
        self.desk = make_desk(
            self.clock,
            make_offer("Demo", 9),
            timeout=60.0,
            max_sessions=4,
            max_reservations_per_address=2,
        )
        for _ in range(2):
            self.desk.reserve("Demo", {}, "192.0.2.1")
        error = self.assertRaises(TooMany, self.desk.reserve, "Demo", {}, "192.0.2.1")
        self.assertEqual(error.retry_after, 60)
        # An application reserves for many, whose address is its own.
        self.desk.reserve("Demo", {}, "192.0.2.1", for_many=True)
        self.desk.reserve("Demo", {}, "192.0.2.2")
        self.assertRaises(AtCapacity, self.desk.reserve, "Demo", {}, "192.0.2.3")


class LifeTests(DeskTestCase):
    def test_life(self) -> None:
        """Whoever watches is told of every change, and a slot is free at the end only."""
        token = self.desk.reserve("Single", {}).token
        self.assertIs(self.desk.claim(token).phase, Phase.STARTING)
        for event in (Event.STARTED, Event.CLOSE):
            self.desk.report(token, event, "gone")
            self.assertEqual(self.desk.free("Single"), 0)
        self.desk.report(token, Event.HUNG)
        self.assertEqual(self.desk.free("Single"), 0)
        self.desk.report(token, Event.STOPPED)
        self.assertEqual(self.desk.free("Single"), 1)
        phases = "RESERVED STARTING OPEN STOPPING QUARANTINED CLOSED"
        self.assertEqual(self.seen, [Phase[name] for name in phases.split()])
        self.assertEqual(self.changes[-1].reason, "gone")

    def test_no_change(self) -> None:
        """What changes nothing is not told."""
        token = self.desk.reserve("Demo", {}).token
        first = self.desk.claim(token)
        self.assertIs(self.desk.claim(token), first)
        self.assertEqual(len(self.changes), 2)

    def test_first_client(self) -> None:
        """A session is that of its first websocket, whoever reserved it and comes later."""
        token = self.desk.reserve("Demo", {}, "192.0.2.1").token
        self.desk.claim(token, "192.0.2.2")
        self.desk.claim(token, "192.0.2.3")
        self.assertEqual(self.desk.find(token).client, "192.0.2.2")

    def test_starting(self) -> None:
        """So many start at one time; the token of who comes then is still good."""
        self.desk = make_desk(self.clock, make_offer("Demo", 2), max_starting=1)
        first, second = (self.desk.reserve("Demo", {}).token for _ in range(2))
        self.desk.claim(first)
        self.desk.claim(first)
        self.assertRaises(AtCapacity, self.desk.claim, second)
        self.assertIs(self.desk.find(second).phase, Phase.RESERVED)
        self.desk.report(first, Event.STARTED)
        self.desk.claim(second)

    def test_claim_unknown(self) -> None:
        """An unknown token, an ended one and one that is ending look the same."""
        token = self.desk.reserve("Demo", {}).token
        self.assertRaises(NoSuchToken, self.desk.claim, "no such token")
        self.desk.claim(token)
        self.desk.report(token, Event.CLOSE)
        self.assertRaises(NoSuchToken, self.desk.claim, token)
        self.desk.report(token, Event.STOPPED)
        self.assertRaises(NoSuchToken, self.desk.claim, token)

    def test_report_too_late(self) -> None:
        """News of a reservation that has ended are no news."""
        self.desk.report("no such token", Event.STOPPED)
        self.desk.note("no such token", "still here")
        self.assertEqual(self.changes, [])

    def test_report_nonsense(self) -> None:
        """An event that makes no sense is a bug of ours, and changes nothing."""
        token = self.desk.reserve("Demo", {}).token
        self.assertRaises(IllegalTransition, self.desk.report, token, Event.STARTED)
        self.assertEqual(self.seen, [Phase.RESERVED])

    def test_note(self) -> None:
        """Progress is kept while a service starts, and at no other time."""
        token = self.desk.reserve("Demo", {}).token
        self.desk.note(token, "too early")
        self.desk.claim(token)
        self.desk.note(token, "warming up")
        self.desk.note(token, "warming up")
        self.desk.report(token, Event.STARTED)
        self.desk.note(token, "too late")
        (reservation,) = self.desk.live()
        self.assertEqual((reservation.progress, len(self.changes)), ("warming up", 4))

    def test_bad_watcher(self) -> None:
        """Somebody who merely looks on cannot keep the desk from its work."""
        self.desk.watch(lambda reservation: 1 / 0)
        token = self.desk.reserve("Demo", {}).token
        self.desk.release(token)
        self.assertEqual(self.desk.live(), [])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_watcher_that_changes(self) -> None:
        """Who watches hears everything in order, also what another watcher brings about."""
        desk = make_desk(self.clock, make_offer())

        def stop(reservation: Reservation) -> None:
            if reservation.phase is Phase.STOPPING:
                desk.report(reservation.token, Event.STOPPED)

        desk.watch(stop)
        desk.watch(self.changes.append)
        desk.claim(desk.reserve("Demo", {}).token)
        desk.release(desk.live()[0].token)
        self.assertEqual(self.seen[1:], [Phase.STARTING, Phase.STOPPING, Phase.RELEASED])

    def test_share(self) -> None:
        """Credentials are kept from the start on, and neither logged nor shown."""
        token = self.desk.reserve("Demo", {}).token
        with capturedLogs() as events:
            self.desk.share(token, {"password": "too early"})
            self.desk.claim(token)
            self.desk.share(token, {"password": "canary"})
            self.desk.report(token, Event.STARTED)
            self.desk.share(token, {"password": "too late"})
            self.desk.share("no such token", {"password": "canary"})
        reservation = self.desk.find(token)
        self.assertEqual(reservation.credentials, {"password": "canary"})
        self.assertNotIn("canary", repr(reservation) + repr(events))

    def test_options(self) -> None:
        """Options that the service file describes are checked, and their defaults filled in."""
        rules = {"nodes": {"type": "integer", "minimum": 1, "default": 2}}
        desk = make_desk(self.clock, make_offer(options={"reserve_options": rules}))
        self.assertEqual(desk.reserve("Demo", {}).options, {"nodes": "2"})
        self.assertEqual(desk.reserve("Demo", {"nodes": "5"}).options, {"nodes": "5"})
        for wrong in ({"nodes": "0"}, {"colour": "red"}):
            self.assertRaises(BadRequest, desk.reserve, "Demo", wrong)

    def test_log(self) -> None:
        """The log tells what happens, and never a token."""
        with capturedLogs() as events:
            token = self.desk.reserve("Demo", {}).token
            self.desk.claim(token)
            self.desk.note(token, "warming up")
            self.desk.report(token, Event.FAIL, "no licence")
            self.desk.reserve("Demo", {}, user="alice")
        lines = [formatEvent(event) for event in events]
        self.assertEqual(
            lines,
            [
                "Demo 0: reserved",
                "Demo 0: starting",
                "Demo 0: starting: warming up",
                "Demo 0: stopping: no licence",
                "Demo 1 of alice: reserved",
            ],
        )


class ReleaseTests(DeskTestCase):
    def test_unused(self) -> None:
        """An unused reservation is over when it is released."""
        token = self.desk.reserve("Single", {}).token
        self.desk.release(token)
        self.assertEqual((self.seen[-1], self.desk.free("Single")), (Phase.RELEASED, 1))
        self.assertRaises(NoSuchToken, self.desk.release, token)

    def test_used(self) -> None:
        """One in use begins to stop, and holds its slot until it has."""
        token = self.desk.reserve("Single", {}).token
        self.desk.claim(token)
        self.desk.release(token)
        self.desk.release(token)
        self.assertEqual((self.seen[-1], self.desk.free("Single")), (Phase.STOPPING, 0))
        self.desk.report(token, Event.STOPPED)
        self.assertEqual((self.seen[-1], self.changes[-1].reason), (Phase.RELEASED, "released"))

    def test_unknown(self) -> None:
        """An unknown token cannot be released."""
        self.assertRaises(NoSuchToken, self.desk.release, "no such token")


class ExpiryTests(DeskTestCase):
    def test_sweep(self) -> None:
        """Reservations that nobody used in time are reclaimed; used ones stay."""
        used, unused = (self.desk.reserve("Demo", {}).token for _ in range(2))
        self.desk.claim(used)
        self.clock.advance(59.9)
        self.desk.sweep()
        self.assertEqual(len(self.desk.live()), 2)
        self.clock.advance(0.1)
        self.desk.sweep()
        self.assertEqual([r.token for r in self.desk.live()], [used])
        gone = self.changes[-1]
        self.assertEqual((gone.token, gone.phase), (unused, Phase.EXPIRED))
        self.assertEqual(gone.reason, "not used within 60 s")

    def test_claim_too_late(self) -> None:
        """A claim at the very end of the time is too late, also between two sweeps."""
        token = self.desk.reserve("Demo", {}).token
        self.clock.advance(60)
        self.assertRaises(NoSuchToken, self.desk.claim, token)
        self.assertEqual(self.seen[-1], Phase.EXPIRED)

    def test_service(self) -> None:
        """A running desk sweeps by itself, a stopped one does not and takes nothing more."""
        self.desk.startService()
        self.desk.reserve("Demo", {})
        self.clock.pump([1.0] * 60)
        self.assertEqual(self.desk.live(), [])
        self.desk.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertRaises(ShuttingDown, self.desk.reserve, "Demo", {})

    def test_broken_sweep(self) -> None:
        """A sweep that fails is logged, and the desk can still be stopped."""
        self.desk.reserve("Demo", {})
        self.patch(self.desk, "_advance", lambda *args: 1 / 0)
        self.desk.startService()
        self.clock.pump([1.0] * 61)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.desk.stopService()


class DrainTests(DeskTestCase):
    def test_drain(self) -> None:
        """Nothing new begins once the server goes away; what runs may still end."""
        token, open_one = (self.desk.reserve("Demo", {}).token for _ in range(2))
        self.desk.claim(open_one)
        self.desk.drain()
        self.assertRaises(ShuttingDown, self.desk.reserve, "Demo", {})
        self.assertRaises(ShuttingDown, self.desk.reserve, "no such service", {})
        self.assertRaises(ShuttingDown, self.desk.claim, token)
        self.assertRaises(ShuttingDown, self.desk.claim, open_one)
        self.desk.release(token)
        self.desk.report(open_one, Event.CLOSE)
        self.desk.report(open_one, Event.STOPPED)
        self.assertEqual(self.desk.live(), [])
