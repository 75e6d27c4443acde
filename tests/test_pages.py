"""The status page and the types of files; the other pages are tested by site and browser."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from tests.fakes import make_desk, make_offer
from wsserver.access import ANYBODY, Caller
from wsserver.lifecycle import Event
from wsserver.pages import WEB, Files, status_page
from wsserver.policy import Policy


class StatusPageTests(SynchronousTestCase):
    def setUp(self) -> None:
        broken = make_offer("Broken", unavailable="no Xvnc")
        self.desk = make_desk(Clock(), make_offer(count=3), broken)

        self.caller = ANYBODY

    def page(self) -> str:
        self.request = DummyRequest([])
        return self.successResultOf(
            status_page(Policy(), self.request, self.desk, self.caller)
        ).decode()

    def test_nobody(self) -> None:
        """A service without instances has a row that says so."""
        page = self.page()
        self.assertTrue(page.startswith("<!DOCTYPE html>"))
        self.assertIn("0 of 5 instances in use.", page)
        self.assertIn("0 of 3", page)
        self.assertIn("free", page)
        self.assertIn("no Xvnc", page)
        kept = self.request.responseHeaders.getRawHeaders("Cache-Control")
        self.assertIn("no-store", kept)

    def test_instances(self) -> None:
        """Each instance has a row with its state in words; endings cannot be released."""
        for _ in range(3):
            self.desk.reserve("Demo", {"file": "<b>&"})
        self.desk.claim("token-1")
        self.desk.note("token-1", "queued, position 3")
        self.desk.claim("token-2")
        self.desk.report("token-2", Event.CLOSE)
        self.desk.report("token-2", Event.HUNG, "stop takes too long")
        page = self.page()
        self.assertIn("3 of 3", page)
        self.assertIn("starting: queued, position 3", page)
        self.assertIn("does not end: stop takes too long", page)
        self.assertIn("file=&lt;b&gt;&amp;", page)
        self.assertIn('data-token="token-1"', page)
        self.assertNotIn('data-token="token-2"', page)
        self.assertEqual(page.count("<b>"), 0)

    def test_of_users(self) -> None:
        """Users see their own instances alone, and the services that they may use."""
        members = make_offer("Members", options={"group": "staff"})
        self.desk = make_desk(Clock(), make_offer(count=3), members)
        for user in ("alice", "bob"):
            self.desk.reserve("Demo", {"of": user}, user=user)
        for caller, tokens, others in (
            (ANYBODY, {"token-1", "token-2"}, True),
            (Caller(user="alice"), {"token-1"}, False),
            (Caller(user="bob", groups=frozenset({"staff"})), {"token-2"}, True),
            (Caller(user="carol"), set(), False),
        ):
            self.caller = caller
            page = self.page()
            self.assertEqual({t for t in ("token-1", "token-2") if t in page}, tokens)
            self.assertEqual("of=bob" in page, "token-2" in tokens)
            self.assertEqual("Members" in page, others)
            self.assertIn("2 of 3", page)
        self.assertIn("none of yours", page)

    def test_words_from_outside(self) -> None:
        """Nothing that a client, a script or the service file says becomes markup."""
        evil = "</td><script>alert(1)</script>\"'"
        self.desk = make_desk(Clock(), make_offer(evil), make_offer("Off", unavailable=evil))
        self.desk.reserve(evil, {evil: evil})
        self.desk.claim("token-1")
        self.desk.note("token-1", evil)
        page = self.page()
        self.assertNotIn("<script>alert", page)
        self.assertEqual(page.count("&lt;script&gt;alert(1)"), 5)

    def test_client(self) -> None:
        """Whose address an instance is used from is told."""
        self.desk.reserve("Demo", {}, "192.0.2.1")
        self.assertIn("192.0.2.1", self.page())
        self.desk.claim("token-1", "2001:db8::7")
        self.assertIn("2001:db8::7", self.page())

    def test_free_again(self) -> None:
        """An instance that has ended has no row."""
        self.desk.reserve("Demo", {})
        self.assertIn("reserved", self.page())
        self.desk.release("token-1")
        self.assertNotIn("reserved", self.page())


class AssetTests(SynchronousTestCase):
    def test_types(self) -> None:
        """Scripts carry a JavaScript type, as modules need it."""
        self.assertEqual(Files.contentTypes[".js"], "text/javascript")
        self.assertEqual(Files.contentTypes[".svg"], "image/svg+xml")

    def test_size(self) -> None:
        """Each page, without noVNC and xterm.js, stays well below 50 KB."""
        common = ["style.css", "icon.svg"]
        for files in (
            ["front.html", "front.js"],
            ["viewer.html", "viewer.js", "session.js"],
            ["terminal.html", "terminal.js", "session.js"],
            ["status.xml", "status.js"],
        ):
            self.assertLess(sum((WEB / name).stat().st_size for name in files + common), 45_000)
