"""Three clients, a proxy in front, the wheel in a clean place, and a foreign reactor."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import (
    ROOT,
    Server,
    certificate,
    chromium,
    connect,
    echo_services,
    fetch,
    folder,
    free_port,
    until,
)

HERE = Path(__file__).parent

IN_BROWSER = """([url, text]) => new Promise((resolve, reject) => {
  const socket = new WebSocket(url, ["binary"]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(new TextEncoder().encode(text));
  socket.onmessage = (event) => {
    socket.onclose = (end) => resolve({
      got: new TextDecoder().decode(event.data), protocol: socket.protocol, code: end.code });
    socket.close(1000);
  };
  socket.onerror = () => reject(new Error("refused"));
})"""


class ClientTests(SynchronousTestCase):
    """Clients that share no code speak to the server, plain and by TLS."""

    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        cert, key = certificate(self.folder)
        services = echo_services(self.folder)
        plain = ("-c", services, "--http_port", 0)
        self.servers = [
            self.enterContext(Server(*plain)),
            self.enterContext(Server(*plain, "--cert", cert, "--key", key)),
        ]
        self.addCleanup(self.check_nothing_left)

    def check_nothing_left(self) -> None:
        for server in self.servers:
            until(lambda server=server: not server.instances())
            self.assertEqual(server.children(), [])

    def test_npm_ws(self) -> None:
        """The ws package of npm."""
        for server in self.servers:
            url = f"{server.ws}?token={server.reserve()}"
            command = ["node", str(HERE / "ws_client.mjs"), url, "hello"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            expected = {"got": "hello", "isBinary": True, "code": 1000, "protocol": "binary"}
            self.assertEqual(json.loads(done.stdout), expected, done.stderr)

    def test_pypi_websockets(self) -> None:
        """The websockets package of PyPI, with and without the subprotocol."""
        for server in self.servers:
            for offered in (None, ["binary"], ["other", "binary"]):
                url = f"{server.ws}?token={server.reserve()}"
                with connect(url, subprotocols=offered) as browser:
                    browser.send(b"hello")
                    self.assertEqual(browser.recv(), b"hello")
                    self.assertEqual(browser.subprotocol, "binary" if offered else None)
                until(lambda server=server: not server.instances())

    def test_chromium(self) -> None:
        """The WebSocket of a browser."""
        with sync_playwright() as playwright, chromium(playwright) as browser:
            for server in self.servers:
                page = browser.new_page(ignore_https_errors=True)
                page.goto(server.http + "/v1/services")
                url = f"{server.ws}?token={server.reserve()}"
                got = page.evaluate(IN_BROWSER, [url, "hello"])
                self.assertEqual(got, {"got": "hello", "protocol": "binary", "code": 1000})


class ProxyTests(SynchronousTestCase):
    def test_nginx(self) -> None:
        """nginx as in etc/nginx.conf: TLS outside, websocket and REST by their paths."""
        path = self.enterContext(folder())
        cert, key = certificate(path)
        server = self.enterContext(
            Server(
                *("-c", echo_services(path), "--interface", "127.0.0.1", "--http_port", 0),
                *("--trusted_proxies", "127.0.0.1", "--allowed_hosts", "desktops.example.org"),
            )
        )
        port = free_port()
        site = (ROOT / "etc" / "nginx.conf").read_text()
        for old, new in (
            ("listen 443", f"listen 127.0.0.1:{port}"),
            ("127.0.0.1:9090", f"127.0.0.1:{server.http_port}"),
            ("/etc/ssl/certs/desktops.pem", str(cert)),
            ("/etc/ssl/private/desktops.key", str(key)),
        ):
            self.assertIn(old, site)
            site = site.replace(old, new)
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{name}_temp_path {path}/{name};\n" for name in names)
        conf = path / "nginx.conf"
        conf.write_text(
            f"daemon off; pid {path}/pid; error_log {path}/error.log; events {{}}\n"
            f"http {{ access_log off; {temporary} {site} }}\n"
        )
        nginx = subprocess.Popen(["nginx", "-e", str(path / "error.log"), "-c", str(conf)])
        self.addCleanup(nginx.wait)
        self.addCleanup(nginx.terminate)
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        made = fetch(f"https://localhost:{port}/v1/reserve/Echo").json()
        # Behind a proxy the page must come back to the proxy.
        self.assertIsNone(made["websocket_port"])
        url = f"wss://127.0.0.1:{port}/websockify?token={made['token']}"
        where = ("127.0.0.9", 0)
        with connect(url, subprotocols=["binary"], local_addr=where) as browser:
            browser.send(b"through nginx")
            self.assertEqual(browser.recv(), b"through nginx")
            self.assertEqual([i["client"] for i in server.instances()], ["127.0.0.9"])
        until(lambda: not server.instances())
        for host, status in (("desktops.example.org", 200), ("evil.example", 421)):
            answer = fetch(f"https://localhost:{port}/", Host=host)
            self.assertEqual(
                (answer.status, b"Open a session" in answer.body), (status, status == 200)
            )


class WheelTests(SynchronousTestCase):
    def test_clean_install(self) -> None:
        """The wheel alone brings the plugin, the pages, noVNC, the demo and the schema."""
        path = self.enterContext(folder())
        (wheel,) = (ROOT / "build" / "wheel").glob("*.whl")
        subprocess.run([sys.executable, "-m", "venv", str(path / "venv")], check=True)
        bin_ = path / "venv" / "bin"
        subprocess.run([str(bin_ / "pip"), "install", "-q", str(wheel)], check=True)
        twistd = str(bin_ / "twistd")
        done = subprocess.run(
            [twistd, "wsserver", "--help"], capture_output=True, text=True, cwd=path
        )
        self.assertIn("--remote_session_config", done.stdout, done.stderr)
        with Server("--http_port", 0, twistd=twistd) as server:
            self.assertEqual([s["name"] for s in server.get("/v1/services").json()], ["Demo"])
            for name in (
                "style.css",
                "viewer.js",
                "novnc/core/rfb.js",
                "novnc/vendor/pako/lib/zlib/inflate.js",
            ):
                self.assertEqual(server.get(f"/wsserver/{name}").status, 200, name)
            token = server.reserve("Demo")
            with connect(f"{server.ws}?token={token}") as browser:
                self.assertEqual(browser.recv(), b"RFB 003.008\n")
            until(lambda: not server.instances("Demo"))


class EmbeddingTests(SynchronousTestCase):
    def test_beside_another_service(self) -> None:
        """The example of the README: both services work, and wsserver stops alone."""
        http_port, other_port = free_port(), free_port()
        command = [sys.executable, str(ROOT / "examples" / "embed.py")]
        host = subprocess.Popen(
            [*command, str(http_port), str(other_port)], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(host.wait)
        self.addCleanup(host.terminate)
        self.addCleanup(host.stdout.close)
        self.assertIn("http://", host.stdout.readline())
        base = f"http://127.0.0.1:{http_port}"
        token = fetch(f"{base}/v1/reserve/Demo").json()["token"]
        with connect(f"ws://127.0.0.1:{http_port}/?token={token}") as browser:
            self.assertTrue(re.match(rb"RFB 003\.", browser.recv()))
            with socket.create_connection(("127.0.0.1", other_port)) as other:
                other.settimeout(20)
                other.sendall(b"hello")
                self.assertEqual(other.recv(10), b"HELLO")
                other.sendall(b"stop")
                self.assertEqual(other.recv(10), b"STOPPED\n")
                other.sendall(b"still here")
                self.assertEqual(other.recv(20), b"STILL HERE")
        refused = socket.socket()
        self.addCleanup(refused.close)
        self.assertNotEqual(refused.connect_ex(("127.0.0.1", http_port)), 0)
