"""Displays of another host: a real sshd on the loopback address, Xvfb and x11vnc behind it."""

from __future__ import annotations

import contextlib
import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.parts import Server, alive, folder, until
from tests.integration.sshd import sshd

NAME = "Remote"


def folders() -> set[Path]:
    """Return the folders that sessions keep on the host."""
    return set(Path("/tmp").glob("wsserver-????????????????????????"))


class RemoteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.sshd = self.enterContext(sshd())
        self.folder = self.enterContext(folder())
        self.before = folders()

    def serve(self, ssh: dict[str, Any] | None = None, **options: Any) -> Server:
        """Start a server that offers the display of the host."""
        options = {"host": "127.0.0.1", "ssh": self.sshd.options(**(ssh or {})), **options}
        entry = {"script": "x11vnc_desktop_session.py", "count": 2, "options": options}
        file = self.folder / "services.json"
        file.write_text(json.dumps({NAME: entry}))
        return self.enterContext(Server("-c", file, "--http_port", 0))

    def screen(self, **options: Any) -> Server:
        """Start a server that offers virtual screens of the host."""
        return self.serve(xvfb=True, display_base=160, sizes=["800x600"], **options)

    def open(self, server: Server) -> ClientConnection:
        """Open a session, up to the first words of its VNC server."""
        peer = connect(f"{server.ws}?token={server.reserve(NAME)}", open_timeout=20)
        self.addCleanup(peer.close)
        self.assertEqual(peer.recv(timeout=30), b"RFB 003.008\n")
        peer.send(b"RFB 003.008\n")
        self.assertEqual(peer.recv(timeout=10), b"\1\1")
        return peer

    def closed(self, peer: ClientConnection) -> tuple[int, str]:
        """Return code and reason of the end of a websocket."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                peer.recv(timeout=30)
        return peer.close_code or 0, peer.close_reason or ""

    def there(self) -> list[psutil.Process]:
        """Return what runs on the host for its clients."""
        return list(filter(alive, psutil.Process(self.sshd.process.pid).children(recursive=True)))

    def named(self, name: str) -> psutil.Process:
        return next(process for process in self.there() if process.name() == name)

    def check_clean(self, server: Server) -> None:
        """Nothing is left on either side, and the slot is free."""
        until(lambda: not server.instances(NAME))
        until(lambda: not self.there())
        self.assertEqual(server.children(), [])
        # What has lost its parent ends a little later.
        until(lambda: not folders() - self.before)

    def test_session(self) -> None:
        """A virtual screen of the host is shared, with its programs, until the browser leaves."""
        server = self.screen()
        peer = self.open(server)
        names = {process.name() for process in self.there()}
        self.assertLessEqual({"Xvfb", "x11vnc"}, names)
        # Users of the host find no port to connect to.
        ports = [c.laddr for c in self.named("x11vnc").net_connections("tcp")]
        self.assertEqual([port for port in ports if port], [])
        (instance,) = server.instances(NAME)
        self.assertEqual(
            instance["steps"][:2], ["connecting to 127.0.0.1", "starting Xvfb on :160"]
        )
        peer.close()
        self.check_clean(server)

    def test_connection_killed(self) -> None:
        """Where the connection to the host is cut, both sides end the session."""
        server = self.screen()
        peer = self.open(server)
        for connection in self.sshd.connections():
            connection.kill()
        self.assertIn(self.closed(peer)[0], (1000, 4502))
        # Those processes have no parent any more.
        until(lambda: not [p for p in psutil.process_iter(["name"]) if self.of_screen(p)])
        self.check_clean(server)

    def of_screen(self, process: psutil.Process) -> bool:
        try:
            return alive(process) and ":160" in process.cmdline()
        except psutil.NoSuchProcess:
            return False

    def test_ssh_killed(self) -> None:
        """The same where it is our own ssh that dies."""
        server = self.screen()
        peer = self.open(server)
        (ssh,) = (child for child in server.children() if child.name() == "ssh")
        ssh.kill()
        self.assertIn(self.closed(peer)[0], (1000, 4502))
        self.check_clean(server)

    def test_x11vnc_killed(self) -> None:
        """Where x11vnc dies, its screen goes as well, and the browser is told."""
        server = self.screen()
        peer = self.open(server)
        self.named("x11vnc").kill()
        self.assertIn(self.closed(peer)[0], (1000, 4502))
        self.check_clean(server)

    def test_host_vanishes(self) -> None:
        """A host that answers no more is given up."""
        quick = ["ServerAliveInterval=1", "ServerAliveCountMax=2"]
        server = self.screen(ssh={"options": quick})
        peer = self.open(server)
        stopped = self.there()
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        self.assertIn(self.closed(peer)[0], (1000, 4502))
        until(lambda: not server.instances(NAME))
        self.assertEqual(server.children(), [])
        # The host comes back, and finds that nobody is there.
        for process in filter(alive, stopped):
            process.send_signal(signal.SIGCONT)
        self.check_clean(server)

    def test_released_while_starting(self) -> None:
        """A start that is given up leaves nothing on the host either."""
        server = self.serve(start_command=["sleep", "1000"], display_base=170)
        token = server.reserve(NAME)
        peer = connect(f"{server.ws}?token={token}")
        until(lambda: "starting the X server" in server.instances(NAME)[0]["steps"])
        server.get(f"/v1/release/{token}")
        self.assertEqual(self.closed(peer)[0], 1000)
        self.check_clean(server)

    def test_direct(self) -> None:
        """Without forwarding x11vnc asks for a password, which the holder of the token learns."""
        server = self.screen(direct=True, port_base=6180)
        token = server.reserve(NAME)
        peer = connect(f"{server.ws}?token={token}")
        self.assertEqual(peer.recv(timeout=30), b"RFB 003.008\n")
        peer.send(b"RFB 003.008\n")
        self.assertEqual(peer.recv(timeout=10), b"\1\2")
        with urllib.request.urlopen(f"{server.http}/wsserver/events/{token}", timeout=10) as events:
            told = json.loads(events.readline().removeprefix(b"data: "))
        password = told["credentials"]["password"]
        self.assertEqual((len(password), told["state"]), (8, "open"))
        shown = server.get("/v1/status").body.decode() + server.log
        self.assertNotIn(password, shown + " ".join(" ".join(p.cmdline()) for p in self.there()))
        peer.close()
        self.check_clean(server)
        server.stop()
        self.assertNotIn(password, server.log)

    def test_taken_port(self) -> None:
        """Another VNC server on the port is not taken for that of the session."""
        first = self.screen(port_base=6280)
        self.open(first)
        second = self.serve(xvfb=True, display_base=165, port_base=6280)
        peer = connect(f"{second.ws}?token={second.reserve(NAME)}")
        code, reason = self.closed(peer)
        self.assertEqual(code, 4500)
        self.assertIn("x11vnc ended", reason)

    def test_shared_connection(self) -> None:
        """With control_master sessions share one connection, and end one by one."""
        server = self.screen(ssh={"control_master": True})
        one = self.open(server)
        many = len(self.sshd.connections())
        two = self.open(server)
        self.assertEqual(len(self.sshd.connections()), many)
        one.close()
        until(lambda: len(server.instances(NAME)) == 1)
        two.send(b"\1")
        self.assertEqual(two.recv(timeout=10)[:4], bytes(4))
        two.close()
        until(lambda: not server.instances(NAME))
        until(lambda: not {"Xvfb", "x11vnc"} & {process.name() for process in self.there()})
        until(lambda: not folders() - self.before)

    def test_screen_of_its_own(self) -> None:
        """Any other X server is started and ended by commands."""
        mark = self.folder / "stopped-1"
        server = self.serve(
            display_base=175,
            start_command=["Xvfb", ":{display}", "-nolisten", "tcp"],
            stop_command=["touch", str(self.folder / "stopped-{index}")],
        )
        self.open(server)
        peer = self.open(server)
        self.assertIn(":176", [word for p in self.there() for word in p.cmdline()])
        peer.close()
        until(mark.exists)
        until(lambda: len(server.instances(NAME)) == 1)

    def test_screen_of_somebody_else(self) -> None:
        """A display that is there already is not shared in place of a new one."""
        first = self.screen()
        self.open(first)
        server = self.serve(display_base=160, start_command=["sleep", "1000"])
        peer = connect(f"{server.ws}?token={server.reserve(NAME)}")
        self.assertEqual(self.closed(peer), (4500, "127.0.0.1: display :160 is taken"))

    def test_screen_that_ends(self) -> None:
        """An X server that ends at once is told with its status."""
        reason = self.refusal(display_base=177, start_command=["sh", "-c", "exit 3"])
        self.assertIn("the X server ended, with status 3", reason)

    def test_hanging_stop_command(self) -> None:
        """A stop command that hangs does not keep the programs on the host."""
        server = self.screen(stop_command=["sleep", "1000"])
        self.open(server).close()
        self.check_clean(server)

    def test_taken_display(self) -> None:
        """A display that somebody else has is skipped, with a word about it."""
        first, second = self.screen(), self.screen()
        self.open(first)
        self.open(second)
        (instance,) = second.instances(NAME)
        self.assertIn("display :160 is taken, trying :161", instance["steps"])

    def refusal(self, **options: Any) -> str:
        """Return the words with which a session ends that cannot begin."""
        server = self.serve(**options)
        peer = connect(f"{server.ws}?token={server.reserve(NAME)}")
        code, reason = self.closed(peer)
        self.assertEqual(code, 4500)
        self.check_clean(server)
        return reason

    def test_unknown_host_key(self) -> None:
        """A host that is not the known one is not trusted, and the user is told."""
        reason = self.refusal(ssh={"known_hosts": "/dev/null"})
        self.assertIn("127.0.0.1 cannot be reached by ssh: Host key verification failed", reason)

    def test_unknown_key(self) -> None:
        """A key that the host does not know is refused; nobody is asked for a password."""
        self.assertIn("Permission denied", self.refusal(ssh={"identity": str(self.folder / "no")}))

    def test_no_display(self) -> None:
        """A display that is not there ends in words."""
        self.assertIn("x11vnc ended", self.refusal(display=":199"))
