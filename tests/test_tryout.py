"""--try: what it tells of good scripts and of bad ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_offer
from wsserver.errors import ServiceFailed
from wsserver.offers import Offer, Script
from wsserver.scripts import RemoteServiceScript
from wsserver.tryout import try_service


class Good(RemoteServiceScript):
    """Listens in this very process."""

    banner = b"RFB 003.008\n"
    listener: socket.socket | None = None

    def start(self) -> Any:
        self.progress("opening a socket")
        self.share(password="secret")
        self.listener = socket.create_server(("127.0.0.1", 0))
        port = self.listener.getsockname()[1]
        if self.banner:
            self.spawn_peer(self.listener)
        return "127.0.0.1", port

    def spawn_peer(self, listener: socket.socket) -> None:
        code = "import socket, sys; s = socket.socket(fileno=0)\nwhile True: s.accept()[0].sendall("
        argv = [sys.executable, "-c", f"{code}{self.banner!r})"]
        self.peer = subprocess.Popen(argv, stdin=listener)

    def stop(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None
            if self.banner:
                self.peer.kill()
                self.peer.wait()


class Silent(Good):
    banner = b""


class Nowhere(Good):
    def start(self) -> Any:
        return "127.0.0.1", self.free_port()


class Nonsense(Good):
    def start(self) -> Any:
        return "here"


class Broken(Good):
    def start(self) -> Any:
        self.spawn([sys.executable, "-c", "print('no licence')"]).stop(10)
        raise ServiceFailed("it is broken")

    def output(self) -> str:
        return "no licence"


class Buggy(Good):
    def start(self) -> Any:
        raise KeyError("x")


class Slow(Good):
    def start(self) -> Any:
        self.cancelled.wait(20)
        raise ServiceFailed("cancelled")


class StopsBadly(Silent):
    def stop(self) -> None:
        super().stop()
        raise OSError("cannot")


class StopsNever(Silent):
    def stop(self) -> None:
        super().stop()
        self.never.wait(20)


class StillThere(Silent):
    kept: list[socket.socket] = []

    def stop(self) -> None:
        self.kept.append(self.listener)


class Leaky(Silent):
    def start(self) -> Any:
        Path(tempfile.gettempdir(), "forgotten").touch()
        # A program of a session of its own, whose parent is gone.
        run_away = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(60)"
        subprocess.run([sys.executable, "-c", run_away], check=True)
        return super().start()


class Gone(Silent):
    def check_running(self) -> None:
        raise ServiceFailed("the job was cancelled")


class TryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.said: list[str] = []
        self.patch(sys.modules["wsserver.tryout"], "SETTLE", 0)

    def run_offer(self, offer: Offer, **options: str) -> bool:
        return try_service(offer, options, self.said.append)

    def run_script(self, script: type[RemoteServiceScript], **more: Any) -> bool:
        return self.run_offer(make_offer(script=Script(script), **more))

    @property
    def text(self) -> str:
        return "\n".join(self.said)

    def check_problem(self, script: type[RemoteServiceScript], problem: str, **more: Any) -> None:
        self.assertFalse(self.run_script(script, **more))
        self.assertIn(f"problem: {problem}", self.text)
        self.assertEqual(self.said[-1], "problems found")

    def test_good(self) -> None:
        """Each step is told with its time; the credentials by their name alone."""
        self.assertTrue(self.run_script(Good))
        steps = [line.partition(" s  ")[2] for line in self.said[1:-1]]
        self.assertEqual(steps[:3], [
            "progress: opening a socket", "shares with the viewer: password", "start has returned",
        ])  # fmt: skip
        self.assertIn(r"accepts, and says b'RFB 003.008\n'", steps[3])
        self.assertEqual(steps[4:], ["stop has returned", "stop, the second time, has returned"])
        self.assertEqual(self.said[-1], "no process, port or file is left; all is well")
        self.assertNotIn("secret", self.text)

    def test_silent(self) -> None:
        """A service need not speak first."""
        self.patch(sys.modules["wsserver.tryout"], "BANNER_TIMEOUT", 0.01)
        self.assertTrue(self.run_script(Silent))
        self.assertIn("accepts, and says nothing first", self.text)

    def test_unavailable(self) -> None:
        """What cannot run here is not started."""
        self.assertFalse(self.run_offer(make_offer(unavailable="no Xvnc")))
        self.assertIn("problem: unavailable: no Xvnc", self.text)

    def test_options(self) -> None:
        """Options are checked as those of a reservation."""
        offer = make_offer(script=Script(Silent), options={"reserve_options": {}})
        self.assertFalse(self.run_offer(offer, size="9"))
        self.assertIn("the options are refused: size is no option", self.text)

    def test_failures(self) -> None:
        """Whatever goes wrong is told, and the script is stopped all the same."""
        self.check_problem(Nowhere, "127.0.0.1:", connect_timeout=0.01)
        self.check_problem(Nonsense, "the service did not say where it listens")
        self.flushLoggedErrors()
        self.check_problem(Buggy, "start raised KeyError('x')")
        self.check_problem(Slow, "start did not return within 0.01 s", start_timeout=0.01)
        self.check_problem(Gone, "the job was cancelled")
        self.check_problem(StopsBadly, "stop raised OSError('cannot')")

    def test_output(self) -> None:
        """The output of the programs helps to understand a failure."""
        self.check_problem(Broken, "it is broken")
        self.assertIn("the programs have printed:\nno licence", self.text)

    def test_hanging_stop(self) -> None:
        """A stop that does not return is told."""
        from threading import Event

        StopsNever.never = Event()  # type: ignore[attr-defined]
        self.addCleanup(StopsNever.never.set)  # type: ignore[attr-defined]
        self.check_problem(StopsNever, "stop did not return within 0.05 s", stop_timeout=0.05)

    def test_port_left(self) -> None:
        """A port that is still open after stop is told."""
        self.check_problem(StillThere, "127.0.0.1:")
        self.assertIn("still accepts after stop", self.text)
        StillThere.kept.pop().close()

    def test_left_behind(self) -> None:
        """Files, and programs that ran away, are found; the programs are ended."""
        before = os.environ.get("TMPDIR"), tempfile.gettempdir()
        self.assertFalse(self.run_script(Leaky))
        self.assertIn("forgotten is left", self.text)
        self.assertIn("is left; killed now", self.text)
        self.assertEqual((os.environ.get("TMPDIR"), tempfile.gettempdir()), before)
