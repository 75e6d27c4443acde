"""Who may reserve what, with real servers: nginx in front, signed tokens, passwords, a browser."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import bcrypt
import psutil
from playwright.sync_api import Page
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import InvalidStatus

from tests.integration.parts import (
    ROOT,
    Server,
    certificate,
    connect,
    fetch,
    folder,
    free_port,
    until,
)
from tests.integration.test_browser import BrowserCase
from tests.signers import (
    AUDIENCE,
    ISSUER,
    SECRET,
    ec_key,
    jwk,
    jwks,
    public_pem,
    rsa_key,
    token,
)
from tests.test_htpasswd import hashed

SESAME = "sesame-of-the-application"
#: nginx speaks from here: no test client does.
PROXY = "127.0.0.5"


def basic(user: str, password: str) -> dict[str, str]:
    raw = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {raw}"}


def bearer(given: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {given}"}


ALICE, BOB = basic("alice", "wonderland"), basic("bob", "builder")


class IdentityCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        self.services = self.folder / "services.json"
        demo: dict[str, Any] = {"script": "echo_session.py", "count": 4}
        self.services.write_text(
            json.dumps(
                {
                    "Echo": {**demo, "options": {"secret": "of the operator"}},
                    "Staff": {**demo, "options": {"group": "staff"}},
                }
            )
        )

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *args: object, **kwargs: Any) -> Server:
        server = Server("-c", self.services, "--http_port", 0, *args, **kwargs)
        return self.enterContext(server)

    def passwords(self) -> list[object]:
        """The options for alice, who is staff, and bob, who is not."""
        users = f"alice:{hashed('wonderland')}\nbob:{hashed('builder')}\n"
        groups = self.file("groups", "staff: alice\n")
        return ["--htpasswd", self.file("users", users), "--htgroup", groups]

    def names(self, base: str, **headers: str) -> list[str]:
        answer = fetch(f"{base}/v1/services", **headers)
        self.assertEqual(answer.status, 200, answer.body)
        return [service["name"] for service in answer.json()]

    def reserve(self, base: str, name: str = "Echo", **headers: str) -> str:
        answer = fetch(f"{base}/v1/reserve/{name}", "POST", **headers)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()["token"]

    def check_groups(self, base: str, member: dict[str, str], other: dict[str, str]) -> None:
        """A service of a group is listed for, and reserved by, its members alone."""
        self.assertEqual(self.names(base, **member), ["Echo", "Staff"])
        self.assertEqual(self.names(base, **other), ["Echo"])
        refused = fetch(f"{base}/v1/reserve/Staff", "POST", **other)
        self.assertEqual((refused.status, refused.json()["error"]), (403, "Forbidden"))
        made = self.reserve(base, "Staff", **member)
        self.assertEqual(fetch(f"{base}/v1/release/{made}", "POST", **member).status, 200)

    def echoed(self, url: str, **headers: str) -> str:
        """Return what comes back over a websocket, or the status of a refusal."""
        try:
            with connect(url, additional_headers=headers) as browser:
                browser.send(b"hello")
                answer = browser.recv()
                assert isinstance(answer, bytes)
                return answer.decode()
        except InvalidStatus as refused:
            return str(refused.response.status_code)


class PasswordTests(IdentityCase):
    def test_users(self) -> None:
        """Users see the services of their groups and their own instances alone."""
        server = self.start(*self.passwords(), "--security_token", SESAME)
        nobody = fetch(f"{server.http}/v1/services")
        self.assertEqual(nobody.status, 401)
        self.assertEqual(
            nobody.headers.get_all("WWW-Authenticate"),
            ["Bearer", 'Basic realm="wsserver", charset="UTF-8"'],
        )
        self.check_groups(server.http, ALICE, BOB)
        tokens = [self.reserve(server.http, **who) for who in (ALICE, BOB)]
        for who, seen in (
            (ALICE, tokens[:1]),
            (BOB, tokens[1:]),
            (bearer(SESAME), tokens),
            (basic("alice", "wrong"), []),
            ({}, []),
        ):
            for path in ("status", "status_view"):
                answer = fetch(f"{server.http}/v1/{path}", **who)
                self.assertEqual(answer.status, 200 if seen else 401)
                for made in tokens:
                    self.assertEqual(made.encode() in answer.body, made in seen, (who, path))
            known = b"of the operator" in fetch(f"{server.http}/v1/status", **who).body
            self.assertEqual(known, who == bearer(SESAME))
        self.assertEqual(fetch(f"{server.http}/v1/stop", "POST", **ALICE).status, 403)
        server.stop()
        for secret in (SESAME, "wonderland", *tokens):
            self.assertNotIn(secret, server.log)

    def test_changed_files(self) -> None:
        """A user who is added is let in; one who is removed is out after SIGHUP."""
        server = self.start(*self.passwords())
        self.assertEqual(self.names(server.http, **BOB), ["Echo"])
        users = f"bob:{hashed('builder')}\ncarol:{hashed('x')}\n"
        self.file("users", users)
        self.assertEqual(self.names(server.http, **basic("carol", "x")), ["Echo"])
        self.file("groups", "staff: bob")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: self.names(server.http, **BOB) == ["Echo", "Staff"])
        self.assertEqual(fetch(f"{server.http}/v1/services", **ALICE).status, 401)
        self.file("users", "spoilt")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "line 1: must be USER:HASH" in server.log)
        self.assertEqual(self.names(server.http, **BOB), ["Echo", "Staff"])

    def test_slow_hash(self) -> None:
        """A hash that takes long keeps nobody else waiting, and is not made for each request."""
        slow = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(12)).decode()
        users = self.file("users", f"alice:{slow}\n")
        server = self.start("--htpasswd", users, "--security_token", SESAME)
        began = time.monotonic()
        self.names(server.http, **ALICE)
        first = time.monotonic() - began
        began = time.monotonic()
        for _ in range(10):
            self.names(server.http, **ALICE)
        self.assertLess(time.monotonic() - began, 5 * first)


class BoundTests(IdentityCase):
    def test_bound(self) -> None:
        """A reservation is of use to its user alone: websocket, events and release."""
        for own_port in ([], [free_port()]):
            with self.subTest(own_port=own_port):
                self.check_bound(self.start(*self.passwords(), "--bind_user", *own_port))

    def check_bound(self, server: Server) -> None:
        for who, ws, events in ((BOB, "404", 404), ({}, "401", 401)):
            made = self.reserve(server.http, **ALICE)
            self.assertEqual(self.echoed(f"{server.ws}?token={made}", **who), ws)
            self.assertEqual(fetch(f"{server.http}/wsserver/events/{made}", **who).status, events)
            self.assertEqual(fetch(f"{server.http}/v1/release/{made}", **who).status, events)
            self.assertEqual(self.echoed(f"{server.ws}?token={made}", **ALICE), "hello")
        made = self.reserve(server.http, **ALICE)
        self.assertEqual(fetch(f"{server.http}/v1/release/{made}", "POST", **ALICE).status, 200)

    def test_fixed_host(self) -> None:
        """Where users log in, a tunnel without token is for them alone."""
        with socket.create_server(("127.0.0.1", 0)) as host:
            port = host.getsockname()[1]
            for own_port in ([], [free_port()]):
                server = self.start(*self.passwords(), "--client_port", port, *own_port)
                self.assertEqual(self.echoed(server.ws), "401")
                self.assertEqual(self.echoed(server.ws, **basic("alice", "wrong")), "401")
                with connect(server.ws, additional_headers=BOB) as browser:
                    peer, _ = host.accept()
                    with peer:
                        browser.send(b"hello")
                        self.assertEqual(peer.recv(5), b"hello")

    def test_application(self) -> None:
        """The trusted application acts for a user, and does what it wants."""
        server = self.start(
            *self.passwords(), "--bind_user", "--act_for_users", "--security_token", SESAME
        )
        trusted = bearer(SESAME)
        made = self.reserve(server.http, "Staff?user=alice&groups=staff", **trusted)
        self.assertEqual(fetch(f"{server.http}/v1/reserve/Staff?user=alice", **BOB).status, 403)
        refused = fetch(f"{server.http}/v1/reserve/Staff?user=bob&groups=x", **trusted)
        self.assertEqual(refused.status, 403)
        (staff,) = [
            s for s in fetch(f"{server.http}/v1/status", **ALICE).json() if s["name"] == "Staff"
        ]
        (instance,) = staff["instances"]
        self.assertEqual((instance["user"], instance["options"]), ("alice", {}))
        self.assertEqual(self.echoed(f"{server.ws}?token={made}", **BOB), "404")
        self.assertEqual(self.echoed(f"{server.ws}?token={made}", **trusted), "hello")
        # What is nobody's works by its token, as ever.
        made = self.reserve(server.http, **trusted)
        self.assertEqual(self.echoed(f"{server.ws}?token={made}"), "hello")


class GuessingTests(IdentityCase):
    """The row of T3 in reliability.md."""

    def ask(self, source: str, count: int, headers: dict[str, str]) -> dict[int, int]:
        """Ask many times over one connection from an address; return the count by status."""
        found: dict[int, int] = {}
        link = http.client.HTTPConnection(
            "127.0.0.1", self.server.http_port, timeout=20, source_address=(source, 0)
        )
        with contextlib.closing(link):
            for _ in range(count):
                link.request("GET", "/v1/services", headers=headers)
                answer = link.getresponse()
                answer.read()
                found[answer.status] = found.get(answer.status, 0) + 1
                if answer.status == 429:
                    self.assertGreater(int(answer.headers["Retry-After"]), 0)
        return found

    def test_guessing(self) -> None:
        """Five wrong tries of an address, then 429; memory stays flat, others are served."""
        self.server = self.start(*self.passwords(), "--security_token", SESAME)
        process = psutil.Process(self.server.process.pid)
        self.ask("127.0.0.10", 500, bearer(SESAME))
        before = process.memory_info().rss
        wrong = [bearer("wrong"), basic("alice", "wrong"), basic("nobody", "wrong")]
        for number in range(2, 10):
            found = self.ask(f"127.0.0.{number}", 1250, wrong[number % 3])
            self.assertEqual(found, {401: 5, 429: 1245})
        grown = process.memory_info().rss - before
        self.assertLess(grown, 4 * 1024 * 1024)
        # Not even the right one, from there; at once from anywhere else.
        self.assertEqual(self.ask("127.0.0.3", 1, bearer(SESAME)), {429: 1})
        self.assertEqual(self.ask("127.0.0.2", 1, ALICE), {429: 1})
        began = time.monotonic()
        self.assertEqual(self.ask("127.0.0.10", 1, bearer(SESAME)), {200: 1})
        self.assertLess(time.monotonic() - began, 1)
        self.assertEqual(self.ask("127.0.0.10", 1, ALICE), {200: 1})

    def test_kinds(self) -> None:
        """Images of a foreign page with a wrong secret lock their visitor out of no login."""
        self.server = self.start(*self.passwords(), "--security_token", SESAME)
        image = f"{self.server.http}/v1/stop?security_token=x"
        statuses = [fetch(image, **{"Sec-Fetch-Site": "cross-site"}).status for _ in range(7)]
        self.assertEqual(statuses, 5 * [401] + 2 * [429])
        for right in (ALICE, bearer(SESAME)):
            self.assertEqual(self.ask("127.0.0.1", 1, right), {200: 1})

    def test_at_once(self) -> None:
        """Many guesses at one time are no faster than one after the other."""
        self.server = self.start(*self.passwords())
        found: list[dict[int, int]] = []
        guess = lambda: found.append(self.ask("127.0.0.2", 1, basic("alice", "wrong")))  # noqa: E731
        threads = [threading.Thread(target=guess) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [status for counts in found for status in counts]
        self.assertEqual(len(statuses), 40)
        self.assertEqual(statuses.count(401), 5)
        self.assertEqual(statuses.count(429), 35)


NGINX = """
  map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
  # Whoever the proxy has asked: here, as it stands in a header of the test.
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_http_version 1.1;
      proxy_bind {source};
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Remote-User {user};
      proxy_set_header X-Remote-Groups {groups};
      proxy_pass http://127.0.0.1:{backend};
    }}
  }}
"""


class ProxyCase(IdentityCase):
    def settings(self) -> list[object]:
        headers = ["--user_header", "X-Remote-User", "--groups_header", "X-Remote-Groups"]
        return [*headers, "--trusted_proxies", PROXY]

    def nginx(
        self, server: Server, user: str = "$http_x_test_user", groups: str = "$http_x_test_groups"
    ) -> str:
        """Start nginx in front of a server; return its address."""
        port = free_port()
        site = NGINX.format(
            port=port, source=PROXY, backend=server.http_port, user=user, groups=groups
        )
        self.run_nginx(site, port)
        return f"http://localhost:{port}"

    def run_nginx(self, site: str, port: int) -> None:
        """Run nginx with a site until the end of the test."""
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{n}_temp_path {self.folder}/{n};" for n in names)
        log = str(self.folder / "error.log")
        conf = self.file(
            "nginx.conf",
            f"daemon off; pid {self.folder}/pid; error_log {log}; events {{}}\n"
            f"http {{ access_log off; {temporary} {site} }}\n",
        )
        nginx = subprocess.Popen(["nginx", "-e", log, "-c", str(conf)])
        self.addCleanup(nginx.wait)
        self.addCleanup(nginx.terminate)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until(listens)


class ProxyTests(ProxyCase):
    def test_headers(self) -> None:
        """The user is who nginx says; what clients write into its headers is nothing."""
        server = self.start(*self.settings(), "--bind_user")
        site = self.nginx(server)
        alice = {"X-Test-User": "alice", "X-Test-Groups": "guests, staff"}
        bob = {"X-Test-User": "bob"}
        self.check_groups(site, alice, bob)
        forged = {"X-Remote-User": "alice", "X-Remote-Groups": "staff"}
        self.assertEqual(self.names(site, **bob, **forged), ["Echo"])
        nobody = fetch(f"{site}/v1/services", **forged)
        self.assertEqual(nobody.status, 401)
        self.assertEqual(nobody.headers["WWW-Authenticate"], 'Proxy realm="wsserver"')
        # Past the proxy they are not looked at.
        self.assertEqual(fetch(f"{server.http}/v1/services", **forged).status, 401)
        made = self.reserve(site, **alice)
        ws = site.replace("http", "ws") + f"/websockify?token={made}"
        self.assertEqual(self.echoed(ws, **bob), "404")
        self.assertEqual(self.echoed(f"{server.ws}?token={made}", **forged), "401")
        self.assertEqual(self.echoed(ws, **alice), "hello")

    def test_blocked_behind_a_proxy(self) -> None:
        """Who guesses through the proxy is one address of many."""
        server = self.start(*self.settings(), "--security_token", SESAME)
        site = self.nginx(server)
        for _ in range(5):
            self.assertEqual(fetch(f"{site}/v1/services", **bearer("wrong")).status, 401)
        self.assertEqual(fetch(f"{site}/v1/services", **bearer(SESAME)).status, 429)
        other = {**bearer(SESAME), "X-Forwarded-For": "127.0.0.9"}
        # A client cannot write itself another address, nor somebody else's.
        self.assertEqual(fetch(f"{site}/v1/services", **other).status, 429)
        link = http.client.HTTPConnection(
            "127.0.0.1", int(site.rpartition(":")[2]), 20, ("127.0.0.9", 0)
        )
        with contextlib.closing(link):
            link.request("GET", "/v1/services", headers=bearer(SESAME))
            self.assertEqual(link.getresponse().status, 200)


class Gate:
    """What oauth2-proxy answers: to whom a cookie names, and by a page to log in."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                who = (self.headers["Cookie"] or "").removeprefix("who=")
                asked = self.path == "/oauth2/auth"
                self.send_response(202 if asked and who else 401 if asked else 403)
                if asked and who:
                    self.send_header("X-Auth-Request-Email", who)
                    if who == "alice":
                        self.send_header("X-Auth-Request-Groups", "guests,staff")
                body = b"" if asked else b"please log in"
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port

    @contextlib.contextmanager
    def serving(self) -> Iterator[Gate]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class LoginSiteTests(ProxyCase):
    """The shipped etc/nginx-login.conf, as it is, and with the other login of docs/identity.md."""

    forged: ClassVar = {"X-Remote-User": "alice", "X-Remote-Groups": "staff"}

    def site(self, *changes: tuple[str, str]) -> tuple[Server, str]:
        """Start a server behind the site; return both."""
        headers = ["--user_header", "X-Remote-User", "--groups_header", "X-Remote-Groups"]
        server = self.start(*headers, "--trusted_proxies", "127.0.0.2", "--bind_user")
        cert, key = certificate(self.folder)
        # The workers of nginx, which read the passwords, are of another user.
        self.folder.chmod(0o711)
        port = free_port()
        site = (ROOT / "etc" / "nginx-login.conf").read_text()
        for old, new in (
            *changes,
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("127.0.0.1:9090", f"127.0.0.1:{server.http_port}"),
            ("/etc/ssl/certs/desktops.pem", str(cert)),
            ("/etc/ssl/private/desktops.key", str(key)),
        ):
            self.assertEqual(site.count(old), 1, old)
            site = site.replace(old, new)
        self.run_nginx(site, port)
        return server, f"https://localhost:{port}"

    def check(
        self, server: Server, site: str, alice: dict[str, str], bob: dict[str, str], nobody: int
    ) -> None:
        """Whoever writes what into the headers of the proxy: the login alone counts."""
        self.assertEqual(self.names(site, **bob, **self.forged), ["Echo"])
        self.assertEqual(fetch(f"{site}/v1/services", **self.forged).status, nobody)
        self.assertEqual(fetch(f"{server.http}/v1/services", **self.forged).status, 401)
        made = self.reserve(site, **alice)
        url = site.replace("http", "ws") + f"/websockify?token={made}"
        self.assertEqual(self.echoed(url, **bob, **self.forged), "404")
        self.assertEqual(self.echoed(url, **self.forged), str(nobody))
        self.assertEqual(self.echoed(f"{server.ws}?token={made}", **self.forged), "401")
        self.assertEqual(self.echoed(url, **alice, **self.forged), "hello")

    def test_passwords_of_nginx(self) -> None:
        """The file as it is shipped."""
        users = self.file("desktops.users", "alice:{PLAIN}wonderland\nbob:{PLAIN}builder\n")
        server, site = self.site(("/etc/nginx/desktops.users", str(users)))
        self.check(server, site, ALICE, BOB, 401)
        # This login tells no groups, and nobody else does.
        self.assertEqual(self.names(site, **ALICE, **self.forged), ["Echo"])
        asked = fetch(f"{site}/").headers["WWW-Authenticate"]
        self.assertEqual(asked, 'Basic realm="desktops"')

    def test_oauth2_proxy(self) -> None:
        """With the login that the docs put in its place."""
        gate = self.enterContext(Gate().serving())
        docs = (ROOT / "docs" / "identity.md").read_text()
        login = docs.partition("```nginx\n")[2].partition("```")[0]
        self.assertIn("127.0.0.1:4180", login)
        shipped = (ROOT / "etc" / "nginx-login.conf").read_text()
        between = shipped.partition("    # Login")[2].partition("    # End of the login.")[0]
        change = ("    # Login" + between, login.replace(":4180", f":{gate.port}"))
        server, site = self.site(change)
        alice, bob = {"Cookie": "who=alice"}, {"Cookie": "who=bob"}
        self.check(server, site, alice, bob, 403)
        self.assertEqual(self.names(site, **alice), ["Echo", "Staff"])
        self.assertEqual(fetch(f"{site}/").body, b"please log in")


class KeyServer:
    """The JWKS of an identity provider; None is a fault."""

    def __init__(self) -> None:
        self.answer: str | None = None
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                body = (outer.answer or "").encode()
                self.send_response(200 if outer.answer is not None else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    @contextlib.contextmanager
    def serving(self) -> Iterator[KeyServer]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


class TokenTests(IdentityCase):
    def rules(self) -> list[object]:
        return ["--jwt_audience", AUDIENCE, "--jwt_issuer", ISSUER]

    def status(self, server: Server, given: str) -> int:
        return fetch(f"{server.http}/v1/services", **bearer(given)).status

    def test_files(self) -> None:
        """Tokens of a PEM file and of a secret: RS256 and HS256, and nothing in between."""
        keys = self.file("keys.pem", public_pem(rsa_key()))
        secret = self.file("secret", SECRET + "\n")
        server = self.start(*self.rules(), "--jwt_keys", keys, "--jwt_secret_file", secret)
        for key, algorithm in ((rsa_key(), "RS256"), (SECRET, "HS256")):
            member = bearer(token(key, algorithm, groups=["staff"]))
            self.check_groups(server.http, member, bearer(token(key, algorithm, sub="bob")))
        for given in (
            token(ec_key(), "ES256"),
            token("x" * 64),
            token(exp=int(time.time()) - 60),
            token(aud="other"),
            token(iss="other"),
            token(exp=None),
        ):
            self.assertEqual(self.status(server, given), 401)

    def test_websocket(self) -> None:
        """A proxy that has logged a user in adds their token to websockets as well."""
        keys = self.file("keys.pem", public_pem(rsa_key()))
        server = self.start(*self.rules(), "--jwt_keys", keys, "--bind_user")
        alice, bob = (bearer(token(rsa_key(), "RS256", sub=name)) for name in ("alice", "bob"))
        made = self.reserve(server.http, **alice)
        self.assertEqual(self.echoed(f"{server.ws}?token={made}", **bob), "404")
        self.assertEqual(self.echoed(f"{server.ws}?token={made}"), "401")
        self.assertEqual(self.echoed(f"{server.ws}?token={made}", **alice), "hello")

    def test_jwks_file(self) -> None:
        """Tokens of a JWKS file; keys change with SIGHUP."""
        keys = self.file("keys.json", jwks(jwk(ec_key(), "a")))
        server = self.start(*self.rules(), "--jwt_keys", keys, "--security_token", SESAME)
        old, new = token(ec_key(), "ES256", "a"), token(rsa_key(), "RS256", "b")
        self.assertEqual((self.status(server, old), self.status(server, new)), (200, 401))
        self.assertEqual(self.status(server, SESAME), 200)
        keys.write_text(jwks(jwk(rsa_key(), "b")))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: self.status(server, new) == 200)
        self.assertEqual(self.status(server, old), 401)

    def test_jwks_url(self) -> None:
        """Keys of a URL: there from the start, kept through a fault, changed by the provider."""
        provider = self.enterContext(KeyServer().serving())
        provider.answer = jwks(jwk(ec_key(), "a"))
        server = self.start(*self.rules(), "--jwt_keys", provider.url)
        old, new = token(ec_key(), "ES256", "a"), token(rsa_key(), "RS256", "b")
        self.assertEqual(self.status(server, old), 200)
        # However many unknown keys are named, the provider is not asked again so soon.
        for _ in range(20):
            self.assertEqual(self.status(server, new), 401)
        self.assertEqual(provider.asked, 1)
        provider.answer = None
        server.process.send_signal(signal.SIGHUP)
        until(lambda: provider.asked == 2)
        until(lambda: "the keys stay as they are" in server.log)
        self.assertEqual(self.status(server, old), 200)
        provider.answer = jwks(jwk(rsa_key(), "b"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: self.status(server, new) == 200)
        self.assertEqual(self.status(server, old), 401)

    def test_provider_that_is_down(self) -> None:
        """Without keys it is not the user who is wrong; nobody else waits."""
        provider = self.enterContext(KeyServer().serving())
        server = self.start(*self.rules(), "--jwt_keys", provider.url, "--security_token", SESAME)
        answer = fetch(f"{server.http}/v1/services", **bearer(token(ec_key(), "ES256")))
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "60"))
        self.assertEqual(self.status(server, SESAME), 200)


class BrowserTests(BrowserCase, ProxyCase):
    """A person at the front page: services, Open, End."""

    def setUp(self) -> None:
        BrowserCase.setUp(self)
        ProxyCase.setUp(self)
        demo = {"script": "demo_session.py", "count": 2}
        self.services.write_text(
            json.dumps(
                {
                    "Demo": {**demo, "options": {"group": "staff"}},
                    "Admins": {**demo, "options": {"group": "admins"}},
                }
            )
        )

    def visit(self, page: Page, address: str) -> None:
        """Open the one service there is, and end it by the button."""
        page.goto(address)
        card = page.locator('[data-name="Demo"]')
        card.wait_for()
        self.assertEqual(page.locator("#services > li").count(), 1)
        card.get_by_role("button").click()
        page.wait_for_selector('body[data-state="connected"] #screen canvas', timeout=30_000)
        page.mouse.move(500, 1)
        page.get_by_role("button", name="End", exact=True).click()
        page.wait_for_selector('body[data-state="ended"]')

    def test_password(self) -> None:
        """The browser asks for the password, and sends it with all that follows."""
        server = self.start(*self.passwords(), "--bind_user")
        page = self.browser.new_page(
            http_credentials={"username": "alice", "password": "wonderland"}
        )
        self.visit(page, server.http)
        until(lambda: not server.children())
        # Only the own session stands in the status.
        made = self.reserve(server.http, "Demo", **ALICE)
        page.goto(f"{server.http}/v1/status_view")
        page.wait_for_selector(f'button.release[data-token="{made}"]')
        self.assertIn("alice", page.locator("#rows").inner_text())
        self.check_accessible(page)
        for _ in range(2):
            page.locator("button.release").click()
        page.wait_for_selector("button.release", state="detached")

    def test_no_password(self) -> None:
        """Who cannot log in is told so, once the browser has asked in vain."""
        server = self.start(*self.passwords())
        page = self.browser.new_page(http_credentials={"username": "alice", "password": "wrong"})
        page.goto(server.http)
        page.get_by_text("You are not logged in").wait_for()
        self.assertTrue(page.locator("#access").is_hidden())
        self.check_accessible(page)

    def test_proxy(self) -> None:
        """Behind a proxy that has asked already the page asks nothing."""
        server = self.start(*self.settings(), "--bind_user")
        page = self.page()
        self.visit(page, self.nginx(server, "alice", "staff"))
        until(lambda: not server.children())

    def test_status_with_the_token(self) -> None:
        """The operator's status page, opened with the token, releases what is bound to users."""
        server = self.start(*self.passwords(), "--bind_user", "--security_token", SESAME)
        made = self.reserve(server.http, "Demo", **ALICE)
        page = self.page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{server.http}/v1/status_view?security_token={SESAME}")
        # From then on the token is neither in the address nor in what the page asks for.
        until(lambda: page.wait_for_timeout(50) or sum("status_view" in url for url in asked) > 1)
        self.assertEqual(page.url, f"{server.http}/v1/status_view")
        self.assertEqual([SESAME in url for url in asked].count(True), 1)
        button = page.locator(f'button.release[data-token="{made}"]')
        button.click()
        button.click()
        button.wait_for(state="detached")
        self.assertEqual(fetch(f"{server.http}/v1/release/{made}", **ALICE).status, 404)
