"""Guessing is slow, and nobody else suffers from it."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from wsserver.errors import TooManyFailures
from wsserver.failures import MAX_ADDRESSES, Failures


class FailuresTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[tuple[str, str]] = []
        self.failures = Failures(self.clock.seconds, 5, 300.0, lambda *told: self.told.append(told))

    def fail(self, address: str, times: int = 5, kind: str = "password") -> None:
        for _ in range(times):
            self.failures.note(address, kind)

    def refused(self, address: str, kind: str = "password") -> int | None:
        """Return how long an address has to wait, None where it need not."""
        try:
            self.failures.check(address, kind)
        except TooManyFailures as error:
            self.assertEqual((error.http_status, error.close_code), (429, 4429))
            return error.retry_after
        return None

    def test_limit(self) -> None:
        """After so many failures an address waits, and is told for how long."""
        self.fail("192.0.2.1", 4)
        self.assertIsNone(self.refused("192.0.2.1"))
        self.fail("192.0.2.1", 1)
        self.assertEqual(self.refused("192.0.2.1"), 301)
        self.clock.advance(299.5)
        self.assertEqual(self.refused("192.0.2.1"), 1)
        self.clock.advance(0.5)
        self.assertIsNone(self.refused("192.0.2.1"))

    def test_told(self) -> None:
        """It is told once that an address has to wait, however it goes on."""
        self.fail("192.0.2.1", 4)
        self.assertEqual(self.told, [])
        self.fail("192.0.2.1", 10)
        self.assertEqual(self.told, [("192.0.2.1", "password")])
        self.clock.advance(300)
        self.fail("192.0.2.1")
        self.assertEqual(len(self.told), 2)

    def test_others(self) -> None:
        """Another address is not concerned."""
        self.fail("192.0.2.1")
        self.assertIsNone(self.refused("192.0.2.2"))

    def test_kinds(self) -> None:
        """What was wrong of one kind shuts nobody out of another."""
        self.fail("192.0.2.1", kind="security_token")
        self.assertIsNotNone(self.refused("192.0.2.1", "security_token"))
        self.assertIsNone(self.refused("192.0.2.1", "password"))

    def test_forgiven(self) -> None:
        """Failures long ago do not count."""
        self.fail("192.0.2.1", 4)
        self.clock.advance(300)
        self.fail("192.0.2.1", 4)
        self.assertIsNone(self.refused("192.0.2.1"))
        self.assertEqual(len(self.failures), 1)

    def test_network(self) -> None:
        """An IPv6 network of one site is one source; what is no address stands for itself."""
        self.fail("2001:db8:0:1::1")
        self.assertIsNotNone(self.refused("2001:db8:0:1:ffff::2"))
        self.assertIsNotNone(self.refused("2001:db8:0:1::2%eth0"))
        self.assertIsNone(self.refused("2001:db8:0:2::1"))
        self.fail("::ffff:192.0.2.1")
        self.assertIsNotNone(self.refused("192.0.2.1"))
        self.assertIsNone(self.refused("::ffff:192.0.2.2"))
        self.fail("somewhere")
        self.assertIsNotNone(self.refused("somewhere"))

    def test_bounded(self) -> None:
        """However many addresses fail, few are remembered, the latest of them."""
        for number in range(MAX_ADDRESSES + 100):
            self.fail(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
        self.assertEqual(len(self.failures), MAX_ADDRESSES)
        self.fail("10.0.0.1", 4)
        self.assertIsNone(self.refused("10.0.0.1"))
        last = MAX_ADDRESSES + 99
        address = f"10.0.{last >> 8 & 255}.{last & 255}"
        self.fail(address, 4)
        self.assertIsNotNone(self.refused(address))
        self.clock.advance(300)
        self.fail("192.0.2.1", 1)
        self.assertEqual(len(self.failures), 1)
