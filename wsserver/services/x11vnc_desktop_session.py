"""Shares an X display by x11vnc, of this host or of another one that ssh reaches.

Common options, all optional: ``host`` (this one), ``ssh`` (user, port, identity,
known_hosts, options, control_master); ``display`` (such as ":0"), or ``display_base``
(0; the instance's index is added); ``xvfb`` (true: start a virtual screen first, with
``sizes``, ``window_manager`` and ``startup``); ``start_command`` and ``stop_command`` (of
another X server; {display} and {index} are filled in); ``auth`` (X authority file, or
"guess"); ``password`` (true: a random one-time VNC password); ``port_base`` (VNC port on
the host; the index is added); ``direct`` (true: connect to that port without ssh
forwarding, by default with a password).
"""

from __future__ import annotations

import secrets
import shlex
import shutil
import socket
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from wsserver import ProcessGroup, RemoteServiceScript
from wsserver.services import _desktop, _password, _template
from wsserver.services._remote import Ssh, SshOptions, shell_command, steps_of

#: What runs where the display is.
SCRIPT = Path(__file__).with_name("x11vnc_desktop.sh")

#: Starts the first that is there; the host may have other ones than this.
_WINDOW_MANAGER = (
    "sh -c 'for name in {names}; do command -v $name >/dev/null && exec $name; done'".format(
        names=" ".join(_desktop.WINDOW_MANAGERS)
    )
)
_STARTUP = "sh -c 'command -v xterm >/dev/null && exec xterm -geometry 100x30+60+60'"

Command = str | list[str]


class X11VNCOptions(_template.Strict):
    """The common options; service files of old may hold further ones."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    host: Annotated[str, Field(pattern=r"^[^-\s][^\s]*$|^$")] = ""
    ssh: SshOptions | None = None
    display: str | None = None
    display_base: Annotated[int, Field(ge=0)] = 0
    xvfb: bool = False
    window_manager: Command = _WINDOW_MANAGER
    startup: Command = _STARTUP
    start_command: Command = ""
    stop_command: Command = ""
    auth: str = ""
    password: bool | None = None
    port_base: Annotated[int, Field(ge=1, le=65535)] | None = None
    direct: bool = False

    @model_validator(mode="after")
    def _sound(self) -> X11VNCOptions:
        if self.direct and self.port_base is None:
            raise ValueError("direct needs port_base")
        if self.xvfb and (self.start_command or self.display is not None):
            raise ValueError("xvfb excludes start_command and display")
        return self

    @property
    def remote(self) -> bool:
        """Whether the display is of another host."""
        here = ("", "localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn())
        return self.ssh is not None or self.host not in here

    @property
    def wants_password(self) -> bool:
        """Whether x11vnc asks for a password."""
        return self.direct if self.password is None else self.password


class X11VNCDesktopSession(RemoteServiceScript):
    """Starts x11vnc, and a screen where one is wanted."""

    #: Longer than the shell script's own, on a slow connection too.
    patience = 8.0

    _ssh: Ssh | None = None
    _folder = ""
    #: How many steps the user has been told.
    _told = 0
    #: What x11vnc prints once it has its port; whoever else has it is not taken for it.
    _listening = ""

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Tell what is missing here; raise ValueError for a mistake in the options."""
        options = _template.checked(X11VNCOptions, common_options)
        for command in (options.start_command, options.stop_command):
            _template.check(_desktop.words(command), ("display", "index"))
        here = ["x11vnc", *(["Xvfb"] if options.xvfb else [])]
        needed = ["ssh"] if options.remote else here
        missing = [name for name in needed if shutil.which(name) is None]
        return f"{' and '.join(missing)}: not installed" if missing else None

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Check the chosen size."""
        _desktop.check_size(common_options, options)

    def start(self) -> tuple[str, int]:
        """Share the display; return where x11vnc is reached from here."""
        options = _template.checked(X11VNCOptions, self._common_options)
        self._folder = f"/tmp/wsserver-{secrets.token_hex(12)}"  # noqa: S108  new, and private
        host, port, program = self._run(options)
        self.wait_until(
            lambda: self._serves(program, host, port),
            f"x11vnc does not answer on {options.host or 'this host'}",
            # how long it may take is up to start_timeout
            timeout=inf,
        )
        return host, port

    def stop(self) -> None:
        """End all of it, there and here."""
        super().stop()
        if self._ssh is not None:
            self._ssh.forget()
        elif self._folder:
            # Left behind only where the script had to be killed.
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, options: X11VNCOptions) -> tuple[str, int, ProcessGroup]:
        fixed = None if options.port_base is None else options.port_base + self._index
        self._listening = "" if fixed is None else f"PORT={fixed}\n"
        password = _password.new_password() if options.wants_password else None
        stdin = b"" if password is None else _password.obscured(password)
        if password is not None:
            self.share(password=password)
        if not options.remote:
            port = fixed or self.free_port()
            command = self._command(options, str(port))
            return "127.0.0.1", port, self.spawn(shlex.split(command), stdin=stdin)
        self.progress(f"connecting to {options.host}")
        self._ssh = Ssh(self, options.host, options.ssh or SshOptions())
        there = f"127.0.0.1:{fixed}" if fixed else f"{self._folder}/vnc"
        command = self._command(options, str(fixed or ""))
        program, forwarded = self._ssh.run(command, there, stdin)
        return (
            (options.host, fixed, program)
            if options.direct and fixed
            else (
                "127.0.0.1",
                forwarded,
                program,
            )
        )

    def _command(self, options: X11VNCOptions, port: str) -> str:
        number = options.display_base + self._index
        display = str(number) if options.display is None else options.display
        values = {"display": display.removeprefix(":"), "index": str(self._index)}
        variables = {
            "folder": self._folder,
            "display": display,
            "tries": str(_desktop.TRIES if options.xvfb else 0),
            "size": _desktop.chosen_size(self._common_options, self._options),
            "window_manager": _quoted(options.window_manager),
            "startup": _quoted(options.startup),
            "start_command": _quoted(options.start_command, values),
            "stop_command": _quoted(options.stop_command, values),
            "auth": options.auth,
            "port": port,
            "public": "yes" if options.direct else "no",
            "password": "yes" if options.wants_password else "no",
        }
        return shell_command(SCRIPT.read_text("utf-8"), variables)

    def _serves(self, program: ProcessGroup, host: str, port: int) -> bool:
        said = self._ssh.said(program) if self._ssh is not None else steps_of(program)
        for step in said[self._told :]:
            self.progress(step)
        self._told = len(said)
        ready = "waiting for x11vnc" in said and self._listening in program.output()
        return ready and self.listens(port, host, b"RFB ")


def _quoted(command: Command, values: Mapping[str, str] | None = None) -> str:
    """Return a command of the service file in the words of a shell."""
    words = _desktop.words(command)
    return shlex.join(words if values is None else _template.fill_all(words, values))
