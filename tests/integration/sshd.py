"""A real sshd on a loopback port, with keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.integration.parts import alive, free_port, until

CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/pid
PasswordAuthentication no
UsePAM no
StrictModes no
PermitRootLogin yes
MaxStartups 100
SetEnv HOME={folder}
"""


class Sshd:
    """The server; ``options`` are what a service needs to get in.

    The home of its users is empty: the start-up files of whoever runs the tests may take
    long, or wait for a lock that a session which was cut off has left.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        for name in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        public = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")
        (folder / "config").write_text(CONFIG.format(port=self.port, folder=folder))
        # sshd wants this folder wherever it was not started by the system.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [program, "-D", "-e", "-f", str(folder / "config")],
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )
        until(self._listens)

    def options(self, **more: Any) -> dict[str, Any]:
        """Return the object ``ssh`` of a service file."""
        return {
            "user": getpass.getuser(),
            "port": self.port,
            "identity": str(self.folder / "user_key"),
            "known_hosts": str(self.folder / "known_hosts"),
            **more,
        }

    def connections(self) -> list[psutil.Process]:
        """Return the processes that serve a client each."""
        return list(filter(alive, psutil.Process(self.process.pid).children()))

    def stop(self) -> None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        self._log.close()

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        return f"port {self.port}" in (self.folder / "log").read_text()


@contextlib.contextmanager
def sshd() -> Iterator[Sshd]:
    with tempfile.TemporaryDirectory() as name:
        server = Sshd(Path(name))
        try:
            yield server
        finally:
            server.stop()
