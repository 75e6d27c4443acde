"""Which resource answers which path, and what holds for every answer."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import NoReturn

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from tests.fakes import make_desk, make_doorkeeper
from tests.wires import ask, ask_raw
from wsserver.api import Api
from wsserver.channel import HTTPSite
from wsserver.hosts import Hosts
from wsserver.pages import Files, status_page
from wsserver.policy import Policy
from wsserver.site import Root


class Upgrade(Resource):
    """Stands for the websocket."""

    isLeaf = True

    def render(self, request: object) -> bytes:
        return b"websocket"


class Events(Resource):
    """Stands for the events."""

    isLeaf = True

    def render(self, request: object) -> bytes:
        return b"data: events"


class SiteCase(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        (self.folder / "www" / "sub").mkdir(parents=True)
        self.www = self.folder / "www"
        (self.folder / "secret").write_text("canary")

    def make(
        self,
        directory: bool = False,
        websocket: bool = False,
        hosts: Hosts = Hosts(),  # noqa: B008  (never changed)
        **headers: str,
    ) -> HTTPSite:
        policy = Policy(added=list(headers.items()))
        desk = make_desk(Clock())
        api = Api(desk, make_doorkeeper(desk), lambda: None, partial(status_page, policy))
        root = Root(
            api.app.resource(),
            Events(),
            str(self.www) if directory else None,
            Upgrade() if websocket else None,
            policy,
            hosts,
        )
        return HTTPSite(root, policy.headers)


class PathTests(SiteCase):
    async def test_own_pages(self) -> None:
        """Without a directory there are a front page, and the viewer by both names."""
        site = self.make()
        self.assertIn(b"Open a session", (await ask(site, "/")).body)
        for name in ("viewer.html", "vnc_envision.html"):
            reply = await ask(site, f"/{name}?path=websockify&token=T")
            self.assertIn(b"viewer.js", reply.body)
            self.assertIn("default-src 'self'", reply.headers["Content-Security-Policy"])
            self.assertEqual(reply.headers["Referrer-Policy"], "no-referrer")
        self.assertEqual(
            (await ask(site, "/wsserver/style.css")).headers["Content-Type"], "text/css"
        )

    async def test_told_to_browsers(self) -> None:
        """Each answer says what may run; a file of the operator may run its own scripts."""
        (self.www / "a.html").write_text("<script>1</script>")
        site = self.make(directory=True)
        for path in ("/", "/sub/", "/sub", "/none", "/a.html/b", "/%00", "/v1/none", "/v1/services",
                     "/ansys1", "/wsserver/none", "/wsserver/events/T", "/%ff"):  # fmt: skip
            headers = (await ask(site, path)).headers
            self.assertIn("script-src 'none'", headers["Content-Security-Policy"], path)
            self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(headers["X-Frame-Options"], "SAMEORIGIN")
        for path in ("/v1/status_view", "/viewer.html", "/wsserver/front.html"):
            headers = (await ask(site, path)).headers
            self.assertIn("default-src 'self'", headers["Content-Security-Policy"], path)
        headers = (await ask(site, "/a.html")).headers
        self.assertEqual(headers["Content-Security-Policy"], "frame-ancestors 'self'")
        posted = await ask(site, "/a.html", "PUT")
        self.assertIn("script-src 'none'", posted.headers["Content-Security-Policy"])

    async def test_terminal(self) -> None:
        """The terminal has a page too, which alone allows styles inside."""
        reply = await ask(self.make(), "/terminal.html?token=T")
        self.assertIn(b"terminal.js", reply.body)
        self.assertIn("style-src 'self' 'unsafe-inline'", reply.headers["Content-Security-Policy"])
        other = await ask(self.make(), "/viewer.html")
        self.assertNotIn("unsafe-inline", other.headers["Content-Security-Policy"])

    async def test_events(self) -> None:
        """The events have their place among our own files."""
        reply = await ask(self.make(directory=True), "/wsserver/events/TOKEN")
        self.assertEqual(reply.body, b"data: events")

    async def test_directory(self) -> None:
        """With a directory its files stand at /, and its own viewer goes first."""
        site = self.make(directory=True)
        (self.www / "a.js").write_text("1")
        (self.www / "vnc_envision.html").write_text("mine")
        reply = await ask(site, "/a.js?session_name=x")
        self.assertEqual((reply.body, reply.headers["Content-Type"]), (b"1", "text/javascript"))
        self.assertEqual((await ask(site, "/vnc_envision.html")).body, b"mine")
        self.assertIn(b"viewer.js", (await ask(site, "/viewer.html")).body)
        listing = (await ask(site, "/")).body
        self.assertIn(b"a.js", listing)
        self.assertNotIn(b"Open a session", listing)
        self.assertEqual((await ask(site, "/v1/services")).code, 200)

    async def test_index(self) -> None:
        """A folder's index.html goes before its listing."""
        (self.www / "index.html").write_text("home")
        reply = await ask(self.make(directory=True), "/")
        self.assertEqual((reply.body, reply.headers["Content-Type"]), (b"home", "text/html"))

    async def test_bytes_as_they_are(self) -> None:
        """A packed file is not said to be coded, or browsers would unpack it."""
        packed = b"\x1f\x8b packed"
        (self.www / "a.js.gz").write_bytes(packed)
        (self.www / "b.csv.bz2").write_bytes(packed)
        for name, kind in (("a.js.gz", "application/gzip"), ("b.csv.bz2", "application/x-bzip2")):
            reply = await ask(self.make(directory=True), "/" + name, Accept_Encoding="gzip")
            self.assertEqual((reply.body, reply.headers["Content-Type"]), (packed, kind))
            self.assertNotIn("Content-Encoding", reply.headers)

    async def test_names(self) -> None:
        """Names may hold blanks and letters of all kinds; a listing escapes them."""
        for name in ("a b.txt", "ä.txt", "<i>.txt"):
            (self.www / name).write_text("1")
        site = self.make(directory=True)
        for path in (b"/a%20b.txt", b"/%C3%A4.txt", b"/%3ci%3e.txt"):
            self.assertEqual((await ask(site, path)).body, b"1")
        listing = (await ask(site, "/")).body
        self.assertNotIn(b"<i>", listing)
        self.assertIn(b"a%20b.txt", listing)

    async def test_no_files(self) -> None:
        """What is neither file nor folder does not exist; what cannot be read is forbidden."""
        os.mkfifo(self.www / "pipe")
        (self.www / "loop").symlink_to(self.www / "loop")
        site = self.make(directory=True)
        for path in ("/pipe", "/loop", "/" + "a" * 5000):
            self.assertEqual((await ask(site, path)).code, 404, path)

        def unlistable(_: object) -> NoReturn:
            raise PermissionError

        self.patch(Files, "listNames", unlistable)
        self.assertEqual((await ask(site, "/")).code, 403)

    async def test_read_only(self) -> None:
        """Files can be looked at, and nothing else."""
        (self.www / "a.txt").write_text("abc")
        site = self.make(directory=True)
        reply = await ask(site, "/a.txt", "HEAD")
        self.assertEqual((reply.code, reply.body, reply.headers["Content-Length"]), (200, b"", "3"))
        for path in ("/a.txt", "/viewer.html", "/wsserver/style.css", "/none", "/"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PRI"):
                reply = await ask(site, path, method)
                self.assertEqual((reply.code, reply.headers["Allow"]), (405, "GET, HEAD"))
        self.assertEqual((self.www / "a.txt").read_text(), "abc")

    async def test_no_text(self) -> None:
        """Bytes that are no UTF-8 are the client's mistake, and fill no log."""
        site = self.make(directory=True, websocket=True)
        head = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n"
        for path, host, more in (
            (b"/v1/reserve/%ff", b"x", b""),
            (b"/v1/status", b"\xff", b""),
            (b"/v1/status", b"x", b"Authorization: Bearer \xff\r\n"),
            (b"/", b"x", b"Upgrade: \xff\r\n"),
        ):
            reply = await ask_raw(site, head % (path, host, more))
            self.assertEqual((reply.code, reply.headers["Server"]), (400, "wsserver"))
            self.assertEqual(reply.json["error"], "BadRequest")
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_parts(self) -> None:
        """Parts of a file are sent; who asks for very many gets the whole of it, once."""
        (self.www / "a.bin").write_bytes(bytes(5000))
        site = self.make(directory=True)
        for ranges, code, longest in (
            (["0-99"], 206, 100),
            (["0-", "1-", "2-", "3-"], 206, 21_000),
            (["0-"] * 5, 200, 5000),
            (["0-"] * 1000, 200, 5000),
        ):
            reply = await ask(site, "/a.bin", Range=f"bytes={','.join(ranges)}")
            self.assertEqual(reply.code, code)
            self.assertLessEqual(len(reply.body), longest)
        twice = b"GET /a.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=0-\r\n"
        reply = await ask_raw(site, twice + b"Range: bytes=" + b"0-," * 999 + b"0-\r\n\r\n")
        self.assertLessEqual(len(reply.body), 5000)

    async def test_host(self) -> None:
        """A name that is not ours is refused before anything is looked for: pages, files, REST."""
        (self.www / "a.txt").write_text("abc")
        site = self.make(directory=True, hosts=Hosts(["desks.example"]))
        for path in ("/", "/a.txt", "/viewer.html", "/none", "/v1/services", "/v1/none",
                     "/wsserver/style.css", "/wsserver/events/T"):  # fmt: skip
            for method in ("GET", "POST"):
                reply = await ask(site, path, method, Host="evil.example:80")
                self.assertEqual((reply.code, reply.json["error"]), (421, "Misdirected"), path)
            self.assertNotEqual((await ask(site, path, Host="desks.example")).code, 421, path)
        # What is no browser need not say whom it asks.
        reply = await ask_raw(site, b"GET /a.txt HTTP/1.0\r\n\r\n")
        self.assertEqual((reply.code, reply.body), (200, b"abc"))

    async def test_nothing_there(self) -> None:
        """What does not exist is a 404, and reserved names are never files."""
        for name in ("v2", "ansys221"):
            (self.www / name).write_text("x")
        for directory, path in (
            (False, "/nothing"),
            (False, "/v1x"),
            (True, "/nothing"),
            (True, "/v2"),
            (True, "/v2/reserve"),
            (True, "/ansys221"),
        ):
            reply = await ask(self.make(directory=directory), path)
            self.assertEqual(reply.code, 404, path)

    async def test_upgrades(self) -> None:
        """A websocket is served on any path, where it shares the port."""
        for path in ("/", "/websockify", "/v1/x/y", "/wsserver/"):
            reply = await ask(self.make(websocket=True), path, Upgrade="WebSocket")
            self.assertEqual(reply.body, b"websocket")
        old = b"GET /any HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"
        self.assertEqual((await ask_raw(self.make(websocket=True), old)).code, 400)
        reply = await ask(self.make(), "/", Upgrade="websocket")
        self.assertIn(b"Open a session", reply.body)

    async def test_outside(self) -> None:
        """No path leads out of the directory, by no encoding and no link."""
        (self.www / "link").symlink_to(self.folder.resolve() / "secret")
        (self.www / "linked").symlink_to(self.folder.resolve())
        (self.www / ".hidden").write_text("canary")
        (self.www / "inside").symlink_to(self.www.resolve() / "sub")
        (self.www / "sub" / "file").write_text("fine")
        site = self.make(directory=True)
        for path in (
            b"/../secret",
            b"/%2e%2e/secret",
            b"/sub/../../secret",
            b"/..%2fsecret",
            b"/%252e%252e/secret",
            b"/sub/..%5c..%5csecret",
            b"/%c0%ae%c0%ae/secret",
            b"//secret",
            b"/link",
            b"/linked/secret",
            b"/.hidden",
            b"/a%00b",
            b"/a%0ab",
            b"/" + b"x" * 5000,
            b"/%ff",
        ):
            reply = await ask(site, path)
            self.assertEqual(reply.code, 404, path)
            self.assertNotIn(b"canary", reply.body)
        self.assertEqual((await ask(site, "/inside/file")).body, b"fine")
        listing = (await ask(site, "/")).body
        self.assertNotIn(b".hidden", listing)

    async def test_odd_names(self) -> None:
        """Any name that is text is a file; what nobody knows the kind of is no page."""
        (self.www / "a\u3000ä").write_text("<script>")
        reply = await ask(self.make(directory=True), "/a%E3%80%80%C3%A4")
        self.assertEqual(reply.headers["Content-Type"], "application/octet-stream")

    async def test_folder_redirect(self) -> None:
        """A folder's slash is added relative to the address, whatever the Host says."""
        reply = await ask(self.make(directory=True), "/sub?x=1", Host="evil.example")
        self.assertEqual((reply.code, reply.headers["Location"]), (301, "./sub/?x=1"))


class EveryAnswerTests(SiteCase):
    async def test_headers(self) -> None:
        """--add_header stands on every answer, and the server does not boast."""
        site = self.make(directory=True, **{"X-One": "1"})
        for path in ("/", "/nothing", "/v1/status", "/v1/none", "/viewer.html", "/sub"):
            reply = await ask(site, path)
            self.assertEqual((reply.headers["X-One"], reply.headers["Server"]), ("1", "wsserver"))
