"""Service scripts: the base class, and how a script file is found and checked.

The interface is that of contract.md, "Service script".
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

from wsserver.config import ServiceSpec, json_path
from wsserver.errors import ConfigError, ServiceFailed
from wsserver.processes import ProcessGroup

#: Host and port of a listening socket.
Address = tuple[str, int]

#: The scripts shipped with the package.
SHIPPED = Path(__file__).parent / "services"

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


Create = Callable[[str, int, Mapping[str, Any], Mapping[str, str]], RemoteServiceScript]


def _no_reason(common_options: Mapping[str, Any]) -> str | None:
    return None


def _no_check(common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
    return None


@dataclass(frozen=True)
class Script:
    """What a script file offers."""

    create: Create
    unavailable: Callable[[Mapping[str, Any]], str | None] = _no_reason
    check: Callable[[Mapping[str, Any], Mapping[str, str]], None] = _no_check


@dataclass(frozen=True)
class Offer:
    """A service type together with its script, ready to be reserved.

    ``unavailable`` says why it cannot run on this machine, where it cannot.
    """

    spec: ServiceSpec
    script: Script = field(repr=False)
    unavailable: str | None = None


def load_offers(specs: Iterable[ServiceSpec], folder: Path) -> dict[str, Offer]:
    """Find, import and check the script of each service.

    Raises:
        ConfigError: with every problem of every script.
    """
    offers: dict[str, Offer] = {}
    problems: list[str] = []
    for spec in specs:
        try:
            script = load_script(find_script(spec.script, folder))
            reason = script.unavailable(spec.options)
        except ScriptError as error:
            problems.append(f"{json_path(spec.name, 'script')}: {error}")
        except Exception as error:
            where = json_path(spec.name, "options")
            problems.append(f"{where}: the script does not accept them: {_brief(error)}")
        else:
            offers[spec.name] = Offer(spec, script, reason)
    if problems:
        raise ConfigError(problems)
    return offers


class ScriptError(Exception):
    """A script file cannot be used; the message says why."""


def find_script(name: str, folder: Path) -> Path:
    """Return the file of a script: beside the service file first, then among the shipped.

    Raises:
        ScriptError: there is none, or it lies outside of those folders.
    """
    for base in (folder, SHIPPED):
        try:
            path = (base / name).resolve()
            found = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise ScriptError(f"{name!r} is no file name: {error}") from None
        if not path.is_relative_to(base.resolve()):
            raise ScriptError(f"{name} lies outside of {base}")
        if found:
            return path
    raise ScriptError(f"{name} stands neither in {folder} nor among the shipped scripts")


def load_script(path: Path) -> Script:
    """Import a script file and find what it offers.

    Raises:
        ScriptError: the import fails, or there is not exactly one service script in it.
    """
    module = _import(path)
    create = getattr(module, "create", None)
    # A class that has two names there is still one.
    found = list(
        {
            value: None
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, RemoteServiceScript)
            and value.__module__ == module.__name__
        }
    )
    if len(found) == 1:
        one = found[0]
        return Script(create if callable(create) else one, one.unavailable, one.check)
    if callable(create):
        return Script(create)
    names = ", ".join(c.__name__ for c in found)
    what = f"{len(found)} subclasses ({names})" if found else "no subclass"
    raise ScriptError(f"{path.name} defines {what} of RemoteServiceScript, and no create()")


def _import(path: Path) -> ModuleType:
    name = f"wsserver_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScriptError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ScriptError(f"{path.name} cannot be imported: {_where(error, path)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    # A syntax error may also be one of a module that the script imports.
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"line {lines[-1]}: {_brief(error)}" if lines else _brief(error)


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
