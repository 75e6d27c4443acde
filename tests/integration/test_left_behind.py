"""Nothing of a session is left behind, whatever it did, and whatever became of the server.

``LEFT_BEHIND_COUNT`` is how often the server is killed at a random instant, and
``LEFT_BEHIND_SEED`` says at which.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.integration.parts import Server, folder, until
from wsserver.proc import Process, processes, tell

COUNT = int(os.environ.get("LEFT_BEHIND_COUNT", "12"))
SEED = int(os.environ.get("LEFT_BEHIND_SEED", "1"))

SCRIPT = '''
import os, signal, sys, time
from wsserver import RemoteServiceScript

LISTEN = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    peer, _ = listener.accept()
    peer.sendall(b"hello")
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\\n"
AWAY = "import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0)\\n"
WAIT = "import time; time.sleep(1000)"
STOPPED = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)\\n"
ZOO = [WAIT, DEAF + "import os; os.fork()\\n" + WAIT, AWAY + WAIT, DEAF + AWAY + WAIT,
       STOPPED + WAIT, DEAF + STOPPED + WAIT, AWAY + STOPPED + WAIT]


class Service(RemoteServiceScript):
    patience = 0.3

    def python(self, code, *args):
        return self.spawn([sys.executable, "-S", "-c", code, *map(str, args)])

    def start(self):
        if self._options.get("start") == "hangs":
            while True:
                time.sleep(1)
        for code in ZOO if "zoo" in self._options else []:
            self.python(code)
        port = self.free_port()
        away = AWAY if self._options.get("start") == "forks" else ""
        self.python(away + LISTEN, port)
        return self.wait_for_port(port)

    def stop(self):
        how = self._options.get("stop")
        if how == "nothing":
            return
        if how == "raises":
            raise KeyError("stop")
        if how == "waits":
            while any(group.running for group in self._groups):
                time.sleep(0.01)
            return
        while how == "hangs":
            time.sleep(1)
        super().stop()
'''


class LeftBehindTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        (self.folder / "service.py").write_text(SCRIPT)
        entry = {"script": "service.py", "count": 4, "stop_timeout": 1.0, "options": {}}
        self.services = self.folder / "services.json"
        self.services.write_text(json.dumps({"Zoo": entry}))
        #: By this the processes of this very test are told from all others on the machine.
        self.tag = uuid.uuid4().hex
        self.addCleanup(self.kill_all)

    def serve(self, *more: object) -> Server:
        state = self.folder / "state"
        args = ("-c", self.services, "--http_port", 0, "--state_directory", state, *more)
        return self.enterContext(Server(*args, env={"LEFT_BEHIND_RUN": self.tag}))

    def open(self, server: Server, query: str = "") -> ClientConnection:
        peer = connect(f"{server.ws}?token={server.reserve('Zoo', query)}", open_timeout=20)
        self.addCleanup(peer.close)
        return peer

    def hello(self, server: Server, query: str = "") -> ClientConnection:
        """Open a session, and wait until its service has spoken."""
        peer = self.open(server, query)
        self.assertEqual(peer.recv(timeout=30), b"hello")
        return peer

    def left(self) -> list[Process]:
        """Return all that carries a mark of a session of this test."""
        wanted = f"LEFT_BEHIND_RUN={self.tag}".encode()
        found = []
        for process in processes():
            with contextlib.suppress(OSError), open(f"/proc/{process.pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
                session = any(word.startswith(b"WSSERVER_SESSION=") for word in variables)
                if session and wanted in variables:
                    found.append(process)
        return found

    def kill_all(self) -> None:
        """Leave nothing of a test that has failed."""
        for process in self.left():
            tell(process, signal.SIGKILL)

    def closed(self, peer: ClientConnection) -> int:
        """Return the close code of a websocket."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                peer.recv(timeout=30)
        return peer.close_code or 0


class SessionTests(LeftBehindTestCase):
    def check(self, query: str, seconds: float = 6.0) -> Server:
        """Let a session end, and see that its slot is free, and nothing left."""
        server = self.serve()
        peer = self.hello(server, query)
        self.assertGreater(len(self.left()), 1)
        peer.close()
        until(lambda: not server.instances("Zoo"), seconds)
        self.assertEqual(self.left(), [])
        return server

    def test_zoo(self) -> None:
        """Deaf, stopped and runaway programs, and all of that together, end with the session."""
        self.check("zoo=1")

    def test_start_forks(self) -> None:
        """A service that has run away from its script lives as long as its connection."""
        server = self.serve()
        peer = self.hello(server, "start=forks")
        until(lambda: len(self.left()) == 2)
        time.sleep(0.5)
        self.assertEqual(server.instances("Zoo")[0]["state"], "open")
        peer.close()
        until(lambda: not server.instances("Zoo"))
        self.assertEqual(self.left(), [])

    def test_stop_does_nothing(self) -> None:
        """A stop that forgets what was started forgets nothing."""
        self.check("zoo=1&stop=nothing")

    def test_stop_raises(self) -> None:
        """A stop that raises leaves nothing."""
        server = self.check("zoo=1&stop=raises")
        server.stop()
        self.assertIn("stop failed", server.log)

    def test_stop_waits(self) -> None:
        """A stop that waits for programs comes home when these are ended without it."""
        self.check("zoo=1&stop=waits")

    def test_stop_hangs(self) -> None:
        """A stop that hangs keeps the slot, in quarantine, and nothing runs any more."""
        server = self.serve()
        self.hello(server, "zoo=1&stop=hangs").close()
        until(lambda: server.instances("Zoo")[0]["state"] == "quarantined")
        until(lambda: not self.left(), 6)
        (instance,) = server.instances("Zoo")
        self.assertEqual(instance["held"], "stop has not returned")
        page = server.get("/v1/status_view").body.decode()
        self.assertIn("does not end: stop has not returned", page)

    def test_supervisor_killed(self) -> None:
        """Who kills the supervisor ends the session, and still nothing is left."""
        server = self.serve()
        peer = self.hello(server, "zoo=1")
        (supervisor,) = server.supervisors()
        supervisor.kill()
        self.closed(peer)
        until(lambda: not server.instances("Zoo"))
        self.assertEqual(self.left(), [])

    def test_supervisor_stopped(self) -> None:
        """A supervisor that does not answer is replaced by a search, however long it takes."""
        server = self.serve()
        peer = self.hello(server, "zoo=1")
        (supervisor,) = server.supervisors()
        supervisor.suspend()
        peer.close()
        until(lambda: not server.instances("Zoo"), 60)
        self.assertEqual(self.left(), [])

    def test_full_disk(self) -> None:
        """Where the journal cannot be written sessions do not start, and all else goes on."""
        server = self.serve()
        process = psutil.Process(server.process.pid)
        process.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        peer = self.open(server)
        self.assertEqual(self.closed(peer), 4500)
        self.assertEqual(peer.close_reason, "the journal of the server cannot be written")
        until(lambda: not server.instances("Zoo"))
        self.assertEqual(self.left(), [])
        process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.hello(server)


class ServerTests(LeftBehindTestCase):
    def killed(self, server: Server) -> None:
        server.process.kill()
        server.process.wait()

    def test_killed_at_random(self) -> None:
        """A server that is killed at any instant leaves nothing; the next one says so at once."""
        chance = random.Random(SEED)
        slowest = 0.0
        for turn in range(COUNT):
            server = self.serve()
            if turn:
                self.assertIn("died: it had", server.log.partition("wsserver listens")[0])
            queries = chance.choices(
                ["", "zoo=1", "zoo=1&stop=hangs", "start=forks", "start=hangs"], k=2
            )
            with contextlib.suppress(WebSocketException, OSError):
                peers = [self.open(server, query) for query in queries]
                time.sleep(chance.uniform(0, 0.4))
                if chance.random() < 0.3:
                    peers[0].close()
                    time.sleep(chance.uniform(0, 0.5))
            self.killed(server)
            began = time.monotonic()
            until(lambda: not self.left(), 5)
            slowest = max(slowest, time.monotonic() - began)
        print(f"{COUNT} kills, seed {SEED}: all gone after {slowest:.2f} s at most")

    def test_all_killed(self) -> None:
        """Where the supervisor is killed with the server, the next one ends what is left."""
        server = self.serve()
        self.hello(server, "zoo=1")
        (supervisor,) = server.supervisors()
        supervisor.suspend()
        self.killed(server)
        supervisor.kill()
        # Those that ran away, and the child of a deaf leader.
        until(lambda: len(self.left()) == 4)
        before, _, _ = self.serve().log.partition("wsserver listens")
        self.assertIn(
            f"server {server.process.pid} died: it had 1 sessions; "
            "4 processes were left, and are killed",
            before,
        )
        self.assertEqual(self.left(), [])

    def test_live_server(self) -> None:
        """A second server leaves the sessions of the first alone."""
        first = self.serve()
        peer = self.hello(first)
        second = self.serve()
        self.assertNotIn("died", second.log)
        self.hello(second)
        self.assertEqual(first.instances("Zoo")[0]["state"], "open")
        peer.close()

    def test_nothing_to_tell(self) -> None:
        """An orderly stop leaves no journal."""
        server = self.serve()
        self.hello(server, "zoo=1")
        server.stop()
        self.assertEqual(list((self.folder / "state").iterdir()), [])
        self.assertEqual(self.left(), [])

    def stop_hung(self, timeout: float, more: Callable[[Server], Any]) -> tuple[Server, float]:
        """Stop a server of which starts and stops hang; return it, and how long that took."""
        server = self.serve("--shutdown_timeout", timeout)
        self.open(server, "start=hangs")
        self.open(server, "start=hangs&stop=hangs")
        self.hello(server, "zoo=1&stop=hangs")
        until(lambda: len(server.instances("Zoo")) == 3)
        server.process.terminate()
        began = time.monotonic()
        more(server)
        server.ended(40)
        return server, time.monotonic() - began

    def test_stop_with_hung_threads(self) -> None:
        """The server ends within its time though starts and stops hang; nothing is left."""
        server, seconds = self.stop_hung(3.0, lambda _: None)
        self.assertLess(seconds, 6)
        self.assertIn("not stopped in time: Zoo 0, Zoo 1, Zoo 2", server.log)
        until(lambda: not self.left(), 5)

    def test_second_signal(self) -> None:
        """A second signal ends the server at once; nothing is left."""
        for number in (signal.SIGTERM, signal.SIGINT):

            def again(server: Server, number: int = number) -> None:
                until(lambda: "stopping" in server.log)
                server.process.send_signal(number)

            server, seconds = self.stop_hung(60.0, again)
            self.assertLess(seconds, 5)
            self.assertEqual(server.process.returncode, 128 + number)
            self.assertIn("ends at once: a second signal", server.log)
            until(lambda: not self.left(), 5)
