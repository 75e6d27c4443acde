"""The shipped scripts with the real programs."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import alive, until
from wsserver.services.desktop_session import DesktopSession
from wsserver.services.local_session import LocalSession
from wsserver.services.x11vnc_desktop_session import X11VNCDesktopSession


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
        after = set(filter(alive, psutil.Process().children(recursive=True)))
        self.assertEqual(after - before, set())
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

    def test_local(self) -> None:
        """A program that keeps to the interface is started with its port and file."""
        folder = Path(self.mktemp())
        folder.mkdir()
        app = folder / "stand-in"
        app.write_text(
            "#!/usr/bin/env python3\nimport socket, sys\n"
            "listener = socket.create_server(('127.0.0.1', int(sys.argv[2])))\n"
            "while True:\n    peer, _ = listener.accept()\n"
            "    peer.sendall(sys.argv[3].encode())\n    peer.close()\n"
        )
        app.chmod(0o755)
        target = str(app.resolve())
        script = LocalSession("local", 0, {"app": target}, {"target_pathname": target})
        self.addCleanup(script.stop)
        with socket.create_connection(script.start(), timeout=10) as peer:
            self.assertEqual(peer.recv(1000).decode(), target)
