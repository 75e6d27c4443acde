"""Nobody has more than their share, and what is counted is counted until it ends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from wsserver.admission import (
    EXHAUSTED,
    RETRY,
    RETRY_START,
    SCARCE,
    Admission,
    check_reserve,
    check_start,
    check_unused,
)
from wsserver.config import Limits
from wsserver.errors import AtCapacity, TooMany
from wsserver.lifecycle import Phase, Reservation


def reservations(*found: tuple[Phase, str, float]) -> list[Reservation]:
    return [
        Reservation(f"token-{n}", "Demo", n, {}, since, 0.0, phase, client=client)
        for n, (phase, client, since) in enumerate(found)
    ]


class VisitTests(SynchronousTestCase):
    def test_limit(self) -> None:
        """One address has its number of visits; the next is refused, others are not."""
        admission = Admission(2)
        served = [admission.visit("192.0.2.1") for _ in range(2)]
        self.assertEqual([visit.refusal for visit in served], [None, None])
        refusal = admission.visit("192.0.2.1").refusal
        assert refusal is not None
        self.assertEqual((refusal.http_status, refusal.retry_after), (429, RETRY))
        self.assertIsNone(admission.visit("192.0.2.2").refusal)

    def test_end(self) -> None:
        """A visit that ends makes room, once, however often it ends."""
        admission = Admission(1)
        first, second = admission.visit("192.0.2.1"), admission.visit("192.0.2.1")
        for _ in range(3):
            second.end()
        self.assertIsNotNone(admission.visit("192.0.2.1").refusal)
        self.assertEqual(admission.visits(), 2)
        first.end()
        self.assertEqual(admission.visits(), 1)

    def test_nothing_is_kept(self) -> None:
        """An address that has left is forgotten."""
        admission = Admission(1)
        for n in range(1000):
            admission.visit(f"192.0.2.{n % 256}").end()
        self.assertEqual((admission.visits(), admission._counts), (0, {}))

    def test_hears(self) -> None:
        """As many as are served are refused in words; beyond that nobody is heard."""
        admission = Admission(2)
        for n in range(4):
            self.assertTrue(admission.hears("192.0.2.1"), n)
            last = admission.visit("192.0.2.1")
        self.assertFalse(admission.hears("192.0.2.1"))
        self.assertTrue(admission.hears("192.0.2.2"))
        last.end()
        self.assertTrue(admission.hears("192.0.2.1"))

    def test_no_limit(self) -> None:
        """0 is any number."""
        admission = Admission(0)
        for _ in range(5000):
            self.assertIsNone(admission.visit("192.0.2.1").refusal)
        self.assertTrue(admission.hears("192.0.2.1"))

    def test_files(self) -> None:
        """What begins is refused where open files get scarce, what it will open included."""
        used = 0.0
        admission = Admission(0, lambda more: used + more / 100)
        self.assertIsNone(admission.room(79))
        refusal = admission.room(80)
        assert refusal is not None
        self.assertEqual((refusal.http_status, refusal.retry_after), (503, RETRY))
        used = SCARCE
        self.assertIsNotNone(admission.room())
        self.assertTrue(admission.hears("192.0.2.1"))
        used = EXHAUSTED
        self.assertFalse(admission.hears("192.0.2.1"))


class ReservationTests(SynchronousTestCase):
    def test_sessions(self) -> None:
        """Sessions of all services count together, from the reservation to the real end."""
        live = reservations((Phase.RESERVED, "a", 0.0), (Phase.QUARANTINED, "b", 0.0))
        check_reserve(Limits(), live)
        check_reserve(Limits(max_sessions=3), live)
        error = self.assertRaises(AtCapacity, check_reserve, Limits(max_sessions=2), live)
        self.assertEqual((error.http_status, error.retry_after), (503, RETRY))

    def test_unused(self) -> None:
        """An address has so many unused reservations; it is told when the oldest expires."""
        live = reservations(
            (Phase.RESERVED, "192.0.2.1", 10.0),
            (Phase.RESERVED, "192.0.2.1", 20.0),
            (Phase.OPEN, "192.0.2.1", 0.0),
            (Phase.RESERVED, "192.0.2.2", 0.0),
        )
        limits = Limits(max_reservations_per_address=2)
        error = self.assertRaises(
            TooMany, check_unused, limits, live, "192.0.2.1", now=25.5, timeout=300.0
        )
        self.assertEqual((error.http_status, error.retry_after), (429, 285))
        check_unused(limits, live, "192.0.2.2", 25.5, 300.0)
        check_unused(limits, live[1:], "192.0.2.1", 25.5, 300.0)
        check_unused(Limits(max_reservations_per_address=0), live, "192.0.2.1", 25.5, 300.0)

    def test_starting(self) -> None:
        """So many start at one time; who comes then is told to come back soon."""
        live = reservations((Phase.STARTING, "a", 0.0), (Phase.OPEN, "a", 0.0))
        check_start(Limits(max_starting=2), live)
        check_start(Limits(max_starting=0), live)
        error = self.assertRaises(AtCapacity, check_start, Limits(max_starting=1), live)
        self.assertEqual((error.http_status, error.retry_after), (503, RETRY_START))
