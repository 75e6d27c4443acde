"""The base class of service scripts.

The interface is that of contract.md, "Service script".
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import Event
from typing import Any

from wsserver import processes
from wsserver.errors import ServiceFailed
from wsserver.family import Family, environment
from wsserver.processes import ProcessGroup

#: Host and port of a listening socket.
Address = tuple[str, int]

#: How often it is asked whether something has come, in seconds.
POLL = 0.01


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
    #: How often ``check_running`` is called once the service has started, in seconds.
    watch_period: float | None = None

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
        #: All that ``spawn`` and ``run`` have started, and what that has started in turn.
        self.family = Family()
        #: Set when nobody waits for ``start`` any more; the helpers below then raise.
        self.cancelled = Event()
        #: Where ``progress`` goes; the launcher sets it.
        self.on_progress: Callable[[str], object] = lambda text: None
        #: Where ``share`` goes; the launcher sets it.
        self.on_share: Callable[[Mapping[str, str]], object] = lambda credentials: None

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

    def check_running(self) -> None:
        """Raise ServiceFailed, with words for the user, where the service has ended.

        It is called every ``watch_period`` seconds, in a thread.  A service whose
        connection closes when it ends needs no such watch.
        """

    def progress(self, text: str) -> None:
        """Tell the waiting user, in one line, what is going on."""
        self.on_progress(" ".join(text.split())[:200])

    def share(self, **credentials: str) -> None:
        """Give the viewer what it needs to get in, such as ``password``; call it in ``start``.

        Only the holder of the token is told; it is neither logged nor shown.

        Raises:
            TypeError: a value is no string.
        """
        if not all(isinstance(value, str) for value in credentials.values()):
            raise TypeError("share() takes strings")
        self.on_share(credentials)

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes | None = None,
    ) -> ProcessGroup:
        """Start a program in a group of its own; ``stop`` ends it.

        ``env`` is added to the server's own environment.  ``stdin`` is written to the
        program's standard input, which then stays open until it is stopped; None is
        /dev/null.

        Raises:
            ServiceFailed: the program cannot be started.
        """
        self._check_wanted()
        try:
            group = ProcessGroup(self.family, argv, {**environment(), **(env or {})}, cwd, stdin)
        except OSError as error:
            raise ServiceFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
        self._groups.append(group)
        return group

    def run(self, argv: Sequence[str], timeout: float = 30.0) -> str:
        """Run a short program to its end, in ``stop`` too; return what it printed.

        Raises:
            ServiceFailed: it cannot be started, or did not end well within ``timeout``
                seconds; with the last line that it complained of.
        """
        try:
            status, printed, complaints = processes.run(self.family, argv, timeout)
        except TimeoutError as error:
            raise ServiceFailed(f"{argv[0]} did not end within {timeout:g} s") from error
        except OSError as error:
            raise ServiceFailed(f"{argv[0]} cannot be started: {error.strerror}") from error
        if status != 0:
            complaint = complaints.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise ServiceFailed(f"{argv[0]}: {complaint or f'status {status}'}")
        return printed.decode("utf-8", "replace")

    def wait_for_port(
        self,
        port: int,
        host: str = "127.0.0.1",
        process: ProcessGroup | None = None,
        timeout: float = 30.0,
        banner: bytes = b"",
    ) -> Address:
        """Block until something listens on the port; return its address.

        ``banner`` is what it must say first, such as ``b"RFB 003."``.

        Raises:
            ServiceFailed: ``process`` ended, ``timeout`` seconds went by, or nobody
                waits for this start any more.
        """
        said = f" and says {banner.decode('ascii', 'replace')!r}" if banner else ""
        failure = f"nothing listens on port {port}{said}"
        self.wait_until(partial(_listens, host, port, banner), failure, process, timeout)
        return host, port

    def wait_until(
        self,
        ready: Callable[[], bool],
        failure: str,
        process: ProcessGroup | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Block until ``ready()`` is true; it is asked every 10 ms.

        Raises:
            ServiceFailed: ``process`` ended; or ``timeout`` seconds went by, with the
                words of ``failure``; or nobody waits for this start any more.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._check_wanted()
            if process is not None and (status := process.status()) is not None:
                raise ServiceFailed(f"{process.name} ended at once, with status {status}")
            if ready():
                return
            if time.monotonic() >= deadline:
                raise ServiceFailed(failure)
            self.cancelled.wait(POLL)

    def listens(self, port: int, host: str = "127.0.0.1", banner: bytes = b"") -> bool:
        """Tell whether something listens on the port now, and says ``banner`` first."""
        return _listens(host, port, banner)

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


def _listens(host: str, port: int, banner: bytes) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1) as probe:
            # A local port that nobody listens on may come to be connected to itself.
            if probe.getsockname() == probe.getpeername():
                return False
            said = b""
            while banner.startswith(said) and len(said) < len(banner):
                if not (more := probe.recv(len(banner) - len(said))):
                    return False
                said += more
            return said == banner
    except OSError:
        return False
