"""Another host, by OpenSSH: one connection that lives as long as the session.

The connection carries a command there and a forwarded port back.  Keys, not passwords
(BatchMode); the host key is checked; ``~/.ssh/config`` counts, what stands here wins.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import tempfile
from pathlib import Path
from threading import Lock
from typing import Annotated

from pydantic import Field, field_validator

from wsserver import ProcessGroup, RemoteServiceScript, ServiceFailed
from wsserver.services._template import Strict

#: A host that answers no more is given up after 3 of these, in seconds.
ALIVE_INTERVAL = 5
CONNECT_TIMEOUT = 10
#: A forwarded connection that lives so long has somebody behind it, in seconds.
QUIET = 1.0

#: How a shell script of ours tells its steps, and why it failed.
SAYS = "wsserver: "
FAILED = "wsserver failed: "

#: How long a shared connection that nobody uses stays open, in seconds.
PERSIST = 60

#: Who opens a shared connection; the others wait for it.
_turns: dict[tuple[str, ...], Lock] = {}
_WAITS = f"echo '{SAYS}connected'; exec cat >/dev/null"


class SshOptions(Strict):
    """The options of a connection; ``options`` are ssh's own, as "Name=value"."""

    user: Annotated[str | None, Field(pattern=r"^[^-\s][^\s@]*$")] = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    identity: str | None = None
    known_hosts: str | None = None
    options: list[str] = []
    control_master: bool = False

    @field_validator("options")
    @classmethod
    def _named(cls, options: list[str]) -> list[str]:
        for option in options:
            if not option.partition("=")[0].isalnum() or "=" not in option:
                raise ValueError(f'must be "Name=value", not {option!r}')
        return options


class Ssh:
    """A host as it is reached for one session of ``script``."""

    def __init__(self, script: RemoteServiceScript, host: str, options: SshOptions) -> None:
        if host.startswith("-") or not host:
            raise ServiceFailed(f"{host!r} is no host")
        self._script = script
        self._host = host
        self._options = options
        self._forward: list[str] = []

    def connect(self, forward: str) -> int:
        """Forward a free port of this host's loopback to an address as seen from there.

        Raises:
            ServiceFailed: the host cannot be reached, or does not let us in.
        """
        connection, port = self.run(_WAITS, forward)
        self._script.wait_until(
            lambda: "connected" in self.said(connection),
            f"{self._host} cannot be reached by ssh",
            timeout=CONNECT_TIMEOUT + 5,
        )
        return port

    def run(self, command: str, forward: str, stdin: bytes = b"") -> tuple[ProcessGroup, int]:
        """Run a command of the remote shell, and forward a port; return it and the port.

        The command should end with its standard input: that is how it learns that the
        connection is gone.
        """
        if self._options.control_master:
            self._share()
        port = self._script.free_port()
        self._forward = ["-L", f"127.0.0.1:{port}:{forward}"]
        argv = ["ssh", *self._flags(), *self._forward, self._host, command]
        return self._script.spawn(argv, stdin=stdin), port

    def said(self, connection: ProcessGroup) -> list[str]:
        """Return the steps that a command of ours has told so far.

        Raises:
            ServiceFailed: it said that it failed, or the connection is gone.
        """
        try:
            return steps_of(connection)
        except ServiceFailed as error:
            if connection.status() == 255 and FAILED not in connection.output():
                last = connection.output().strip().rpartition("\n")[2] or "no answer"
                raise ServiceFailed(f"{self._host} cannot be reached by ssh: {last}") from None
            raise ServiceFailed(f"{self._host}: {error}") from None

    def listens(self, port: int) -> bool:
        """Tell whether somebody listens behind a forwarded port, who says nothing first.

        ssh itself accepts in any case, and closes where nobody does.
        """
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=QUIET) as probe:
                return probe.recv(1) != b""
        except TimeoutError:
            return True
        except OSError:
            return False

    def forget(self) -> None:
        """Give a forwarded port back where the connection is shared, and hence goes on."""
        forward, self._forward = self._forward, []
        if self._options.control_master and forward:
            argv = ["ssh", *self._flags(), "-O", "cancel", *forward, self._host]
            with contextlib.suppress(ServiceFailed):
                self._script.run(argv, CONNECT_TIMEOUT)

    def _share(self) -> None:
        """Open the connection that sessions share, where it is not open.

        It outlives this session, so it is none of its processes: ssh leaves it behind, and
        it ends by itself when nobody has used it for a while.
        """
        stays = ["-oControlMaster=auto", f"-oControlPersist={PERSIST}"]
        with _turns.setdefault((self._host, *self._flags()), Lock()):
            if self._call([], "-O", "check", self._host).returncode == 0:
                return
            opened = self._call(stays, self._host, "true")
        if opened.returncode != 0:
            last = opened.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ServiceFailed(f"{self._host} cannot be reached by ssh: {last or 'no answer'}")

    def _call(self, first: list[str], *rest: str) -> subprocess.CompletedProcess[bytes]:
        """Run ssh as a process of the server itself."""
        argv = ["ssh", *first, *self._flags(), *rest]
        env = {**os.environ}
        env.pop("WEBSOCKETSERVER_SECURITY_TOKEN", None)
        nothing = subprocess.DEVNULL
        # ssh has time limits of its own
        return subprocess.run(argv, env=env, stdin=nothing, capture_output=True, check=False)

    def _flags(self) -> list[str]:
        options = self._options
        settings = [*options.options, "BatchMode=yes", "StrictHostKeyChecking=yes"]
        settings += ["ExitOnForwardFailure=yes", f"ConnectTimeout={CONNECT_TIMEOUT}"]
        settings += [f"ServerAliveInterval={ALIVE_INTERVAL}", "ServerAliveCountMax=3"]
        settings += ["ForwardAgent=no", "ForwardX11=no", "LogLevel=ERROR"]
        if options.known_hosts is not None:
            settings.append(f"UserKnownHostsFile={options.known_hosts}")
        if options.control_master:
            settings += ["ControlMaster=no", f"ControlPath={_shared_folder()}/%C"]
        else:
            settings.append("ControlPath=none")
        flags = ["-T", "-a", "-x", *(f"-o{setting}" for setting in settings)]
        flags += ["-p", str(options.port)] if options.port is not None else []
        flags += ["-l", options.user] if options.user is not None else []
        if options.identity is not None:
            flags += ["-i", options.identity, "-oIdentitiesOnly=yes"]
        return flags


def steps_of(program: ProcessGroup) -> list[str]:
    """Return the steps that a shell script of ours has told so far.

    Raises:
        ServiceFailed: it said that it failed, or it has ended.
    """
    status = program.status()
    lines = program.output().splitlines()
    failed = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)]
    if failed or status is not None:
        raise ServiceFailed(failed[0] if failed else f"it ended, with status {status}")
    return [line.removeprefix(SAYS) for line in lines if line.startswith(SAYS)]


def _shared_folder() -> str:
    """Return the folder for the sockets of shared connections, one per user of this host."""
    folder = Path(tempfile.gettempdir()) / f"wsserver-ssh-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ServiceFailed(f"{folder} is not safe: it belongs to others, or is open to them")
    return str(folder)


def shell_command(script: str, variables: dict[str, str]) -> str:
    """Return a command that runs a POSIX shell script with some variables set.

    It is one line without line breaks, which even a C shell passes on unharmed.
    """
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    text = (head + script).replace("\\", "\\\\").replace("\n", "\\n")
    return shlex.join(["sh", "-c", 'eval "$(printf %b "$1")"', "wsserver", text])
