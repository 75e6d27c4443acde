"""The base class of service scripts.

The interface is that of contract.md, "Service script".
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

from wsserver.errors import ServiceFailed
from wsserver.processes import ProcessGroup

#: Host and port of a listening socket.
Address = tuple[str, int]

#: What a service has no business to know.
_SECRET_VARIABLES = ("WEBSOCKETSERVER_SECURITY_TOKEN",)


class RemoteServiceScript:
    """Starts and ends one instance of a service.  Subclass it; override ``start``.

    ``_name`` is the service, ``_index`` (0 .. count-1) tells its instances apart,
    ``_common_options`` come from the service file and ``_options`` from the
    reservation.  ``start`` and ``stop`` run in a thread of their own and may block.
    An exception in ``start`` ends the session; the user is told the message of a
    ``ServiceFailed`` alone, everything else is for the log.
    """

    #: How long a program may take to end on its own, in seconds.
    patience = 3.0

    def __init__(
        self,
        name: str,
        index: int,
        common_options: Mapping[str, Any],
        options: Mapping[str, str],
    ) -> None:
        self._name = name
        self._index = index
        self._common_options = common_options
        self._options = options
        self._groups: list[ProcessGroup] = []
        #: Set when nobody waits for ``start`` any more; the helpers below then raise.
        self.cancelled = Event()
        #: Where ``progress`` goes; the launcher sets it.
        self.on_progress: Callable[[str], None] = lambda text: None

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Return why the service cannot run on this machine at all, or None."""
        return None

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Check the options of a reservation before it is made.

        Raises:
            ValueError: with a message for the user.
        """

    def start(self) -> Address | Mapping[str, Address]:
        """Start the service; return where it listens, or several named sockets."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the service, also after a failed or unfinished start.  May be called twice."""
        while self._groups:
            group = self._groups[-1]
            group.stop(self.patience)
            # by value: a start that is still under way may have added one meanwhile
            self._groups.remove(group)

    def progress(self, text: str) -> None:
        """Tell the waiting user, in one line, what is going on."""
        self.on_progress(" ".join(text.split())[:200])

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> ProcessGroup:
        """Start a program in a group of its own; ``stop`` ends it.

        ``env`` is added to the server's own environment.

        Raises:
            ServiceFailed: the program cannot be started.
        """
        self._check_wanted()
        inherited = {k: v for k, v in os.environ.items() if k not in _SECRET_VARIABLES}
        try:
            group = ProcessGroup(argv, {**inherited, **(env or {})}, cwd)
        except OSError as error:
            raise ServiceFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
        self._groups.append(group)
        return group

    def wait_for_port(
        self,
        port: int,
        host: str = "127.0.0.1",
        process: ProcessGroup | None = None,
        timeout: float = 30.0,
    ) -> Address:
        """Block until something listens on the port; return its address.

        Raises:
            ServiceFailed: ``process`` ended, ``timeout`` seconds went by, or nobody
                waits for this start any more.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._check_wanted()
            if process is not None and (status := process.status()) is not None:
                raise ServiceFailed(f"{process.name} ended at once, with status {status}")
            if _listens(host, port):
                return host, port
            if time.monotonic() >= deadline:
                raise ServiceFailed(f"nothing listens on port {port}")
            self.cancelled.wait(0.02)

    def free_port(self, host: str = "127.0.0.1") -> int:
        """Return a port that nothing listens on at the moment."""
        with socket.socket() as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
            return port

    def output(self) -> str:
        """Return the end of what the programs of this instance have printed."""
        return "\n".join(f"[{group.name}]\n{group.output()}" for group in self._groups)

    def _check_wanted(self) -> None:
        if self.cancelled.is_set():
            raise ServiceFailed("the start was cancelled")


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1) as probe:
            # A local port that nobody listens on may come to be connected to itself.
            return bool(probe.getsockname() != probe.getpeername())
    except OSError:
        return False
