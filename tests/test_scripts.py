"""The base class of service scripts, and its helpers."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver import family
from wsserver.errors import ServiceFailed
from wsserver.scripts import RemoteServiceScript


class Plain(RemoteServiceScript):
    """A script that ends what it started in no time."""

    patience = 20.0


class HelperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = self.make({})
        self.addCleanup(self.script.stop)

    def make(self, options: Mapping[str, str]) -> RemoteServiceScript:
        return Plain("Demo", 0, {}, options)

    def spawn(self, text: str, **rest: Any) -> Any:
        return self.script.spawn(["sh", "-c", text], **rest)

    def test_start_is_the_author_s(self) -> None:
        """A script without a start of its own does not start."""
        self.assertRaises(NotImplementedError, self.script.start)

    def test_stop_ends_everything(self) -> None:
        """Whatever was spawned ends with `stop`, the last first; twice is no harm."""
        ended: list[str] = []
        groups = [self.spawn("exec sleep 60"), self.spawn("exec sleep 60")]
        for number, group in enumerate(groups):
            real = group.stop
            self.patch(group, "stop", lambda t, n=number, r=real: (ended.append(n), r(t)))
        self.script.stop()
        self.script.stop()
        self.assertEqual(ended, [1, 0])
        self.assertEqual([g.running for g in groups], [False, False])

    def test_stop_while_spawning(self) -> None:
        """A program that a late start adds while another is being ended is ended as well."""
        first = self.spawn("exec sleep 60")
        real, late = first.stop, []

        def stop(timeout: float) -> None:
            if not late:
                late.append(self.spawn("exec sleep 60"))
            real(timeout)

        self.patch(first, "stop", stop)
        self.script.stop()
        self.assertEqual((first.running, late[0].running), (False, False))

    def test_environment(self) -> None:
        """A program has the server's environment and its own, but not the security token."""
        self.patch(os, "environ", {**os.environ, "WEBSOCKETSERVER_SECURITY_TOKEN": "s3cret"})
        os.environ["INHERITED"], os.environ["CHANGED"] = "yes", "no"
        group = self.spawn("env; echo end", env={"CHANGED": "yes", "ADDED": "yes"})
        wait_until(lambda: group.output().endswith("end\n"))
        lines = group.output().splitlines()
        for line in ("INHERITED=yes", "CHANGED=yes", "ADDED=yes"):
            self.assertIn(line, lines)
        self.assertNotIn("s3cret", group.output())

    def test_folder(self) -> None:
        """A program may be started in a folder."""
        folder = Path(self.mktemp())
        folder.mkdir()
        group = self.spawn("pwd", cwd=str(folder))
        wait_until(lambda: group.output().endswith("\n"))
        self.assertEqual(group.output(), f"{folder.resolve()}\n")

    def test_cannot_spawn(self) -> None:
        """A program that cannot be started is told to the user by its name."""
        error = self.assertRaises(ServiceFailed, self.script.spawn, ["/no/such/program"])
        words = "/no/such/program cannot be started: No such file or directory"
        self.assertEqual(str(error), words)

    def test_host_has_no_more(self) -> None:
        """Where the host gives no more processes, memory or files, this start fails in words."""
        files = len(os.listdir("/proc/self/fd"))
        for number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE):

            def refuse(*args: object, number: int = number, **rest: object) -> None:
                raise OSError(number, os.strerror(number))

            for place in ((subprocess, "Popen"), (os, "pipe"), (family.socket, "socketpair")):
                patched = self.patch(*place, refuse)
                failed = self.assertRaises(ServiceFailed, self.spawn, "exec sleep 60")
                self.assertEqual(str(failed), f"sh cannot be started: {os.strerror(number)}")
                self.assertRaises(ServiceFailed, self.script.run, ["sh"])
                patched.restore()
        self.assertEqual(len(os.listdir("/proc/self/fd")), files)
        self.assertTrue(self.spawn("exec sleep 60").running)

    def test_cancelled(self) -> None:
        """Once nobody waits for the start, its helpers raise."""
        self.script.cancelled.set()
        for call in (
            lambda: self.spawn("exit"),
            lambda: self.script.wait_for_port(1),
            lambda: self.script.wait_until(lambda: True, "never"),
        ):
            error = self.assertRaises(ServiceFailed, call)
            self.assertEqual(str(error), "the start was cancelled")

    def test_output(self) -> None:
        """The output of all programs is read under their names."""
        one, two = self.spawn("echo one"), self.spawn("echo two")
        wait_until(lambda: one.output() and two.output())
        self.assertEqual(self.script.output(), "[sh]\none\n\n[sh]\ntwo\n")

    def test_progress(self) -> None:
        """Progress is one line of bounded length, whatever the script says."""
        said: list[str] = []
        self.script.progress("nobody listens yet")
        self.script.on_progress = said.append
        self.script.progress("  warming\nup\t now ")
        self.script.progress("x" * 999)
        self.assertEqual(said, ["warming up now", "x" * 200])


class ShareTests(SynchronousTestCase):
    def test_share(self) -> None:
        """Credentials go where the launcher says; without one they go nowhere."""
        script = Plain("Demo", 0, {}, {})
        script.share(password="p")
        shared: list[Any] = []
        script.on_share = shared.append
        script.share(password="p", username="u")
        self.assertEqual(shared, [{"password": "p", "username": "u"}])
        self.assertRaises(TypeError, script.share, password=b"p")

    def test_running(self) -> None:
        """A script that does not watch its service finds nothing wrong."""
        self.assertIsNone(Plain("Demo", 0, {}, {}).check_running())


class RunTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = Plain("Demo", 0, {}, {})

    def failure(self, *argv: str, **rest: Any) -> str:
        return str(self.assertRaises(ServiceFailed, self.script.run, argv, **rest))

    def test_output(self) -> None:
        """The standard output is returned, also where nobody waits for the start any more."""
        self.patch(os, "environ", {**os.environ, "WEBSOCKETSERVER_SECURITY_TOKEN": "s3cret"})
        self.script.cancelled.set()
        said = self.script.run(["sh", "-c", "cat; env; echo noise >&2; echo end"])
        self.assertTrue(said.endswith("end\n"))
        self.assertNotIn("s3cret", said)
        self.assertNotIn("noise", said)

    def test_failures(self) -> None:
        """A program that fails, hangs or is not there is told in a line."""
        complaint = "echo first >&2; echo no licence >&2; exit 3"
        self.assertEqual(self.failure("sh", "-c", complaint), "sh: no licence")
        self.assertEqual(self.failure("sh", "-c", "exit 3"), "sh: status 3")
        self.assertEqual(
            self.failure("sleep", "60", timeout=0.01), "sleep did not end within 0.01 s"
        )
        self.assertIn("/no/such cannot be started", self.failure("/no/such"))


class WaitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = Plain("Demo", 0, {}, {})
        self.addCleanup(self.script.stop)

    def test_ready(self) -> None:
        """Any condition can be waited for."""
        answers = [False, False, True]
        self.script.wait_until(lambda: answers.pop(0), "never")
        self.assertEqual(answers, [])

    def test_never(self) -> None:
        """The failure has the words of the author."""
        wait = self.script.wait_until
        error = self.assertRaises(ServiceFailed, wait, lambda: False, "no screen", timeout=0)
        self.assertEqual(str(error), "no screen")

    def test_program_ends(self) -> None:
        """The end of the program ends the wait."""
        group = self.script.spawn(["sh", "-c", "exit 4"])
        wait = self.script.wait_until
        error = self.assertRaises(ServiceFailed, wait, lambda: False, "never", group)
        self.assertEqual(str(error), "sh ended at once, with status 4")

    def greet(self, greeting: bytes) -> int:
        """Return the port of a server that says something to everybody, and closes."""
        code = (
            "import socket, sys; s = socket.create_server(('127.0.0.1', 0))\n"
            "print(s.getsockname()[1], flush=True)\n"
            f"while True: p = s.accept()[0]; p.sendall({greeting!r}); p.close()"
        )
        group = self.script.spawn([sys.executable, "-c", code])
        wait_until(lambda: group.output().endswith("\n"))
        return int(group.output())

    def test_banner(self) -> None:
        """A service may be known by what it says first."""
        port = self.greet(b"RFB 003.008\n")
        self.assertEqual(self.script.wait_for_port(port, banner=b"RFB "), ("127.0.0.1", port))
        self.assertTrue(self.script.listens(port))
        self.assertFalse(self.script.listens(port, banner=b"SSH-"))
        self.assertFalse(self.script.listens(self.script.free_port()))

    def test_short_banner(self) -> None:
        """Who says less than that, or nothing, is somebody else."""
        for said in (b"RF", b""):
            port = self.greet(said)
            error = self.assertRaises(
                ServiceFailed, self.script.wait_for_port, port, banner=b"RFB ", timeout=0
            )
            self.assertEqual(str(error), f"nothing listens on port {port} and says 'RFB '")

    def test_stdin(self) -> None:
        """What is written to a program's standard input reaches it."""
        group = self.script.spawn(["sh", "-c", "read line; echo $line; cat"], stdin=b"secret\n")
        wait_until(lambda: group.output() == "secret\n")
        self.assertTrue(group.running)
        self.script.stop()
        self.assertEqual(group.status(), 0)


class PortTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = Plain("Demo", 0, {}, {})
        self.addCleanup(self.script.stop)

    def listen(self, port: int = 0) -> int:
        server = socket.create_server(("127.0.0.1", port))
        self.addCleanup(server.close)
        return server.getsockname()[1]

    def wait(self, port: int, **rest: Any) -> str:
        error = self.assertRaises(ServiceFailed, self.script.wait_for_port, port, **rest)
        return str(error)

    def test_free_port(self) -> None:
        """A free port can be listened on, and nobody does yet."""
        port = self.script.free_port()
        self.assertIn("nothing listens", self.wait(port, timeout=0))
        self.assertEqual(self.listen(port), port)

    def test_listening(self) -> None:
        """As soon as something listens its address is returned."""
        port = self.listen()
        self.assertEqual(self.script.wait_for_port(port), ("127.0.0.1", port))

    def test_listens_later(self) -> None:
        """A service may take a while to listen."""
        port = self.script.free_port()
        looks: list[float] = []

        def pause(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                self.listen(port)

        self.patch(self.script.cancelled, "wait", pause)
        self.assertEqual(self.script.wait_for_port(port), ("127.0.0.1", port))
        self.assertEqual(len(looks), 3)

    def test_timeout(self) -> None:
        """A service that never listens is given up after the time it was given."""
        port = self.script.free_port()
        self.assertEqual(self.wait(port, timeout=0.05), f"nothing listens on port {port}")

    def test_connected_to_itself(self) -> None:
        """A probe that got the very port that it knocks at has found nobody there."""

        def connect(*args: Any, **rest: Any) -> socket.socket:
            probe = socket.socket()
            probe.bind(("127.0.0.1", 0))
            probe.connect(probe.getsockname())
            return probe

        self.patch(socket, "create_connection", connect)
        self.assertEqual(self.wait(5900, timeout=0), "nothing listens on port 5900")

    def test_process_died(self) -> None:
        """A program that ends instead of listening is told at once, with its status."""
        group = self.script.spawn(["sh", "-c", "exit 7"])
        words = "sh ended at once, with status 7"
        self.assertEqual(self.wait(self.script.free_port(), process=group), words)

    def test_process_runs(self) -> None:
        """A program that runs is waited for."""
        group = self.script.spawn(["sleep", "60"])
        words = self.wait(self.script.free_port(), process=group, timeout=0.05)
        self.assertIn("nothing listens", words)

    def test_cancelled_while_waiting(self) -> None:
        """A wait ends as soon as nobody waits for the start any more."""
        self.patch(self.script.cancelled, "wait", lambda _: self.script.cancelled.set())
        self.assertEqual(self.wait(self.script.free_port()), "the start was cancelled")
