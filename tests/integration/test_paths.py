"""Paths that lead elsewhere: out of the root, to another host, into a script."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from playwright.sync_api import sync_playwright
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import Server, chromium, echo_services, folder
from tests.integration.raw import exchange
from tests.wires import Reply

CANARY = b"canary-8d1f"

DOTS = ["..", "%2e%2e", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "%e0%80%ae.", "%uff0e%uff0e", "..;"]
SLASHES = ["/", "%2f", "\\", "%5c", "%252f", "%c0%af", "//", "/./", "/%00/"]
STARTS = ["/", "//", "/sub/", "/wsserver/", "/wsserver/novnc/", "/wsserver/events/",
          "/v1/release/", "//evil.example/", "/;/"]  # fmt: skip
ENDS = ["", "/", "%00", "%00.html", "?x=1", ";x", "%20", "."]
#: What is out of bounds though it stands below the root, or is named from the top.
DIRECT = [".hidden", ".hidden/", "%2ehidden", ".dot/in", "link", "link/", "out/secret", "out/",
          "out%2fsecret", "sub/link", "sub/up/secret", "page.html/../.hidden", "{top}", "/{top}",
          "file://{top}", "%2f{top}", "sub/.%00/secret", "sub/" + "a/" * 5000, "a" * 10_000,
          "%ff", "%", "%2", "%zz", "sub%0d%0aX:y", "~root", "~", "sub::$DATA"]  # fmt: skip


def hostile_paths(secret: Path) -> list[str]:
    """Return ways up and places out of bounds, some 3,000."""
    ways = itertools.product(STARTS, DOTS, SLASHES, (1, 3), ("secret", "%73ecret"), ENDS)
    up = [start + (dots + slash) * n + name + end for start, dots, slash, n, name, end in ways]
    places = [s + d.format(top=str(secret).lstrip("/")) for s in STARTS for d in DIRECT]
    # Every seventh: 7 divides no number of choices, so all of them are among these.
    return up[::7] + [place + end for place in places for end in ("", "%00", "?x")]


class PathCase(SynchronousTestCase):
    """A server with a tree of files, and a secret beside the tree."""

    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        self.www = self.folder / "www"
        (self.www / "sub").mkdir(parents=True)
        (self.www / ".dot").mkdir()
        self.secret = self.folder / "secret"
        for path in (self.secret, self.www / ".hidden", self.www / ".dot" / "in"):
            path.write_bytes(CANARY)
        (self.www / "page.html").write_text("a page")
        for link, target in (("link", "secret"), ("out", "."), ("sub/link", "secret")):
            (self.www / link).symlink_to(self.folder / target)
        (self.www / "sub" / "up").symlink_to("../..")

    def serve(self, *args: object) -> Server:
        services = echo_services(self.folder)
        common = ("-c", services, "--interface", "127.0.0.1", "--http_port", 0)
        # Whatever the Host header says is to be heard here.
        common += ("--allowed_hosts", "*")
        return self.enterContext(Server(*common, "--http_directory", self.www, *args))

    def get(self, server: Server, path: str, host: str = "localhost") -> Reply:
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", "", ""]
        answer = exchange(server.http_port, "\r\n".join(lines).encode())
        self.assertTrue(answer, f"no answer for {path[:200]!r}")
        return Reply(answer)


class RootTests(PathCase):
    def test_nothing_leaves_the_root(self) -> None:
        """No path yields a byte from outside of the root, and none is a crash."""
        server = self.serve()
        paths = hostile_paths(self.secret)
        self.assertGreater(len(paths), 3000)
        for path in paths:
            reply = self.get(server, path)
            self.assertNotIn(CANARY, reply.body, path[:200])
            self.assertLess(reply.code, 500, path[:200])
        self.assertEqual(self.get(server, "/page.html").body, b"a page")
        server.stop()
        self.assertNotIn("Traceback", server.log)


#: What a Host header may say though it is not ours.
HOSTS = ["evil.example", "evil.example:80", "localhost:80@evil.example", "localhost.evil.example",
         "//evil.example", "evil.example/", "[::2]", "*", "localhost, evil.example"]  # fmt: skip
ROUTES = ["", "sub", "sub/", "page.html", "wsserver", "wsserver/", "wsserver/novnc",
          "wsserver/novnc/core", "v1", "v1/", "v1/status", "v1/status/", "v1/services/",
          "v1/status_view/", "v1/reserve/Echo/", "viewer.html", "viewer.html/", "v2", "ansys1",
          "wsserver/events/T"]  # fmt: skip
BEFORE = ["/", "//evil.example/", "///evil.example/", "/\\evil.example/", "/%2fevil.example/",
          "//evil.example/%2f../", "//evil.example/%2e%2e/", "/http://evil.example/",
          "http://evil.example/", "https://evil.example//", "//evil.example/..;/"]  # fmt: skip
AFTER = ["", "?redirect=https://evil.example/", "?next=//evil.example", "/%0d%0aLocation:%20//evil",
         "//evil.example", "/..//evil.example", "#@evil.example"]  # fmt: skip


class RedirectTests(PathCase):
    def check(self, server: Server, asked: Iterable[tuple[str, str]]) -> int:
        redirects = 0
        for path, host in asked:
            reply = self.get(server, path, host)
            self.assertNotIn(b"evil.example", reply.headers.get("Refresh", "").encode())
            place = reply.headers.get("Location")
            if place is None:
                continue
            redirects += 1
            where = urlsplit(urljoin("http://ours/" + path.lstrip("/\\"), place))
            self.assertEqual((where.netloc, urlsplit(place).netloc), ("ours", ""), (path, place))
            self.assertTrue(place.startswith("./"), (path, place))
        return redirects

    def test_no_open_redirect(self) -> None:
        """Every redirect is relative, whatever the path and the Host header say."""
        server = self.serve()
        routes = ["/" + route for route in ROUTES]
        self.check(server, itertools.product(routes, HOSTS))
        ways = (b + r + a for b, r, a in itertools.product(BEFORE, ROUTES, AFTER))
        self.check(server, ((path, "localhost") for path in ways))
        self.assertEqual(self.check(server, [("/sub?a=1", "evil.example")]), 1)

    def test_websocket_port(self) -> None:
        """Nor does a websocket listener of its own redirect."""
        server = self.serve(0)
        server.http_port = server.ws_port
        ways = (f"{b}{a}" for b, a in itertools.product(BEFORE, AFTER))
        self.assertEqual(self.check(server, itertools.product(ways, HOSTS[:3])), 0)


#: Names that become scripts where they are put into a page as they are.
PAYLOADS = [
    "<script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    '"><svg onload=window.ran=1>',
    "' autofocus onfocus=window.ran=1 x='",
    "javascript:window.ran=1",
    "</title></script><script>window.ran=1</script>",
    "{{constructor.constructor('window.ran=1')()}}",
    "<iframe srcdoc='<script>parent.ran=1</script>'>",
]


#: Says what it is told, and fails with the same words.
FAILING = """
from wsserver import RemoteServiceScript

class Failing(RemoteServiceScript):
    def start(self):
        self.progress(self._name)
        raise RuntimeError(self._name)

    def stop(self):
        pass
"""

# Markup that stands in none of our pages.
INJECTED = "document.querySelectorAll('script:not([src]), [onerror], [onload], iframe').length"


class ScriptTests(PathCase):
    """Names and words from outside are shown, and never run."""

    def setUp(self) -> None:
        super().setUp()
        playwright = self.enterContext(sync_playwright())
        self.browser = self.enterContext(chromium(playwright))

    def look(self, address: str, wanted: str) -> None:
        """Open a page, wait until it shows what is wanted, and see that nothing runs."""
        page = self.browser.new_page()
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        page.goto(address)
        page.wait_for_function("(text) => document.body.innerText.includes(text)", arg=wanted)
        # What would run a moment later runs before this.
        page.evaluate("new Promise((done) => setTimeout(done, 300))")
        found = [page.evaluate("window.ran ?? null"), page.evaluate(INJECTED), dialogs]
        self.assertEqual(found, [None, 0, []], address)
        page.close()

    def test_pages(self) -> None:
        """Front page, status page and viewer show services, options and reasons."""
        (self.folder / "failing.py").write_text(FAILING)
        form = {name: {"type": "string", "title": name} for name in PAYLOADS}
        options = {"sizes": PAYLOADS, "reserve_options": form}
        entry = {"script": "failing.py", "count": 5, "options": {}}
        services = dict.fromkeys(PAYLOADS, entry) | {"Form": {**entry, "options": options}}
        file = self.folder / "hostile.json"
        file.write_text(json.dumps(services))
        server = self.enterContext(Server("-c", file, "--http_port", 0))
        fields = "&".join(f"{quote(text, safe='')}={quote(text, safe='')}" for text in PAYLOADS)
        for name in PAYLOADS:
            service = quote(name, safe="")
            token = server.get(f"/v1/reserve/{service}?{fields}").json()["token"]
            viewer = f"{server.http}/viewer.html?token={token}&session_name={service}"
            self.look(viewer, name)
            server.get(f"/v1/reserve/{service}?{fields}")
        self.look(f"{server.http}/", PAYLOADS[0])
        self.look(f"{server.http}/v1/status_view", PAYLOADS[0])

    def test_listing(self) -> None:
        """A listing shows the names of files."""
        for name in PAYLOADS:
            (self.www / "sub" / name.replace("/", "")).write_text("1")
        server = self.serve()
        self.look(f"{server.http}/sub/", "<script>window.ran=1<script>")
        # The names are in the address as well, where there is no such file.
        for name in PAYLOADS:
            address = f"{server.http}/sub/none-{quote(name, safe='')}"
            self.look(address, "")
