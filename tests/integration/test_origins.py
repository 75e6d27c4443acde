"""Pages of other origins: what a browser lets them try, the server refuses."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import Server, certificate, chromium, folder, until
from tests.integration.raw import status_of
from tests.test_origins import FOREIGN, HOME
from tests.wires import request

#: Notes every start in a file, and listens without a process.
COUNTED = """
import socket
from wsserver import RemoteServiceScript

class Counted(RemoteServiceScript):
    _listener = None

    def start(self):
        with open(self._common_options["starts"], "a") as starts:
            starts.write("start\\n")
        self._listener = socket.create_server(("127.0.0.1", 0))
        return self._listener.getsockname()

    def stop(self):
        if self._listener is not None:
            self._listener.close()
"""


class CountedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        (self.folder / "counted.py").write_text(COUNTED)
        self.starts = self.folder / "starts"
        self.starts.touch()
        entry = {"script": "counted.py", "count": 100, "options": {"starts": str(self.starts)}}
        self.services = self.folder / "services.json"
        self.services.write_text(json.dumps({"Counted": entry}))

    def serve(self, *args: object) -> Server:
        server = Server("-c", self.services, "--interface", "127.0.0.1", "--http_port", 0, *args)
        return self.enterContext(server)

    def started(self) -> int:
        return len(self.starts.read_text().splitlines())


class TableTests(CountedCase):
    """The table of tests.test_origins, over real sockets, with a good and a bad token."""

    def handshake(self, server: Server, token: str, host: str, origin: str) -> int:
        lines = [
            f"GET /websockify?token={token} HTTP/1.1",
            f"Host: {host}",
            f"Origin: {origin}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ]
        data = "\r\n".join([*lines, "", ""]).encode()
        return status_of(server.ws_port, data, bool(server.secure))

    def serve(self, *args: object) -> Server:
        return super().serve("--allowed_hosts", "*", *args)

    def check(self, server: Server) -> None:
        sendable = [(h, o) for h, o in FOREIGN if h and o == o.strip() and "\0" not in o]
        sendable.append(("good.example", "http://good.example\r\nOrigin: http://good.example"))
        token = server.reserve("Counted")
        for host, origin in sendable:
            with self.subTest(host=host, origin=origin[:80]):
                found = [self.handshake(server, t, host, origin) for t in (token, "bad")]
                self.assertEqual(found[0], found[1])
                self.assertIn(found[0], (431,) if len(origin) > 9999 else (400, 403))
        for host, origin in HOME:
            with self.subTest(host=host, origin=origin):
                self.assertEqual(self.handshake(server, "bad", host, origin), 404)
        self.assertEqual(self.started(), 0)
        self.assertGreaterEqual(len(sendable) + len(HOME), 40)
        for host, origin in HOME[:2]:
            good = server.reserve("Counted")
            self.assertEqual(self.handshake(server, good, host, origin), 101)
        until(lambda: self.started() == 2)
        self.starts.write_text("")

    def test_plain(self) -> None:
        """On the HTTP port, and on a port of their own."""
        self.check(self.serve())
        self.check(self.serve(0))

    def test_tls(self) -> None:
        """The same by TLS."""
        cert, key = certificate(self.folder)
        self.check(self.serve("--cert", cert, "--key", key))
        self.check(self.serve(0, "--cert", cert, "--key", key))


class NameTests(CountedCase):
    """Names that others own, and let mean this machine (DNS rebinding)."""

    def test_sockets(self) -> None:
        """Where nobody has to show who they are, no page of such a name gets anywhere."""
        for args in ((), (0,)):
            server = self.serve(*args)
            token = server.reserve("Counted")
            for host, expected in (("evil.example", 421), ("localhost", 101)):
                fields = {"Host": f"{host}:80", "Origin": f"http://{host}:80"}
                status = status_of(server.ws_port, request(f"?token={token}", **fields))
                self.assertEqual(status, expected)
            for path in (b"/", b"/v1/services", b"/v1/reserve/Counted", b"/v1/stop"):
                head = b"GET %s HTTP/1.1\r\nHost: evil.example\r\n\r\n" % path
                self.assertEqual(status_of(server.http_port, head), 421)
            until(lambda server=server: not server.instances("Counted"))


#: All that a page can try without asking; the server is to see each, and do none.
ATTACK = """
<!DOCTYPE html><title>evil</title>
<form id="get" target="a" action="TARGET/v1/stop"></form>
<form id="post" target="b" method="post" action="TARGET/v1/stop"></form>
<form id="reserve" target="c" method="post" action="TARGET/v1/reserve/Counted"></form>
<iframe name="a"></iframe> <iframe name="b"></iframe> <iframe name="c"></iframe>
<iframe src="TARGET/v1/reserve/Counted"></iframe> <iframe src="TARGET/v1/stop"></iframe>
<img src="TARGET/v1/reserve/Counted?img"> <img src="TARGET/v1/stop?img">
<img src="TARGET/v1/stop?hidden" referrerpolicy="no-referrer">
<script src="TARGET/v1/stop?script"></script>
<link rel="stylesheet" href="TARGET/v1/reserve/Counted?style">
<script>
  const calls = [];
  for (const path of ["reserve/Counted?fetch", "stop?fetch"])
    for (const method of ["GET", "POST"])
      for (const mode of ["no-cors", "cors"])
        calls.push(fetch("TARGET/v1/" + path, { mode, method, credentials: "include" })
          .then((answer) => answer.type, () => "refused"));
  navigator.sendBeacon("TARGET/v1/stop?beacon");
  for (const form of document.forms) form.submit();
  calls.push(new Promise((resolve) => {
    const socket = new WebSocket("TARGET/?token=TOKEN".replace("http", "ws"));
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("refused");
  }));
  window.done = Promise.all(calls);
</script>
"""


class BrowserTests(CountedCase):
    """Chromium shows a hostile page; nothing is reserved, started or stopped."""

    def setUp(self) -> None:
        super().setUp()
        playwright = self.enterContext(sync_playwright())
        self.browser = self.enterContext(chromium(playwright))
        self.page_server = self.enterContext(pages(self.folder / "evil"))

    def attack(self, page_host: str, server_host: str) -> tuple[list[str], list[int]]:
        """Open the page, and return what its scripts and what its requests came to."""
        target = f"http://{server_host}:{self.server.http_port}"
        html = ATTACK.replace("TARGET", target).replace("TOKEN", self.token)
        (self.folder / "evil" / "evil.html").write_text(html)
        page = self.browser.new_page()
        statuses: list[int] = []
        page.on("response", lambda r: r.url.startswith(target) and statuses.append(r.status))
        page.goto(f"http://{page_host}:{self.page_server}/evil.html")
        outcome: list[str] = page.evaluate("window.done")
        # Three forms, two frames, four fetches and the beacon; Chromium tells no more.
        until(lambda: page.wait_for_timeout(50) or len(statuses) >= 10)
        page.close()
        return outcome, statuses

    def check(self, page_host: str, server_host: str) -> None:
        outcome, statuses = self.attack(page_host, server_host)
        self.assertEqual(set(outcome), {"opaque", "refused"})
        self.assertEqual(set(statuses), {403})
        self.assertEqual(len(self.server.instances("Counted")), 1)
        self.assertEqual(self.started(), 0)

    def test_foreign_pages(self) -> None:
        """From another site, and from another port of this one."""
        self.server = self.serve("-v")
        self.token = self.server.reserve("Counted")
        self.check("foreign.localhost", "127.0.0.1")
        # A socket of the same host is allowed, as its port may be another.
        outcome, statuses = self.attack("127.0.0.1", "127.0.0.1")
        self.assertEqual((set(statuses), outcome[-1]), ({403}, "open"))
        # The one session has ended with its page, and there is no other.
        until(lambda: not self.server.instances("Counted"))
        self.server.stop()
        for what in ("img", "hidden", "script", "style", "fetch", "beacon"):
            seen = [line for line in self.server.log.splitlines() if f"?{what} " in line]
            self.assertGreaterEqual(len(seen), 2, what)
            self.assertEqual([line for line in seen if " 403 " not in line], [])

    def test_listed(self) -> None:
        """A page of a listed origin reserves, reads the answer and opens the websocket."""
        origin = f"http://localhost:{self.page_server}"
        self.server = self.serve("--allowed_origins", origin)
        target = f"http://127.0.0.1:{self.server.http_port}"
        page = self.browser.new_page()
        page.goto(f"{origin}/")
        token = page.evaluate(
            """async (target) => {
                const headers = { Authorization: "Bearer asks-first" };
                const answer = await fetch(`${target}/v1/reserve/Counted`, { headers });
                const { token } = await answer.json();
                const socket = new WebSocket(`${target.replace("http", "ws")}/?token=${token}`);
                await new Promise((resolve) => { socket.onopen = resolve; });
                return token;
            }""",
            target,
        )
        self.assertEqual(self.server.instances("Counted")[0]["token"], token)
        page.close()
        until(lambda: not self.server.instances("Counted"))

    def test_beacon(self) -> None:
        """A beacon releases: of a page of our own, and of one of another port with a token."""
        self.server = self.serve()
        for there in (self.server.http, f"http://127.0.0.1:{self.page_server}"):
            url = f"{self.server.http}/v1/release/{self.server.reserve('Counted')}"
            page = self.browser.new_page()
            page.goto(there)
            page.evaluate("(url) => navigator.sendBeacon(url)", url)
            until(lambda: not self.server.instances("Counted"))


class RebindingTests(CountedCase):
    """A page whose own name leads to our address, so that it is of one origin with us."""

    TRY = """async (token) => {
        const said = [];
        for (const path of ["/v1/services", "/v1/status", "/", "/v1/reserve/Counted"])
            said.push((await fetch(path, { method: path.endsWith("d") ? "POST" : "GET" })).status);
        const socket = new WebSocket(`ws://${location.host}/websockify${token}`);
        return [...said, await new Promise((resolve) => {
            socket.onopen = () => resolve("open");
            socket.onerror = () => resolve("refused");
        })];
    }"""

    def test_hidden_page(self) -> None:
        """By plain HTTP a picture of a page that tells no address reserves nothing."""
        server = self.serve("--allowed_hosts", "desks.example", "-v")
        target = f"http://desks.example:{server.http_port}"
        flag = "--host-resolver-rules=MAP *.example 127.0.0.1"
        evil = self.enterContext(pages(self.folder / "evil"))
        (self.folder / "evil" / "evil.html").write_text(
            f'<meta name="referrer" content="no-referrer">'
            f'<img src="{target}/v1/reserve/Counted?img">'
            f'<link rel="stylesheet" href="{target}/v1/reserve/Counted?style">'
            f'<iframe src="{target}/v1/reserve/Counted?frame"></iframe>'
        )
        with sync_playwright() as playwright, chromium(playwright, flag) as browser:
            page = browser.new_page()
            page.goto(f"http://evil.example:{evil}/evil.html")
            for what in ("img", "style", "frame"):
                until(lambda what=what: page.wait_for_timeout(50) or f"?{what} 403 " in server.log)
            self.assertEqual(server.instances("Counted"), [])
            # Its own page reserves all the same.
            page.goto(target)
            page.locator('[data-name="Counted"]').get_by_role("button").click()
            until(lambda: page.wait_for_timeout(50) or self.started())

    def attempts(self, server: Server, host: str) -> list[Any]:
        """Return what a page of that host is told by the server, with a good token at last."""
        counted = "Counted" in server.log
        query = f"?token={server.reserve('Counted')}" if counted else ""
        flag = f"--host-resolver-rules=MAP {host} 127.0.0.1"
        with sync_playwright() as playwright, chromium(playwright, flag) as browser:
            page = browser.new_page()
            # What the page does could have come from the owner of the name, before that led here.
            page.goto(f"http://{host}:{server.http_port}/")
            found: list[Any] = page.evaluate(self.TRY, query)
        return found

    def test_rebinding(self) -> None:
        """It reads nothing, reserves nothing and opens nothing; by a name that is ours it does."""
        server = self.serve("--allowed_hosts", "desks.example")
        self.assertEqual(self.attempts(server, "evil.example"), [421] * 4 + ["refused"])
        self.assertEqual((len(server.instances("Counted")), self.started()), (1, 0))
        self.assertEqual(self.attempts(server, "desks.example"), [200] * 4 + ["open"])

    def test_basic(self) -> None:
        """Nor does it reach the fixed host of websockets without token."""
        with socket.create_server(("127.0.0.1", 0)) as fixed:
            port = fixed.getsockname()[1]
            server = self.enterContext(Server("--client_port", port, "--http_port", 0))
            self.assertEqual(self.attempts(server, "evil.example")[-1], "refused")
            self.assertEqual(self.attempts(server, "a.localhost")[-1], "open")


@contextmanager
def pages(folder: Path) -> Iterator[int]:
    """Serve a folder on all loopback addresses, as somebody else would; yield the port."""
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
