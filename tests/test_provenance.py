"""From which page and which machine a request comes, in memory."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import Request
from twisted.web.test.requesthelper import DummyChannel

from wsserver.errors import Misdirected
from wsserver.forwarded import Proxies
from wsserver.hosts import Hosts
from wsserver.origins import Asked
from wsserver.provenance import asked, check_host, header, is_local, shown_by


def request(peer: str = "192.0.2.1", **fields: list[bytes]) -> Request:
    made = Request(DummyChannel())
    made.client = (IPv6Address if ":" in peer else IPv4Address)("TCP", peer, 5000)
    for name, values in fields.items():
        made.requestHeaders.setRawHeaders(name.replace("_", "-").encode(), values)
    return made


class ProvenanceTests(SynchronousTestCase):
    def test_host(self) -> None:
        """Which host was asked for is told by a listed proxy, else by the request."""
        hosts, proxies = Hosts(["desks.example"]), Proxies(["192.0.2.1"])
        said = request(host=[b"inner"], x_forwarded_host=[b"evil.example", b"desks.example"])
        check_host(said, hosts, proxies)
        self.assertRaises(Misdirected, check_host, said, hosts, Proxies())
        check_host(request(host=[b"inner"]), hosts, proxies)
        twice = request(host=[b"desks.example", b"desks.example"])
        self.assertRaises(Misdirected, check_host, twice, hosts, Proxies())

    def test_page(self) -> None:
        """What stands twice is joined, so that it is nothing."""
        self.assertEqual(asked(request(), Proxies()), Asked(None))
        said = request(
            host=[b"a"], origin=[b"http://a", b"http://b"], sec_fetch_site=[b"none"],
            referer=[b"http://a/\xff"],
        )  # fmt: skip
        expected = Asked("a", "http://a,http://b", "none", "http://a/\xff")
        self.assertEqual(asked(said, Proxies()), expected)
        self.assertEqual(header(request(origin=[b""]), "origin"), "")

    def test_loading(self) -> None:
        """What a browser may have sent by itself is told as such: no POST, no token."""
        fields = {"user_agent": [b"Mozilla/5.0"], "accept": [b"image/*"]}
        for method, shown, told in (
            (b"GET", [], True),
            (b"GET", [b"Basic YTpi"], True),
            (b"GET", [b"Bearer t"], False),
            (b"POST", [], False),
        ):
            said = request(**fields, **({"authorization": shown} if shown else {}))
            said.method = method
            self.assertIs(asked(said, Proxies()).loads, told, (method, shown))

    def test_proxy(self) -> None:
        """A listed proxy tells which host was asked for."""
        said = request(host=[b"inner:9090"], x_forwarded_host=[b"evil", b"site.example"])
        self.assertEqual(asked(said, Proxies()).host, "inner:9090")
        self.assertEqual(asked(said, Proxies(["192.0.2.0/24"])).host, "site.example")

    def test_local(self) -> None:
        """This machine is what comes over loopback, and not for somebody else."""
        for peer in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
            self.assertTrue(is_local(request(peer), Proxies()), peer)
            self.assertFalse(is_local(request(peer, x_forwarded_for=[b"::1"]), Proxies()))
            self.assertFalse(is_local(request(peer, forwarded=[b"for=::1"]), Proxies()))
        for peer in ("192.0.2.1", "::2", "::ffff:192.0.2.1", "0.0.0.0"):
            self.assertFalse(is_local(request(peer), Proxies()), peer)
        self.assertFalse(is_local(request("127.0.0.1"), Proxies(["127.0.0.1"])))

    def test_credentials(self) -> None:
        """What shows who sends a request: every header as it stands, and the address."""
        said = shown_by(request(x_user=[b"a", b"\xc3\xa4"], authorization=[b"Basic x"]), "secret")
        self.assertEqual(
            (said.peer, said.client, said.security_token), ("192.0.2.1",) * 2 + ("secret",)
        )
        self.assertEqual((said.values("X-User"), said.values("None")), (["a", "\xc3\xa4"], []))
        self.assertEqual(said.authorization("basic"), "x")
