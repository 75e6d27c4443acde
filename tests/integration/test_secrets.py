"""A whole life with canaries for secrets: none sings in what the server puts out."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import bcrypt
import jwt
import psutil
from playwright.sync_api import sync_playwright
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.integration.parts import Answer, Server, chromium, fetch, folder, until
from tests.integration.raw import head_of

SECURITY = "canary-security-5f1e"
PASSWORD = "canary-password-9a77"
SIGNING = "canary-signing-secret-of-thirty-two-bytes"
ONE_TIME = "canary-vnc-33c0"
WRONG = "canary-wrong-guess-e0e0"
COOKIE = "canary-cookie-1b1b"

#: Shares a password, starts a process, and fails as it is told to.
SCRIPT = f'''
import sys
from wsserver import RemoteServiceScript

LISTEN = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.accept()[0].recv(1)
time.sleep(600)
"""

class Service(RemoteServiceScript):
    def start(self):
        self.share(password="{ONE_TIME}")
        self.progress("on the way")
        if "fail" in self._options:
            raise RuntimeError("told to fail")
        port = self.free_port()
        group = self.spawn([sys.executable, "-c", LISTEN, str(port)])
        return self.wait_for_port(port, process=group)

    def stop(self):
        super().stop()
        if "bad_stop" in self._options:
            raise RuntimeError("cannot stop")
'''


class Listener(http.server.BaseHTTPRequestHandler):
    """Somebody else's server: notes all that a browser tells it."""

    heard: list[str] = []

    def do_GET(self) -> None:
        self.heard.append(f"{self.path} {self.headers}")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class SecretTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        self.state = self.folder / "state"
        self.state.mkdir()
        (self.folder / "service.py").write_text(SCRIPT)
        entry = {"script": "service.py", "count": 20, "options": {}}
        (self.folder / "services.json").write_text(json.dumps({"S": entry}))
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (self.folder / "users").write_text(f"alice:{hashed}\n")
        (self.folder / "signing").write_text(SIGNING)
        self.tokens: list[str] = []
        self.public: list[str] = []

    def serve(self, *args: object) -> Server:
        server = Server(
            *("-c", self.folder / "services.json", "--http_port", 0, "-v", "-v"),
            *("--htpasswd", self.folder / "users", "--jwt_secret_file", self.folder / "signing"),
            *("--failure_limit", 1000, "--interface", "127.0.0.1"),
            *args,
            env={
                "WEBSOCKETSERVER_SECURITY_TOKEN": SECURITY,
                **dict.fromkeys(("HOME", "TMPDIR", "XDG_STATE_HOME"), str(self.state)),
            },
            cwd=self.state,
        )
        return self.enterContext(server)

    def reserve(self, server: Server, query: str = "", **headers: str) -> str:
        headers = headers or {"Authorization": f"Bearer {SECURITY}"}
        token: str = server.get(f"/v1/reserve/S?{query}", **headers).json()["token"]
        self.tokens.append(token)
        return token

    def looks(self, answer: Answer) -> int:
        """Keep what somebody without rights is told."""
        self.public.append(f"{answer.reason} {answer.headers} {answer.body!r}")
        return answer.status

    def calls(self, server: Server) -> None:
        """Show each secret in each way, right and wrong."""
        basic = [base64.b64encode(f"alice:{p}".encode()).decode() for p in (PASSWORD, WRONG)]
        bearer = [jwt.encode({"sub": "bob", "exp": 4e9}, key) for key in (SIGNING, SIGNING * 2)]
        self.tokens += [*basic, *bearer]
        for good in (
            {"Authorization": f"Bearer {SECURITY}"},
            {"Authorization": f"Basic {basic[0]}"},
            {"Authorization": f"Bearer {bearer[0]}", "Cookie": f"session={COOKIE}"},
        ):
            token = self.reserve(server, **good)
            self.assertEqual(self.looks(server.get(f"/v1/release/{token}")), 200)
            self.assertEqual(self.looks(server.get(f"/v1/release/{token}")), 404)
        self.assertEqual(server.get(f"/v1/status?security_token={SECURITY}").status, 200)
        encoded = "".join(f"%{ord(letter):02x}" for letter in SECURITY)
        self.assertEqual(server.get(f"/v1/status?security_token={encoded}").status, 200)
        self.assertEqual(server.get(f"/v1/status?%73ecurity_token={encoded}").status, 200)
        form = f"security_token={WRONG}&password={WRONG}".encode()
        post = "POST /v1/reserve/S HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        kind = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        answer = head_of(server.http_port, f"{post}{len(form)}\r\n{kind}".encode() + form)
        self.assertIn(b"HTTP/1.1 401 ", answer)
        for path, headers in (
            (f"/v1/status?security_token={WRONG}", {}),
            (f"/v1/status?a=b&security_token={WRONG}&security_token={WRONG}", {}),
            (f"/v1/none?SECURITY_TOKEN={SECURITY}", {}),
            (f"/viewer.html?security%5Ftoken={SECURITY}", {}),
            ("/v1/status", {"Authorization": f"Bearer {WRONG}"}),
            ("/v1/status", {"Authorization": f"Bearer {bearer[1]}"}),
            ("/v1/status", {"Authorization": f"Basic {basic[1]}"}),
            ("/v1/status", {"Authorization": f"basic   {basic[1]}"}),
            ("/v1/status", {"Authorization": f"Digest {WRONG}"}),
            ("/v1/status", {"Authorization": WRONG}),
            ("/v1/status", {"Authorization": f"Basic {basic[0]}"}),
            ("/v1/services", {"Authorization": f"Bearer {bearer[0]}"}),
            ("/v1/status_view", {"Authorization": f"Basic {basic[0]}"}),
            ("/v1/status_view", {"Cookie": f"token={COOKIE}; a={COOKIE}"}),
        ):
            self.looks(server.get(path, **headers))

    def sockets(self, server: Server) -> list[Any]:
        """Open websockets, well and badly; return those that are open."""
        live = []
        for query in ("", "bad_stop=1"):
            token = self.reserve(server, query)
            live.append(connect(f"{server.ws}?token={token}", subprotocols=["binary"]))
            live[-1].send(b"x")
            self.assertRaises(InvalidStatus, connect, f"{server.ws}?token={token}")
        failing = self.reserve(server, "fail=1")
        events = f"{server.http}/wsserver/events/{failing}"
        with connect(f"{server.ws}?session_name=n&token={failing}") as ended:
            self.assertRaises(ConnectionClosed, ended.recv)
        self.looks(fetch(events))
        spare = self.reserve(server)
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key += f"Cookie: a={COOKIE}\r\nAuthorization: Bearer {WRONG}\r\n"
        whole = f"{key}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        for head in (
            f"GET /?token={spare}&token={spare} HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"GET /?token={spare} HTTP/1.1\r\nHost: localhost\r\n{key}",
            f"GET /?token={spare} HTTP/1.1\r\nHost: x:y\r\n{whole}",
            f"GET /?token={spare}#a HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"GET /?token={spare} HTTP/1.0\r\nHost: localhost\r\n{whole}",
            f"POST /?token={spare} HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"GET /?token={spare}%zz%ff HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"GET /?TOKEN={spare} HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"GET /?token={spare} HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil\r\n{whole}",
            f"GET /?a token={spare} HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"GET /?%74oken={quote(spare[:-1])}x HTTP/1.1\r\nHost: localhost\r\n{whole}",
            f"token={spare} {WRONG}",
        ):
            answer = head_of(server.ws_port, f"{head}\r\n".encode())
            self.public.append(answer.decode("latin-1"))
        return live

    def browse(self, server: Server) -> None:
        """Leave the viewer, whose address holds a token, for somebody else's page."""
        token = self.reserve(server)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as other:
            threading.Thread(target=other.serve_forever, daemon=True).start()
            with sync_playwright() as playwright, chromium(playwright) as browser:
                page = browser.new_page()
                page.goto(f"{server.http}/viewer.html?token={token}&autoconnect=false")
                address = f"http://127.0.0.1:{other.server_port}/heard"
                page.evaluate("(there) => { location.href = there; }", address)
                until(lambda: page.wait_for_timeout(50) or Listener.heard)
            other.shutdown()
        self.public += Listener.heard
        for query in (
            f"path=websockify%3Ftoken%3D{token}&password={ONE_TIME}",
            f"next=%2Fviewer.html%3Fpath%3Dw%253ftoken%253d{token}%26password%3D{ONE_TIME}",
        ):
            self.assertEqual(self.looks(server.get(f"/viewer.html?{query}")), 200)

    def processes(self, server: Server) -> Iterable[tuple[str, str]]:
        """Yield what the system shows of the server and of what it started."""
        me = psutil.Process(server.process.pid)
        yield "command line of the server", " ".join(me.cmdline())
        for child in me.children(recursive=True):
            yield f"command line of {child}", " ".join(child.cmdline())
            yield f"environment of {child}", str(child.environ())

    def life(self, server: Server) -> None:
        self.calls(server)
        live = self.sockets(server)
        outputs = dict(self.processes(server))
        self.assertGreaterEqual(len(outputs), 3)
        files = [path for path in self.state.rglob("*") if path.is_file()]
        outputs |= {str(path): path.read_bytes().decode("latin-1") for path in files}
        self.browse(server)
        for websocket in live:
            websocket.close()
        until(lambda: "open" not in self.states(server))
        server.stop()
        outputs |= {"log": server.log} | {f"answer {n}": a for n, a in enumerate(self.public)}
        self.check(outputs)

    def states(self, server: Server) -> set[str]:
        status = server.get("/v1/status", Authorization=f"Bearer {SECURITY}").json()
        return {instance["state"] for instance in status[0]["instances"]}

    def check(self, outputs: dict[str, str]) -> None:
        secrets = [SECURITY, PASSWORD, SIGNING, ONE_TIME, WRONG, COOKIE, *self.tokens]
        found = []
        for name, text in outputs.items():
            for secret in secrets:
                at = text.find(secret)
                if at >= 0:
                    found.append(f"{name}: {text[max(0, at - 150) : at + 60]!r}")
        self.assertIn("told to fail", outputs["log"])
        self.assertEqual(found, [], "\n".join(found))

    def test_one_port(self) -> None:
        """Websockets on the HTTP port."""
        self.life(self.serve())

    def test_two_ports(self) -> None:
        """Websockets on a port of their own."""
        self.life(self.serve(0))
