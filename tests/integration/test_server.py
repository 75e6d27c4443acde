"""The server as its operator runs it: command line, ports, TLS, files, stop."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.parts import (
    Server,
    alive,
    certificate,
    connect,
    echo_services,
    fetch,
    folder,
    free_port,
    until,
)


async def echoed(url: str, data: bytes) -> bytes:
    """Send and receive at the same time; the blocking client holds a lock while it sends."""
    async with connect_async(url, max_size=None) as browser:
        await browser.send(b"?")
        await browser.recv()

        async def send() -> None:
            for start in range(0, len(data), 100_000):
                await browser.send(data[start : start + 100_000])

        sending = asyncio.create_task(send())
        got = bytearray()
        while len(got) < len(data):
            got += await asyncio.wait_for(browser.recv(), 20)
        await sending
        return bytes(got)


def run(*args: object) -> subprocess.CompletedProcess[str]:
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [twistd, "-n", "--pidfile=", "wsserver", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class MainJobTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        self.services = echo_services(self.folder)

    def test_reload(self) -> None:
        """SIGHUP brings what the files say now; mistakes in them, and live sessions, stay."""
        with Server("-c", self.services, "--http_port", 0) as server:
            token = server.reserve()
            with connect(f"{server.ws}?token={token}") as browser:
                text = self.services.read_text()
                for count, wrong in enumerate(("{", text.replace("echo_session", "none")), 1):
                    self.services.write_text(wrong)
                    server.process.send_signal(signal.SIGHUP)
                    until(lambda count=count: server.log.count("not reloaded") == count)
                self.services.write_text(text.replace('"Echo"', '"New"'))
                server.process.send_signal(signal.SIGHUP)
                until(lambda: "reloaded: offers New" in server.log)
                self.assertEqual([s["name"] for s in server.get("/v1/services").json()], ["New"])
                browser.send(b"hello")
                self.assertEqual(browser.recv(), b"hello")

    def test_reserve_launch_tunnel_stop(self) -> None:
        """The whole life of a session over one port, as documented."""
        with Server("-c", self.services, "--http_port", 0) as server:
            token = server.reserve(query="colour=red")
            self.assertEqual(server.instances()[0]["options"], {"colour": "red"})
            self.assertEqual(server.instances()[0]["state"], "reserved")
            with connect(f"{server.ws}?token={token}&session_name=x") as browser:
                browser.send(b"hello")
                self.assertEqual(browser.recv(), b"hello")
                self.assertEqual(server.instances()[0]["state"], "open")
                self.assertEqual(len(server.children()), 1)
            until(lambda: not server.instances())
            self.assertEqual(server.children(), [])
            answer = fetch(f"{server.http}/v1/release/{token}")
            self.assertEqual(answer.status, 404)

    def test_many_bytes_come_back_in_order(self) -> None:
        """20 MB through a service that echoes come back as they were."""
        with Server("-c", self.services, "--http_port", 0) as server:
            data = bytes(range(256)) * 4096 * 20
            url = f"{server.ws}?token={server.reserve()}"
            self.assertEqual(asyncio.run(echoed(url, data)), data)

    def test_two_ports(self) -> None:
        """The websocket port may stand first, and then the HTTP port carries none."""
        with Server(free_port(), "-c", self.services, "--http_port", 0) as server:
            self.assertNotEqual(server.ws_port, server.http_port)
            made = server.get("/v1/reserve/Echo").json()
            self.assertEqual(made["websocket_port"], server.ws_port)
            with connect(f"{server.ws}?token={made['token']}") as browser:
                browser.send(b"two")
                self.assertEqual(browser.recv(), b"two")
            with self.assertRaises(InvalidStatus):
                connect(f"ws://localhost:{server.http_port}/?token=x")

    def test_port_last_and_none(self) -> None:
        """-1 is no websocket port of its own, also as the last word after headers."""
        args = ("-c", self.services, "--http_port", 0, "--add_header", "X-One=1", "X-Two=2", -1)
        with Server(*args) as server:
            self.assertEqual(server.ws_port, server.http_port)
            headers = server.get("/v1/services").headers
            self.assertEqual((headers["X-One"], headers["X-Two"]), ("1", "2"))
            with connect(f"{server.ws}?token={server.reserve()}") as browser:
                browser.send(b"one")
                self.assertEqual(browser.recv(), b"one")

    def test_tls(self) -> None:
        """With --cert and --key both https and wss are served, on one port and on two."""
        cert, key = certificate(self.folder)
        for ports in ([], [free_port()]):
            args = ["-c", self.services, "--http_port", 0, "--cert", cert, "--key", key, *ports]
            with Server(*args) as server:
                self.assertTrue(server.http.startswith("https://"))
                url = f"{server.ws}?token={server.reserve()}"
                with connect(url, max_size=None) as browser:
                    browser.send(b"?")
                    self.assertEqual(browser.recv(), b"?")
                    browser.send(b"secret" * 100_000)
                    got = b""
                    while len(got) < 600_000:
                        got += browser.recv()
                self.assertEqual(got, b"secret" * 100_000)
                until(lambda server=server: not server.instances())

    def test_basic_mode(self) -> None:
        """Without a token everybody goes to one fixed host and port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            args = ("--http_port", 0, "--client_port", port)
            with Server(*args) as server, connect(server.ws, subprotocols=["binary"]) as browser:
                peer, _ = listener.accept()
                self.assertEqual(browser.subprotocol, "binary")
                peer.sendall(b"RFB 003.008\n")
                self.assertEqual(browser.recv(), b"RFB 003.008\n")
                browser.send(b"up")
                self.assertEqual(peer.recv(10), b"up")
                peer.close()
                with self.assertRaises(ConnectionClosed):
                    browser.recv()
                self.assertEqual(browser.close_code, 1000)

    def test_security_token(self) -> None:
        """REST needs the secret; a release needs the reservation's token alone."""
        variable = {"WEBSOCKETSERVER_SECURITY_TOKEN": "sesame"}
        with Server("-v", "-v", "-c", self.services, "--http_port", 0, env=variable) as server:
            self.assertEqual(server.get("/v1/status").status, 401)
            made = server.get("/v1/reserve/Echo?security_token=sesame").json()
            live = server.get("/v1/status", Authorization="Bearer sesame").json()[0]["instances"]
            self.assertEqual(live[0]["options"], {})
            with connect(f"{server.ws}?token={made['token']}") as browser:
                browser.send(b"x")
                browser.recv()
            self.assertEqual(server.get(f"/v1/release/{made['token']}").status, 200)
            server.stop()
            self.assertNotIn("sesame", server.log)
            self.assertNotIn(made["token"], server.log)

    def test_files_and_log(self) -> None:
        """A directory is served as it is; requests are logged into the log file."""
        (self.folder / "www").mkdir()
        (self.folder / "www" / "a.js").write_text("1")
        (self.folder / "settings.toml").write_text(
            f"http_directory = '{self.folder}/www'\nverbose = 1\nhttp_port = 1\n"
            f"log_file = '{self.folder}/log'\nremote_session_config = '{self.services}'\n"
        )
        port = free_port()
        args = ["--settings", self.folder / "settings.toml", "--http-port", port]
        process = Server(*args).process
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        log = self.folder / "log"
        until(lambda: log.exists() and "listens on" in log.read_text())
        answer = fetch(f"http://localhost:{port}/a.js?session_name=1")
        self.assertEqual(answer.headers["Content-Type"], "text/javascript")
        self.assertIn(b"a.js", fetch(f"http://localhost:{port}/").body)
        until(lambda: "GET /a.js" in log.read_text())


class FaultTests(SynchronousTestCase):
    """Bad input over the real thing."""

    def setUp(self) -> None:
        self.folder = self.enterContext(folder())

    def serve(self, script: str, **more: object) -> Server:
        (self.folder / "bad.py").write_text(
            "import socket, time\nfrom wsserver import RemoteServiceScript, ServiceFailed\n"
            f"class Bad(RemoteServiceScript):\n    def start(self):\n        {script}\n"
        )
        file = self.folder / "services.json"
        file.write_text(
            json.dumps({"Bad": {"script": "bad.py", "count": 1, "options": {}, **more}})
        )
        return self.enterContext(Server("-c", file, "--http_port", 0))

    def close_of(self, server: Server) -> tuple[int | None, str | None]:
        with connect(f"{server.ws}?token={server.reserve('Bad')}") as browser:
            with self.assertRaises(ConnectionClosed):
                browser.recv(timeout=30)
            until(lambda: not server.instances("Bad"))
            return browser.close_code, browser.close_reason

    def test_start_raises(self) -> None:
        """The user learns no details; the log has them; the slot is free."""
        server = self.serve("raise ZeroDivisionError('inner detail')")
        self.assertEqual(self.close_of(server), (4500, "the service could not be started"))
        server.stop()
        self.assertIn("inner detail", server.log)

    def test_start_explains(self) -> None:
        """What a script says to the user reaches the user."""
        server = self.serve("raise ServiceFailed('no licence is free')")
        self.assertEqual(self.close_of(server), (4500, "no licence is free"))

    def test_start_hangs(self) -> None:
        """A start that never ends is given up."""
        server = self.serve("self.cancelled.wait(60)", start_timeout=0.5)
        self.assertEqual(self.close_of(server)[0], 4504)

    def test_nonsense(self) -> None:
        """A reply that is no address fails cleanly."""
        server = self.serve("return 'localhost'")
        self.assertEqual(self.close_of(server)[0], 4500)

    def test_nobody_listens(self) -> None:
        """A port that nobody listens on is tried until connect_timeout."""
        server = self.serve(f"return '127.0.0.1', {free_port()}", connect_timeout=1)
        self.assertEqual(self.close_of(server), (4502, "the service does not answer"))

    def test_late_listener(self) -> None:
        """A service that listens late is met all the same, and heard at once."""
        port = free_port()
        server = self.serve(f"return '127.0.0.1', {port}")
        with connect(f"{server.ws}?token={server.reserve('Bad')}") as browser:
            until(lambda: server.instances("Bad")[0]["state"] == "starting")
            with socket.create_server(("127.0.0.1", port)) as listener:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b"late")
                    self.assertEqual(browser.recv(), b"late")

    def test_client_gone_while_starting(self) -> None:
        """A browser that leaves while the script is starting costs no slot."""
        server = self.serve("self.cancelled.wait(60)")
        with connect(f"{server.ws}?token={server.reserve('Bad')}"):
            until(lambda: server.instances("Bad")[0]["state"] == "starting")
        until(lambda: not server.instances("Bad"))

    def test_release_while_starting(self) -> None:
        """A release during the start closes the websocket in good order."""
        server = self.serve("self.cancelled.wait(60)")
        token = server.reserve("Bad")
        with connect(f"{server.ws}?token={token}") as browser:
            until(lambda: server.instances("Bad")[0]["state"] == "starting")
            self.assertEqual(server.get(f"/v1/release/{token}").status, 200)
            with self.assertRaises(ConnectionClosed):
                browser.recv(timeout=20)
            self.assertEqual(browser.close_code, 1000)
        until(lambda: not server.instances("Bad"))

    def test_refusals(self) -> None:
        """Unknown, absent, used and expired tokens and a full service are told apart."""
        server = self.serve("self.cancelled.wait(60)")
        for query, status in (("?token=unknown", 404), ("", 400), ("?token=", 404)):
            with self.assertRaises(InvalidStatus) as caught:
                connect(server.ws + query)
            self.assertEqual(caught.exception.response.status_code, status, query)
        token = server.reserve("Bad")
        full = server.get("/v1/reserve/Bad")
        self.assertEqual(full.status, 503)
        self.assertTrue(1 <= int(full.headers["Retry-After"]) <= 300)
        self.assertIn("in use", full.reason)
        with connect(f"{server.ws}?token={token}"):
            with self.assertRaises(InvalidStatus) as caught:
                connect(f"{server.ws}?token={token}")
            self.assertEqual(caught.exception.response.status_code, 409)
        until(lambda: not server.instances("Bad"))
        with self.assertRaises(InvalidStatus) as caught:
            connect(f"{server.ws}?token={token}")
        self.assertEqual(caught.exception.response.status_code, 404)

    def test_text_frames(self) -> None:
        """Text is no byte stream: 1003."""
        server = self.serve("self.cancelled.wait(60)")
        with connect(f"{server.ws}?token={server.reserve('Bad')}") as browser:
            browser.send("text")
            with self.assertRaises(ConnectionClosed):
                browser.recv(timeout=20)
            self.assertEqual(browser.close_code, 1003)
        until(lambda: not server.instances("Bad"))

    def test_expiry(self) -> None:
        """A reservation that nobody uses comes back."""
        services = echo_services(self.folder, count=1)
        with Server("-c", services, "--http_port", 0, "--timeout", 1) as server:
            token = server.reserve()
            until(lambda: not server.instances())
            with self.assertRaises(InvalidStatus) as caught:
                connect(f"{server.ws}?token={token}")
            self.assertEqual(caught.exception.response.status_code, 404)


class StopTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        self.services = echo_services(self.folder)

    def check_stop(self, stop: str) -> None:
        mark = self.folder / f"stopped-{stop}"
        with Server("-c", self.services, "--http_port", 0) as server:
            token = server.reserve(query=f"mark={mark}")
            with connect(f"{server.ws}?token={token}") as browser:
                browser.send(b"x")
                browser.recv()
                children = server.children()
                if stop == "rest":
                    self.assertEqual(server.get("/v1/stop").json(), {"stopping": True})
                else:
                    server.process.send_signal(getattr(signal, stop))
                with self.assertRaises(ConnectionClosed):
                    browser.recv(timeout=20)
                self.assertEqual(browser.close_code, 1001)
            server.ended()
            self.assertTrue(mark.exists())
            self.assertEqual([child for child in children if alive(child)], [])
            self.assertNotIn("Traceback", server.log)
            self.assertNotIn("Unhandled", server.log)
            self.assertIn(server.process.returncode, (0, -signal.SIGINT, -signal.SIGTERM))

    def test_sigterm(self) -> None:
        """SIGTERM: clients get 1001, stop runs, nothing is left, no traceback."""
        self.check_stop("SIGTERM")

    def test_sigint(self) -> None:
        """The same by Ctrl-C."""
        self.check_stop("SIGINT")

    def test_rest_stop(self) -> None:
        """The same by /v1/stop, which answers first."""
        self.check_stop("rest")

    def test_deadline(self) -> None:
        """A stop that hangs does not keep the server."""
        (self.folder / "hang.py").write_text(
            "import time\nfrom wsserver import RemoteServiceScript\n"
            "class Hang(RemoteServiceScript):\n"
            "    def start(self): time.sleep(600)\n    def stop(self): time.sleep(600)\n"
        )
        file = self.folder / "hang.json"
        file.write_text('{"Hang": {"script": "hang.py", "count": 1, "options": {}}}')
        with Server("-c", file, "--http_port", 0, "--shutdown_timeout", 1) as server:
            with connect(f"{server.ws}?token={server.reserve('Hang')}"):
                until(lambda: server.instances("Hang")[0]["state"] == "starting")
                server.process.terminate()
                server.ended(15)
            self.assertIn("not stopped in time: Hang 0", server.log)


class CommandLineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())

    def test_check_reports_everything(self) -> None:
        """--check prints every problem with its JSON path, and exits with 1."""
        file = self.folder / "services.json"
        file.write_text('{"A b": {"script": "x.py", "count": 0, "size": 1}, "C": []}')
        done = run("--check", "-c", file)
        self.assertEqual(done.returncode, 1)
        for part in ('$["A b"].count', '$["A b"].options', '$["A b"].size', "$.C"):
            self.assertIn(part, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        file.write_text('{"A": {"script": "nowhere.py", "count": 1, "options": {}}}')
        done = run("--check", "-c", file)
        self.assertEqual(done.returncode, 1)
        self.assertIn("$.A.script: nowhere.py stands neither in", done.stderr)

    def test_check_of_the_examples(self) -> None:
        """The shipped example is sound."""
        done = run("--check", "-c", Path(__file__).parents[2] / "etc" / "services.json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("no problems found", done.stdout)

    def test_broken_file_does_not_start(self) -> None:
        """A broken file ends the start with its problems, not with a traceback."""
        file = self.folder / "services.json"
        file.write_text("{")
        done = run("-c", file)
        self.assertEqual(done.returncode, 1)
        self.assertIn("line 1", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_in_the_background(self) -> None:
        """In the background, too, a taken port is told, with exit status 1, and nothing is left."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        with folder() as path, socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            command = [twistd, "wsserver", "--http_port", port]
            done = subprocess.run(command, cwd=path, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("Couldn't listen on", done.stdout + done.stderr)
            self.assertIn("Couldn't listen on", (path / "twistd.log").read_text())
            self.assertFalse((path / "twistd.pid").exists())

    def test_port_in_use(self) -> None:
        """A taken port is one clear line."""
        with socket.create_server(("0.0.0.0", 0)) as taken:
            done = run("--http_port", taken.getsockname()[1])
        self.assertEqual(done.returncode, 1)
        self.assertIn("Couldn't listen on", done.stdout)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
