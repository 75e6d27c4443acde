"""Who asks is what listed proxies say, and nothing that anybody else writes."""

from __future__ import annotations

from time import monotonic

from twisted.trial.unittest import SynchronousTestCase

from wsserver.forwarded import MAX_HOPS, Proxies

PROXIES = Proxies(["127.0.0.2", "10.0.0.0/8", "fd00::/8"])

#: What a listed proxy says, and who asks then.
FORMS = [
    (None, "127.0.0.2"),
    ("", "127.0.0.2"),
    (" ", "127.0.0.2"),
    (",", "127.0.0.2"),
    ("203.0.113.7", "203.0.113.7"),
    ("  203.0.113.7\t", "203.0.113.7"),
    ("203.0.113.7:4711", "203.0.113.7"),
    ('"203.0.113.7:4711"', "203.0.113.7"),
    ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
    ("198.51.100.1,203.0.113.7,10.1.2.3", "203.0.113.7"),
    ("198.51.100.1,203.0.113.7,10.1.2.3,127.0.0.2", "203.0.113.7"),
    ("203.0.113.7, 10.1.2.3:80, fd00::1", "203.0.113.7"),
    ("10.9.9.9", "10.9.9.9"),
    ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
    ("2001:db8::7", "2001:db8::7"),
    ("2001:DB8:0:0::7", "2001:db8::7"),
    ("[2001:db8::7]", "2001:db8::7"),
    ("[2001:db8::7]:443", "2001:db8::7"),
    ('"[2001:db8::7]:443"', "2001:db8::7"),
    ("fe80::1%eth0", "fe80::1%eth0"),
    ("::ffff:203.0.113.7", "203.0.113.7"),
    ("::ffff:10.1.2.3", "10.1.2.3"),
    ("203.0.113.7, ::ffff:10.1.2.3", "203.0.113.7"),
    # No address: then the proxy that named it is all that is known.
    ("unknown", "127.0.0.2"),
    ("_hidden", "127.0.0.2"),
    ("client.example", "127.0.0.2"),
    ("203.0.113.7, unknown, 10.1.2.3", "10.1.2.3"),
    ("203.0.113.7, ", "127.0.0.2"),
    ("999.1.1.1", "127.0.0.2"),
    ("203.0.113.7:port", "127.0.0.2"),
    ("203.0.113", "127.0.0.2"),
    ("0xcb007107", "127.0.0.2"),
    ("3405803783", "127.0.0.2"),
    ("[::1", "127.0.0.2"),
    ("203.0.113.7\x00", "127.0.0.2"),
    ("203.0.113.7\r\nX: y", "127.0.0.2"),
    ("\N{FULLWIDTH DIGIT ONE}.1.1.1", "127.0.0.2"),
    ("<script>", "127.0.0.2"),
    ("1" * 100_000, "127.0.0.2"),
]


class ClientTests(SynchronousTestCase):
    def test_forms(self) -> None:
        """The right-most hop that is no proxy of ours counts, in every form proxies write."""
        for header, client in FORMS:
            self.assertEqual(PROXIES.client("127.0.0.2", header), client, header)

    def test_from_anybody(self) -> None:
        """From whom is no proxy of ours, no form of the header counts."""
        for peer in ("127.0.0.1", "203.0.113.50", "2001:db8::1"):
            for header, _ in FORMS:
                self.assertEqual(PROXIES.client(peer, header), peer, header)

    def test_nobody_is_trusted_by_default(self) -> None:
        """Without a list, loopback is no proxy either."""
        self.assertEqual(Proxies().client("127.0.0.1", "203.0.113.7"), "127.0.0.1")

    def test_ten_thousand_hops(self) -> None:
        """A list without end costs no time, and gets nobody further than the hops allowed."""
        hops = [f"10.{n // 256 % 256}.{n % 256}.1" for n in range(10_000)]
        before = monotonic()
        client = PROXIES.client("127.0.0.2", ",".join(hops))
        self.assertLess(monotonic() - before, 0.1)
        self.assertEqual(client, hops[-MAX_HOPS])

    def test_mapped_peer(self) -> None:
        """A proxy that came in on an IPv6 socket is known, and an odd peer is harmless."""
        self.assertEqual(PROXIES.client("::ffff:127.0.0.2", "203.0.113.7"), "203.0.113.7")
        self.assertEqual(PROXIES.client("a pipe", "203.0.113.7"), "a pipe")


class HostTests(SynchronousTestCase):
    def test_host(self) -> None:
        """The host is what the proxy next to us says, where that has the form of one."""
        for said, host in [
            ("desk.example", "desk.example"),
            ("desk.example:8443", "desk.example:8443"),
            ("evil.example, desk.example", "desk.example"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("desk.example/x", None),
            ("desk.example\r\nX: y", None),
            ("user@desk.example", None),
            ("", None),
            (None, None),
        ]:
            self.assertEqual(PROXIES.host("127.0.0.2", said), host, said)

    def test_asked_host(self) -> None:
        """A proxy speaks for who asked it, others for themselves; either as it stands."""
        self.assertEqual(PROXIES.asked_host("127.0.0.2", "inner", "a, b/x "), "b/x")
        for told in (None, "", ","):
            self.assertIsNone(PROXIES.asked_host("127.0.0.2", "inner", told))
        self.assertEqual(PROXIES.asked_host("127.0.0.1", "inner", "outer"), "inner")
        self.assertIsNone(PROXIES.asked_host("127.0.0.1", None, "outer"))

    def test_proto(self) -> None:
        """Of protocols only http and https are known; ws and wss mean the same."""
        for said, proto in [
            ("https", "https"),
            ("HTTP", "http"),
            ("wss", "https"),
            ("ws", "http"),
            ("http, https", "https"),
            ("gopher", None),
            (None, None),
        ]:
            self.assertEqual(PROXIES.proto("127.0.0.2", said), proto, said)

    def test_from_anybody(self) -> None:
        """From whom is no proxy of ours, neither counts."""
        self.assertIsNone(PROXIES.host("127.0.0.1", "desk.example"))
        self.assertIsNone(PROXIES.proto("127.0.0.1", "https"))


class NetworkTests(SynchronousTestCase):
    def test_bad(self) -> None:
        """What is neither address nor network is refused, with its name."""
        for bad in ("proxy.example", "10.0.0.1/8", "10.0.0.0/33", ""):
            with self.assertRaises(ValueError) as caught:
                Proxies([bad])
            self.assertIn(repr(bad) if "/" not in bad else bad, str(caught.exception))
