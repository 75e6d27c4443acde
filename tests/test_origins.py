"""Which web pages may use us."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from wsserver.errors import Forbidden
from wsserver.origins import Asked, Origins

#: What the Host header says, and origins of pages that are, and are not, of that host.
HOME = [
    ("good.example", "http://good.example"),
    ("good.example", "https://good.example"),
    ("good.example:9090", "http://good.example:9090"),
    ("good.example:9090", "http://good.example:9001"),
    ("good.example:9090", "https://good.example"),
    ("good.example", "HTTP://GOOD.example"),
    ("GOOD.example", "http://good.EXAMPLE"),
    ("good.example.", "http://good.example."),
    ("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ("localhost:9090", "http://localhost:9090"),
    ("node_1:9090", "http://node_1"),
    ("127.0.0.1:9090", "http://127.0.0.1:3000"),
    ("127.0.0.1:9090", "http://localhost:9090"),
    ("localhost:9090", "http://[::1]:9090"),
    ("[::1]:9090", "http://[::1]:9090"),
    ("[::1]", "https://[::1]:8443"),
    ("[FE80::1]:80", "http://[fe80::1]"),
]
FOREIGN = [
    ("good.example", "http://evil.example"),
    ("good.example", "http://good.example.evil"),
    ("good.example", "http://evilgood.example"),
    ("good.example", "http://sub.good.example"),
    ("good.example", "http://example"),
    ("good.example", "http://good.example@evil.example"),
    ("good.example", "http://evil.example#@good.example"),
    ("good.example", "http://evil.example/good.example"),
    ("good.example", "http://good.example/"),
    ("good.example", "http://good.example."),
    ("good.example.", "http://good.example"),
    ("good.example", "http://user@good.example"),
    ("good.example", "http://good.example:"),
    ("good.example", "http://good.example:x"),
    ("good.example", "http://good.example:999999"),
    ("good.example", "http://good.example:80:80"),
    ("good.example", "http://good%2eexample"),
    ("good.example", "http://good\u3002example"),
    ("good.example", "http://g\u043e\u043ed.example"),
    ("kin.example", "http://\u212ain.example"),
    ("sin.example", "http://\u017fin.example"),
    ("good.example", "http:/good.example"),
    ("good.example", "http:good.example"),
    ("good.example", "//good.example"),
    ("good.example", "good.example"),
    ("good.example", "ftp://good.example"),
    ("good.example", "app://good.example"),
    ("good.example", "http://good.example, http://good.example"),
    ("good.example", "http://good.example,http://evil.example"),
    ("good.example", "http://good.example http://evil.example"),
    ("good.example", "http://good.example\n"),
    ("good.example", " http://good.example"),
    ("good.example", "http://good.example\0.evil"),
    ("good.example", "http://good..example"),
    ("good.example", "http://.good.example"),
    ("good.example", "http://*"),
    ("good.example", "*"),
    ("good.example", "null"),
    ("good.example", ""),
    ("good.example", "http://"),
    ("good.example", "http://" + "a" * 65536),
    ("null", "null"),
    ("127.0.0.1", "http://0x7f.1"),
    ("127.0.0.1", "http://127.0.0.1.evil"),
    ("127.0.0.1", "http://localhost.evil"),
    ("127.0.0.1", "http://127.0.0.1.2"),
    ("127.0.0.1", "http://1127.0.0.1"),
    ("localhost", "http://127.0.0.evil"),
    ("192.0.2.1", "http://localhost"),
    ("[::1]", "http://[::2]"),
    ("[::1]", "http://::1"),
    ("[::1]", "http://[::1"),
    ("good.example, evil.example", "http://good.example"),
    ("good.example,good.example", "http://good.example"),
    ("user@good.example", "http://good.example"),
    ("", "http://good.example"),
    (None, "http://good.example"),
]


class WebsocketTests(SynchronousTestCase):
    """Which pages may open a websocket."""

    def refuses(self, origins: Origins, host: str | None, origin: str | None) -> bool:
        try:
            origins.check_websocket(Asked(host, origin))
        except Forbidden:
            return True
        return False

    def test_table(self) -> None:
        """The host must be ours, to the letter but for loopback; the port may be another."""
        for host, origin in HOME:
            self.assertFalse(self.refuses(Origins(), host, origin), (host, origin))
        for host, origin in FOREIGN:
            self.assertTrue(self.refuses(Origins(), host, origin), (host, origin))

    def test_no_browser(self) -> None:
        """A client that is no browser says nothing, and needs nothing."""
        self.assertFalse(self.refuses(Origins(), "good.example", None))
        self.assertFalse(self.refuses(Origins(), None, None))

    def test_listed(self) -> None:
        """What is listed is allowed exactly: scheme, host and port."""
        origins = Origins(["https://app.example:8443", "http://[::1]:80", "app://it"])
        for origin in ("https://app.example:8443", "https://APP.example:8443", "http://[::1]"):
            self.assertFalse(self.refuses(origins, "good.example", origin), origin)
        self.assertFalse(self.refuses(origins, "good.example", "app://it"))
        self.assertFalse(self.refuses(origins, "good.example", "http://good.example"))
        for origin in (
            "http://app.example:8443",
            "https://app.example",
            "https://app.example:443",
            "https://app.example:84430",
            "https://sub.app.example:8443",
            "https://app.example:8443.evil",
            "https://[::1]",
            "null",
        ):
            self.assertTrue(self.refuses(origins, "good.example", origin), origin)

    def test_any(self) -> None:
        """All are allowed where that is said; what is no origin still is not."""
        self.assertFalse(self.refuses(Origins(["*"]), "good.example", "http://evil.example"))
        for host, origin in (("good.example", "null"), ("good.example", "")):
            self.assertTrue(self.refuses(Origins(["*"]), host, origin), origin)

    def test_bad_list(self) -> None:
        """A list that holds no origin is a mistake that is named."""
        for text in ("app.example", "https://app.example/", "https://*.example", "", "null",
                     "https://b\u00fccher.example"):  # fmt: skip
            with self.assertRaises(ValueError) as caught:
                Origins([text])
            self.assertIn(repr(text), str(caught.exception))

    def test_words(self) -> None:
        """The refusal names the origin where it is one, and what to do."""
        with self.assertRaises(Forbidden) as caught:
            Origins().check_websocket(Asked("good.example", "http://evil.example"))
        self.assertIn("http://evil.example", str(caught.exception))
        self.assertIn("allowed_origins", str(caught.exception))
        with self.assertRaises(Forbidden) as caught:
            Origins().check_websocket(Asked("good.example", "<script>"))
        self.assertNotIn("<", str(caught.exception))


class ChangeTests(SynchronousTestCase):
    """Which pages may change something."""

    origins = Origins(["https://app.example"])

    def allows(self, **said: str) -> bool:
        try:
            self.origins.check_change(Asked("good.example:9090", **said))
        except Forbidden:
            return False
        return True

    def test_what_the_browser_says(self) -> None:
        """Other sites are refused, and so are other ports of this host."""
        self.assertTrue(self.allows(site="same-origin"))
        self.assertTrue(self.allows(site="same-origin", origin="null"))
        self.assertTrue(self.allows(site="none"))
        for site in ("cross-site", "same-site", "Cross-Site", "", "unheard-of"):
            self.assertFalse(self.allows(site=site), site)
            self.assertFalse(self.allows(site=site, origin="http://good.example:3000"), site)
            self.assertFalse(self.allows(site=site, origin="null"), site)
            self.assertFalse(self.allows(site=site, referer="http://good.example:9090/"), site)

    def test_listed(self) -> None:
        """A listed origin is allowed, by Origin or, without one, by Referer."""
        for site in ({}, {"site": "cross-site"}, {"site": "same-site"}):
            self.assertTrue(self.allows(**site, origin="https://app.example"))
            self.assertTrue(self.allows(**site, referer="https://app.example/page?a=1"))
            self.assertTrue(self.allows(**site, referer="https://app.example"))
            self.assertFalse(
                self.allows(**site, origin="http://evil.example", referer="https://app.example/")
            )

    def test_old_browsers_and_plain_http(self) -> None:
        """Where the browser does not say the site, the host of the page decides."""
        self.assertTrue(self.allows(origin="http://good.example:9090"))
        self.assertTrue(self.allows(referer="http://good.example:9090/wsserver/front.html"))
        self.assertTrue(self.allows(referer="http://good.example"))
        for origin in ("http://evil.example", "null", ""):
            self.assertFalse(self.allows(origin=origin), origin)
        for referer in (
            "http://evil.example/",
            "http://evil.example/http://good.example:9090/",
            "http://evil.example?http://good.example",
            "http://evil.example#http://good.example",
            "http://good.example@evil.example/",
            "http://good.example.evil/",
            "about:blank",
            "",
            "/",
        ):
            self.assertFalse(self.allows(referer=referer), referer)

    def test_no_browser(self) -> None:
        """A client that says nothing is no browser."""
        self.assertTrue(self.allows())
        self.assertTrue(self.allows(agent="curl/8.5", accept="*/*"))
        self.assertTrue(self.allows(agent="python-requests/2", accept="application/json, image/*"))

    def test_loaded(self) -> None:
        """A browser that does not say at all which page has it load this is refused."""
        firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
        for said in (
            {"agent": firefox},
            {"agent": firefox, "accept": "text/html,*/*;q=0.8"},
            {"accept": "image/avif,image/webp,*/*"},
            {"accept": "text/css,*/*;q=0.1"},
        ):
            with self.assertRaises(Forbidden) as caught:
                self.origins.check_change(Asked("good.example", **said))
            self.assertIn("POST", str(caught.exception))
            self.assertTrue(self.allows(**said, site="same-origin"))
            self.assertTrue(self.allows(**said, site="none"))
            self.assertTrue(self.allows(**said, referer="http://good.example/"))
            self.assertTrue(self.allows(**said, origin="https://app.example"))
            self.assertFalse(self.allows(**said, origin="null"))
