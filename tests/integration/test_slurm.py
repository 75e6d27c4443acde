"""Sessions as jobs of a real Slurm."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.parts import Server, folder, until
from tests.integration.slurm import shared_slurm
from tests.integration.sshd import sshd

NAME = "Job"
#: Listens on the port of its last argument, and says where it runs.
SERVICE = """
import os, socket, sys, threading
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
def serve(peer):
    peer.sendall(b"HELLO " + os.environ["SLURM_JOB_ID"].encode() + b" " + sys.argv[3].encode())
    while data := peer.recv(65536):
        peer.sendall(data)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


class SlurmTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.cluster = shared_slurm()
        self.home = self.enterContext(folder())
        (self.home / "service.py").write_text(SERVICE)
        self.addCleanup(self.check_clean)

    def check_clean(self) -> None:
        """No job and no folder of one is left, whatever the test was about."""
        self.cluster.call("scancel", "--user=root")
        until(lambda: not self.cluster.jobs())
        until(lambda: not list((self.cluster.folder / "jobs").iterdir()))

    def serve(self, start_timeout: float = 60.0, **options: Any) -> Server:
        program = str(self.home / "service.py")
        options = {
            "command": [sys.executable, program, "{host}", "{port}", "{option.word}"],
            "banner": "HELLO",
            "poll": 0.1,
            "sbatch": ["-n1"],
            "job_folder": str(self.cluster.folder / "jobs"),
            "reserve_options": {"word": {"default": 'it\'s "so" $HOME'}},
            **options,
        }
        entry = {
            "script": "slurm_session.py",
            "count": 3,
            "start_timeout": start_timeout,
            "options": options,
        }
        file = self.home / "services.json"
        file.write_text(json.dumps({NAME: entry}))
        env = self.cluster.environment
        return self.enterContext(Server("-c", file, "--http_port", 0, env=env))

    def begin(self, server: Server, query: str = "") -> ClientConnection:
        peer = connect(f"{server.ws}?token={server.reserve(NAME, query)}")
        self.addCleanup(peer.close)
        return peer

    def closed(self, peer: ClientConnection) -> tuple[int, str]:
        with contextlib.suppress(ConnectionClosed):
            while True:
                peer.recv(timeout=30)
        return peer.close_code or 0, peer.close_reason or ""

    def steps(self, server: Server, index: int = 0) -> list[str]:
        shown = [i for i in server.instances(NAME) if i["index"] == index]
        return shown[0]["steps"] if shown else []

    def queued(self, server: Server, index: int = 0) -> bool:
        return any(step.startswith("queued, position") for step in self.steps(server, index))

    def test_session(self) -> None:
        """A job runs, its bytes come through, and it is cancelled when the browser leaves."""
        server = self.serve()
        peer = self.begin(server)
        hello = peer.recv(timeout=30)
        self.assertTrue(hello.endswith(b' it\'s "so" $HOME'), hello)
        peer.send(b"there and back")
        self.assertEqual(peer.recv(timeout=10), b"there and back")
        self.assertEqual(self.steps(server)[0], "submitting the job")
        self.assertIn(f"running on {self.cluster.host}", self.steps(server))
        self.assertEqual(self.steps(server)[-1], "waiting for the service")
        (job_folder,) = (self.cluster.folder / "jobs").iterdir()
        self.assertEqual(job_folder.stat().st_mode & 0o777, 0o700)
        peer.close()
        until(lambda: not server.instances(NAME))
        self.assertEqual(self.cluster.jobs(), [])
        self.assertEqual(list((self.cluster.folder / "jobs").iterdir()), [])

    def test_side_by_side(self) -> None:
        """Two jobs on one node do not meet."""
        server = self.serve()
        one, two = self.begin(server, "word=one"), self.begin(server, "word=two")
        said = [peer.recv(timeout=30).split() for peer in (one, two)]
        self.assertEqual([words[2] for words in said], [b"one", b"two"])
        self.assertNotEqual(said[0][1], said[1][1])

    def test_queue(self) -> None:
        """Who has to wait sees the place in the queue, and then goes on."""
        number = self.cluster.occupy()
        server = self.serve()
        one = self.begin(server)
        until(lambda: self.queued(server, 0))
        two = self.begin(server)
        until(lambda: self.queued(server, 1))
        until(lambda: "queued, position 1 (Resources)" in self.steps(server, 0))
        until(lambda: "queued, position 2 (Priority)" in self.steps(server, 1))
        self.cluster.call("scancel", number)
        for peer in (one, two):
            self.assertTrue(peer.recv(timeout=30).startswith(b"HELLO"))

    def test_pending_too_long(self) -> None:
        """A job that does not run in time is cancelled, and the user learns why."""
        self.cluster.occupy()
        server = self.serve(start_timeout=2)
        peer = self.begin(server)
        code, reason = self.closed(peer)
        self.assertEqual(code, 4504)
        self.assertIn("did not start within 2 s: queued, position 1", reason)
        until(lambda: not server.instances(NAME))
        self.assertEqual(len(self.cluster.jobs()), 1)

    def test_leaves_the_queue(self) -> None:
        """A browser that leaves while its job waits takes the job along."""
        self.cluster.occupy()
        server = self.serve()
        peer = self.begin(server)
        until(lambda: self.queued(server))
        peer.close()
        until(lambda: not server.instances(NAME))
        self.assertEqual(len(self.cluster.jobs()), 1)

    def test_cancelled(self) -> None:
        """Somebody cancels the job while it waits."""
        self.cluster.occupy()
        server = self.serve()
        peer = self.begin(server)
        until(lambda: self.queued(server))
        (name,) = (name for name in self.cluster.jobs() if name.startswith("wsserver"))
        self.cluster.call("scancel", "--name", name)
        self.assertEqual(self.closed(peer), (4500, "the job was cancelled"))

    def test_cancelled_while_running(self) -> None:
        """Or while it runs: the session ends, and nothing is left."""
        server = self.serve()
        peer = self.begin(server)
        peer.recv(timeout=30)
        self.cluster.call("scancel", "--user=root")
        self.assertIn(self.closed(peer)[0], (1000, 4500, 4502))
        until(lambda: not server.instances(NAME))

    def test_failed(self) -> None:
        """A program that ends at once is told with its status; the log has its last words."""
        server = self.serve(command=["sh", "-c", "echo no licence is free; exit 3"])
        peer = self.begin(server)
        self.assertEqual(self.closed(peer), (4500, "the job failed, with status 3"))
        until(lambda: not server.instances(NAME))
        server.stop()
        self.assertIn("no licence is free", server.log)

    def test_never_listens(self) -> None:
        """A program that runs and does not listen is given up."""
        server = self.serve(start_timeout=3, command=["sleep", "1000"])
        code, reason = self.closed(self.begin(server))
        self.assertEqual(code, 4504)
        self.assertIn("waiting for the service", reason)

    def test_requeued(self) -> None:
        """A job that is put back into the queue is over for its session."""
        server = self.serve(sbatch=["-n1", "--requeue"], command=["sleep", "1000"])
        peer = self.begin(server)
        until(lambda: "waiting for the service" in self.steps(server))
        (name,) = self.cluster.jobs()
        number = self.cluster.call("squeue", "-h", "--name", name, "-o", "%i").strip()
        self.cluster.call("scontrol", "requeue", number)
        self.assertEqual(self.closed(peer), (4500, "the job was put back into the queue"))

    def test_node_lost(self) -> None:
        """A node that goes down ends the session in words."""
        server = self.serve(command=["sleep", "1000"])
        peer = self.begin(server)
        until(lambda: "waiting for the service" in self.steps(server))
        node = f"nodename={self.cluster.host}"
        self.cluster.call("scontrol", "update", node, "state=down", "reason=test")
        resume = ["scontrol", "update", node, "state=resume"]
        self.addCleanup(self.cluster.call, *resume, check=False)
        self.assertEqual(self.closed(peer), (4500, "the node of the job has failed"))

    def test_refused(self) -> None:
        """What sbatch says of a mistake reaches the user."""
        server = self.serve(partition="nowhere")
        code, reason = self.closed(self.begin(server))
        self.assertEqual(code, 4500)
        self.assertIn("Invalid partition name specified", reason)

    def test_options(self) -> None:
        """Options of a reservation reach sbatch, once they are found to be right."""
        rule = {"type": "integer", "minimum": 1, "maximum": 2, "default": 1}
        server = self.serve(
            sbatch=["-n{option.cores}", "--comment={option.word}"],
            reserve_options={"cores": rule, "word": {"default": "w"}},
            time="5",
        )
        self.assertEqual(server.get(f"/v1/reserve/{NAME}?cores=3").status, 400)
        self.assertEqual(server.get(f"/v1/reserve/{NAME}?word=--wrap").status, 400)
        self.begin(server, "cores=2").recv(timeout=30)
        shown = self.cluster.call("squeue", "-h", "-o", "%C|%l|%k").strip()
        self.assertEqual(shown, "2|5:00|w")

    def test_password(self) -> None:
        """A VNC server as a job, with a one-time password that Slurm does not know."""
        security = ["-SecurityTypes", "VncAuth", "-PasswordFile", "{password_file}"]
        server = self.serve(
            command=[
                "Xvnc",
                ":18{index}",
                "-rfbport",
                "{port}",
                "-interface",
                "127.0.0.1",
                *security,
            ],
            banner="RFB 003.",
            password=True,
        )
        peer = self.begin(server)
        self.assertEqual(peer.recv(timeout=30), b"RFB 003.008\n")
        peer.send(b"RFB 003.008\n")
        self.assertEqual(peer.recv(timeout=10), b"\1\2")

    def test_ssh(self) -> None:
        """Through ssh the service listens on the node's loopback address alone."""
        host = self.enterContext(sshd())
        there = ["HostName=127.0.0.1", f"HostKeyAlias=[127.0.0.1]:{host.port}"]
        server = self.serve(tunnel="ssh", ssh=host.options(options=there))
        peer = self.begin(server)
        self.assertTrue(peer.recv(timeout=30).startswith(b"HELLO"))
        self.assertEqual(len(host.connections()), 1)
        peer.close()
        until(lambda: not server.instances(NAME))
        self.assertEqual(server.children(), [])

    def test_server_stops(self) -> None:
        """The end of the server is the end of its jobs."""
        server = self.serve()
        self.begin(server).recv(timeout=30)
        server.stop()
        self.assertEqual(self.cluster.jobs(), [])

    def test_controller_away(self) -> None:
        """A cluster that does not answer is named."""
        conf = self.home / "slurm.conf"
        text = Path(self.cluster.environment["SLURM_CONF"]).read_text()
        conf.write_text(text.replace("AuthInfo=socket=", "AuthInfo=socket=/nowhere"))
        old = dict(self.cluster.environment)
        self.cluster.environment["SLURM_CONF"] = str(conf)
        self.addCleanup(self.cluster.environment.update, old)
        server = self.serve()
        code, reason = self.closed(self.begin(server))
        self.assertEqual((code, reason.partition(":")[0]), (4500, "sbatch"))
        until(lambda: not server.instances(NAME))
