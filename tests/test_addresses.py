"""Addresses are compared in one form, and count for whom they are of."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from wsserver.addresses import address_of, is_loopback, party


class AddressesTests(SynchronousTestCase):
    def test_usual_form(self) -> None:
        """However an address is written it is the same; anything else is none."""
        for text, usual in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
        ):
            self.assertEqual(str(address_of(text)), usual)
        for text in ("", "localhost", "127.1", "127.0.0.1@10.0.0.1", "[::1]", "unix"):
            self.assertIsNone(address_of(text), text)

    def test_party(self) -> None:
        """An IPv6 network of one site is one party; IPv4 clients are each their own."""
        for one, other, same in (
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
            ("2001:db8:0:1::1", "2001:db8:0:1::2%eth0", True),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
            ("192.0.2.1", "192.0.2.2", False),
            ("somewhere", "somewhere", True),
            ("somewhere", "elsewhere", False),
        ):
            self.assertEqual(party(one) == party(other), same, (one, other))

    def test_loopback(self) -> None:
        """This machine has many addresses, and one name."""
        for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
            self.assertTrue(is_loopback(host), host)
        for host in ("", "0.0.0.0", "::", "192.0.2.1", "localhost.example", "127.0.0.1.example"):
            self.assertFalse(is_loopback(host), host)
