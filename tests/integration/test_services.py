"""The shipped scripts with the real programs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import connect

from tests.integration.parts import ROOT, Server, alive, folder, free_port, supervises, until
from wsserver.services.desktop_session import DesktopSession
from wsserver.services.local_session import LocalSession
from wsserver.services.x11vnc_desktop_session import X11VNCDesktopSession

#: A program that keeps to the interface of local_session.py.
STAND_IN = """#!/usr/bin/env python3
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("-port") + 1])))
while True:
    peer, _ = listener.accept()
    peer.sendall(sys.argv[3].encode())
    peer.close()
"""

LEAKY = """
import pathlib, subprocess, sys, tempfile
from wsserver import RemoteServiceScript

SERVER = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))"

class Leaky(RemoteServiceScript):
    def start(self):
        port = self.free_port()
        program = [sys.executable, "-c", SERVER + "; time.sleep(99)", str(port)]
        subprocess.Popen(program, start_new_session=True)
        pathlib.Path(tempfile.gettempdir(), "forgotten.txt").touch()
        return self.wait_for_port(port)
"""


def banner(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as peer:
        return peer.recv(12)


def security_types(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as peer:
        peer.sendall(peer.recv(12))
        return peer.recv(16)[1:]


class DesktopTests(SynchronousTestCase):
    def start(self, kind: type, index: int = 0, **common: Any) -> Any:
        script = kind("Test", index, common, {})
        self.addCleanup(script.family.close, 0)
        self.addCleanup(script.stop)
        script.said = []
        script.on_progress = script.said.append
        script.address = script.start()
        return script

    def test_side_by_side(self) -> None:
        """Two desktops run at one time, and leave nothing behind."""
        before = set(psutil.Process().children(recursive=True))
        scripts = [self.start(DesktopSession, index, display_base=110) for index in (0, 1)]
        self.assertNotEqual(scripts[0].address, scripts[1].address)
        for script in scripts:
            self.assertEqual(banner(script.address), b"RFB 003.008\n")
        displays = [script.display for script in scripts]
        for script in scripts:
            script.stop()
        after = set(filter(alive, psutil.Process().children(recursive=True))) - before
        self.assertEqual([child for child in after if not supervises(child)], [])
        for display in displays:
            self.assertFalse(Path(f"/tmp/.X{display}-lock").exists())

    def test_taken_display(self) -> None:
        """A display that another X server has is skipped."""
        taken = subprocess.Popen(["Xvfb", ":120", "-nolisten", "tcp"], stderr=subprocess.DEVNULL)
        self.addCleanup(taken.wait)
        self.addCleanup(taken.terminate)
        until(lambda: Path("/tmp/.X120-lock").exists())
        script = self.start(DesktopSession, display_base=120)
        self.assertEqual(script.address, ("127.0.0.1", 6021))
        self.assertIn("display :120 is taken, trying :121", script.said)

    def test_password(self) -> None:
        """With a password Xvnc asks for it, and for nothing weaker."""
        script = self.start(DesktopSession, display_base=130, password="secret")
        self.assertEqual(security_types(script.address), b"\2")

    def test_x11vnc(self) -> None:
        """x11vnc shares a virtual screen that it starts."""
        script = self.start(X11VNCDesktopSession, display_base=140, xvfb=True)
        self.assertEqual(banner(script.address)[:4], b"RFB ")

    def test_one_time_password(self) -> None:
        """A random password is told to the holder of the token, and to nobody else."""
        script = DesktopSession("Test", 0, {"display_base": 150, "password": True}, {})
        self.addCleanup(script.stop)
        shared: list[Any] = []
        script.on_share = shared.append
        address = script.start()
        self.assertEqual(security_types(address), b"\2")
        self.assertEqual(len(shared[0]["password"]), 8)

    def test_local(self) -> None:
        """A program that keeps to the interface is started with its port and file."""
        folder = Path(self.mktemp())
        folder.mkdir()
        app = folder / "stand-in"
        app.write_text(STAND_IN)
        app.chmod(0o755)
        target = str(app.resolve())
        script = LocalSession("local", 0, {"app": target}, {"target_pathname": target})
        self.addCleanup(script.stop)
        with socket.create_connection(script.start(), timeout=10) as peer:
            self.assertEqual(peer.recv(1000).decode(), target)


class CommandTests(SynchronousTestCase):
    """The services of etc/commands.json."""

    def setUp(self) -> None:
        file = ROOT / "etc" / "commands.json"
        self.server = self.enterContext(Server("-c", file, "--http_port", 0))

    def open(self, token: str) -> Any:
        peer = connect(f"{self.server.ws}?token={token}")
        self.addCleanup(peer.close)
        return peer

    def test_echo(self) -> None:
        """A plain echo by socat."""
        peer = self.open(self.server.reserve("Echo"))
        peer.send(b"hello")
        self.assertEqual(peer.recv(timeout=10), b"hello")
        peer.close()
        until(lambda: not self.server.children())

    def test_http(self) -> None:
        """A tool that speaks HTTP, one websocket for each of its connections."""
        name = "Files over HTTP"
        (ROOT / "build").mkdir(exist_ok=True)
        token = self.server.reserve(name, f"folder={ROOT / 'etc'}")
        first = self.open(token)
        for _ in range(2):
            peer = self.open(token)
            peer.send(b"GET /nginx.conf HTTP/1.0\r\n\r\n")
            body = b"".join(peer)
            self.assertIn(b"HTTP/1.0 200 OK", body)
            self.assertTrue(body.endswith((ROOT / "etc" / "nginx.conf").read_bytes()))
        self.assertEqual(len(self.server.instances(name)), 1)
        first.close()
        until(lambda: not self.server.instances(name))

    def test_options(self) -> None:
        """A value that the service file does not allow is refused in words, before all else."""
        answer = self.server.get("/v1/reserve/Files%20over%20HTTP?folder=~root")
        self.assertEqual((answer.status, answer.json()["error"]), (400, "BadRequest"))
        self.assertIn("folder must be of the form", answer.json()["message"])
        answer = self.server.get("/v1/reserve/Echo?command=rm")
        self.assertIn("command is no option of this service", answer.json()["message"])

    def test_password(self) -> None:
        """Xvnc by a command alone, with a password and a size."""
        peer = self.open(self.server.reserve("Bare Xvnc", "session_size=1600x900"))
        self.assertEqual(peer.recv(timeout=20), b"RFB 003.008\n")
        peer.send(b"RFB 003.008\n")
        self.assertEqual(peer.recv(timeout=10), b"\1\2")
        (xvnc,) = self.server.children()
        self.assertIn("1600x900", xvnc.cmdline())


class LocalSessionTests(SynchronousTestCase):
    def test_by_name(self) -> None:
        """--local_session offers the programs that are there, and names those that are not."""
        home = self.enterContext(folder())
        app = home / "ensight"
        app.write_text(STAND_IN)
        app.chmod(0o755)
        server = self.enterContext(
            Server(
                "--http_port", 0, "--local_session", "ensight", 2, "--local_session", "envision", 1,
                env={"PATH": f"{home}:{os.environ['PATH']}"},
            )
        )  # fmt: skip
        services = {service["name"]: service for service in server.get("/v1/services").json()}
        self.assertEqual(services["local_ensight"]["count"], 2)
        self.assertTrue(services["local_ensight"]["available"])
        self.assertEqual(services["local_envision"]["reason"], "envision is not on the PATH")
        until(lambda: "local_envision is unavailable" in server.log)
        self.assertEqual(server.get("/v1/reserve/local_envision").status, 503)
        token = server.reserve("local_ensight", f"target_pathname={app}")
        with connect(f"{server.ws}?token={token}") as peer:
            self.assertEqual(peer.recv(timeout=20), str(app).encode())
        until(lambda: not server.children())


class TryTests(SynchronousTestCase):
    def test_shipped(self) -> None:
        """Every service of the example files leaves nothing behind."""
        for file, names in (
            ("services.json", ["Demo", "Desktop Session?session_size=1024x768"]),
            ("services.json", ["Cluster Node Session"]),
            ("commands.json", ["Echo", "Files over HTTP", "Bare Xvnc"]),
        ):
            for name in names:
                done = twistd("-c", ROOT / "etc" / file, "--try", name)
                self.assertEqual(done.returncode, 0, done.stdout)
                self.assertIn("start has returned", done.stdout)
                self.assertIn("all is well", done.stdout)

    def test_guide(self) -> None:
        """The guide shows the very files of its example, and they do what it says."""
        example = ROOT / "examples" / "first"
        guide = textwrap.dedent((ROOT / "docs" / "scripts.md").read_text())
        plain = "\n".join(line.removeprefix("   ") for line in guide.splitlines())
        for name in ("one_program.py", "services.json"):
            self.assertIn((example / name).read_text(), plain)
        self.assertIn(
            "One program x2: ok", twistd("-c", example / "services.json", "--check").stdout
        )
        done = twistd("-c", example / "services.json", "--try", "One program?program=top")
        self.assertEqual(done.returncode, 0, done.stdout)
        steps = [line.partition(" s  ")[2] for line in done.stdout.splitlines()[1:-1]]
        for step in steps:
            self.assertIn(step, guide)

    def test_left_behind(self) -> None:
        """A script that leaves a process, a port and a file is found out."""
        home = self.enterContext(folder())
        (home / "leaky.py").write_text(LEAKY)
        file = home / "services.json"
        entry = {"script": "leaky.py", "count": 1, "options": {}}
        file.write_text(json.dumps({"Leaky": entry}))
        done = twistd("-c", file, "--try", "Leaky")
        self.assertEqual(done.returncode, 1)
        for trace in ("still accepts after stop", "is left; killed now", "forgotten.txt is left"):
            self.assertIn(trace, done.stdout)

    def test_unreachable_host(self) -> None:
        """Each step up to the one that fails is told, and why."""
        home = self.enterContext(folder())
        file = home / "services.json"
        options = {"host": "127.0.0.1", "ssh": {"port": free_port()}}
        entry = {"script": "x11vnc_desktop_session.py", "count": 1, "options": options}
        file.write_text(json.dumps({"Far": entry}))
        done = twistd("-c", file, "--try", "Far")
        self.assertEqual(done.returncode, 1)
        self.assertIn("progress: connecting to 127.0.0.1", done.stdout)
        self.assertIn("127.0.0.1 cannot be reached by ssh", done.stdout)
        self.assertIn("Connection refused", done.stdout)


def twistd(*args: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("twistd")
    argv = [str(program), "-n", "--pidfile=", "wsserver", *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
