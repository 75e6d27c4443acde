from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_spec
from wsserver import registry
from wsserver.errors import AtCapacity
from wsserver.lifecycle import Phase, Reservation


def held(
    index: int, since: float = 0.0, phase: Phase = Phase.RESERVED, service: str = "Demo"
) -> Reservation:
    return Reservation(f"{service}-{index}", service, index, {}, since, 0.0, phase)


class RegistryTests(SynchronousTestCase):
    def test_lowest_free_index(self) -> None:
        """An instance gets the lowest index that nobody of its service holds."""
        spec = make_spec(count=3)
        self.assertEqual(registry.free_index(spec, []), 0)
        self.assertEqual(registry.free_index(spec, [held(0), held(2)]), 1)
        self.assertEqual(registry.free_index(spec, [held(0, service="Other")]), 0)
        self.assertIsNone(registry.free_index(spec, [held(0), held(1), held(2)]))

    def test_indexes_beyond(self) -> None:
        """An instance whose index a reload took away still counts."""
        self.assertIsNone(registry.free_index(make_spec(count=1), [held(1)]))
        self.assertEqual(registry.free_index(make_spec(count=2), [held(2)]), 0)

    def test_free_count(self) -> None:
        """Free instances are counted by service, and never below none."""
        spec = make_spec(count=2)
        self.assertEqual(registry.free_count(spec, [held(0), held(0, service="Other")]), 1)
        self.assertEqual(registry.free_count(spec, [held(0), held(1), held(2)]), 0)

    def test_retry_after(self) -> None:
        """Who is refused is told when the oldest unused reservation expires, rounded up."""
        spec = make_spec(count=2)
        live = [held(0, 20.0), held(1, 10.5), held(0, 1.0, service="Other")]
        self.assertEqual(registry.retry_after(spec, live, 30.0, 60.0), 41)
        self.assertEqual(registry.retry_after(spec, live, 999.0, 60.0), 1)
        self.assertIsNone(registry.retry_after(spec, [held(0, 0, Phase.OPEN)], 30.0, 60.0))

    def test_admit(self) -> None:
        """A reservation is admitted with an index, or refused with a time to come back."""
        spec = make_spec(count=1)
        self.assertEqual(registry.admit(spec, [], 0.0, 60.0), 0)
        for phase, wait in ((Phase.RESERVED, 50), (Phase.QUARANTINED, registry.DEFAULT_RETRY)):
            error = self.assertRaises(
                AtCapacity, registry.admit, spec, [held(0, 0.0, phase)], 10.0, 60.0
            )
            self.assertEqual(error.retry_after, wait)
            self.assertEqual(str(error), "all 1 instances of Demo are in use")

    def test_expired(self) -> None:
        """Only unused reservations expire, and from the very second on."""
        live = [held(0, 0.0), held(1, 0.5), held(2, 0.0, Phase.STARTING)]
        self.assertEqual(registry.expired(live, 60.0, 60.0), live[:1])
