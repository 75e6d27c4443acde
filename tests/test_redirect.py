"""The plain port leads to the TLS one, and nowhere else."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tests.wires import Reply, ask, ask_raw
from wsserver.admission import Admission
from wsserver.channel import HTTPSite
from wsserver.forwarded import Proxies
from wsserver.redirect import ToHTTPS


class RedirectTests(TestCase):
    async def ask(self, path: str, host: str = "good.example", port: int = 8443) -> Reply:
        return await ask(HTTPSite(ToHTTPS(port)), path, Host=host)

    async def test_same_place(self) -> None:
        """The same path and query of the same host; its port is that of TLS."""
        for host, path, port, place in (
            ("good.example", "/", 8443, "https://good.example:8443/"),
            ("good.example:80", "/a/b?c=d&e", 8443, "https://good.example:8443/a/b?c=d&e"),
            ("GOOD.example", "/", 443, "https://good.example/"),
            ("127.0.0.1:9080", "/%0d%0aX", 443, "https://127.0.0.1/%0d%0aX"),
            ("[::1]:9080", "/", 8443, "https://[::1]:8443/"),
            ("good.example", "//evil.example/", 443, "https://good.example//evil.example/"),
        ):
            reply = await self.ask(path, host, port)
            self.assertEqual((reply.code, reply.headers["Location"]), (308, place))
            self.assertEqual(reply.body, b"")

    async def test_nowhere_else(self) -> None:
        """What is no host, or no path, leads nowhere."""
        for host in ("", "evil@good", "a/b", "a b", "a,b", "a:b", "//a", "a\\b", "é", "a:80:80"):
            reply = await self.ask("/", host)
            self.assertEqual(reply.code, 400, host)
            self.assertNotIn("Location", reply.headers)
        for path in ("http://evil.example/", "@evil.example/", "a"):
            self.assertEqual((await self.ask(path)).code, 400, path)
        twice = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"
        self.assertEqual((await ask_raw(HTTPSite(ToHTTPS(443)), twice)).code, 400)
        without = b"GET / HTTP/1.0\r\n\r\n"
        self.assertEqual((await ask_raw(HTTPSite(ToHTTPS(443)), without)).code, 400)

    async def test_full(self) -> None:
        """Who is one too many is refused here, too."""
        admission = Admission(1)
        admission.visit("192.0.2.9")
        proxies = Proxies(["127.0.0.1"])
        site = HTTPSite(ToHTTPS(443), proxies=proxies, admission=admission)
        self.assertEqual((await ask(site, "/", X_Forwarded_For="192.0.2.9")).code, 429)
