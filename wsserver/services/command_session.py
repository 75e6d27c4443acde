"""Any program that listens on a TCP port.

Common options: ``command`` (its arguments; no shell sees them), ``env``, ``cwd``, ``port``
or ``port_base`` (the instance's index is added; else a free port), ``ready`` ("port":
it accepts; {"banner": "RFB 003."}: it says so first; {"line": REGEX}: a line of its
output), ``password`` (true: a random one-time VNC password for {password_file}).

``command``, ``env`` and ``cwd`` may hold ``{port}``, ``{index}``, ``{python}``,
``{password_file}`` and ``{option.NAME}`` for each option of ``reserve_options``; a
reservation may have no others.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from wsserver import ProcessGroup, RemoteServiceScript, ServiceFailed
from wsserver.services import _desktop, _password, _template

_NAMES = ("port", "index", "python", "password_file")


class Ready(_template.Strict):
    """How the program shows that it is ready."""

    banner: str | None = None
    line: str | None = None

    @field_validator("line")
    @classmethod
    def _compiles(cls, line: str | None) -> str | None:
        try:
            re.compile(line or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return line

    @model_validator(mode="after")
    def _one(self) -> Ready:
        if (self.banner is None) == (self.line is None):
            raise ValueError('either {"banner": TEXT} or {"line": REGEX}')
        return self


class CommandOptions(_template.Strict):
    """The common options."""

    command: Annotated[list[str], Field(min_length=1)]
    env: dict[str, str] = {}
    cwd: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    port_base: Annotated[int, Field(ge=1, le=65535)] | None = None
    ready: Literal["port"] | Ready = "port"
    password: bool = False

    @model_validator(mode="after")
    def _one_port(self) -> CommandOptions:
        if self.port is not None and self.port_base is not None:
            raise ValueError("port and port_base exclude one another")
        return self

    @property
    def texts(self) -> list[str]:
        """Everything that may hold placeholders."""
        return [*self.command, *self.env.values(), self.cwd or ""]


class CommandSession(RemoteServiceScript):
    """Starts the program of the service file."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Tell whether the program is missing; raise ValueError for a mistake in the options."""
        options = _template.checked(CommandOptions, common_options)
        named = _template.option_values(dict.fromkeys(_template.option_names(common_options), ""))
        _template.check(options.texts, [*_NAMES, *named])
        program = options.command[0]
        if "{" in program or shutil.which(program):
            return None
        return f"{program} is not installed"

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Let a reservation have the options that the service file names, and no others."""
        _desktop.check_size(common_options, options)
        for name in set(options) - _template.option_names(common_options):
            raise ValueError(f"{name} is no option of this service")

    def start(self) -> tuple[str, int]:
        """Start the program; return where it listens."""
        options = _template.checked(CommandOptions, self._common_options)
        port = self._port(options)
        values = self._values(options, port)
        argv = _template.fill_all(options.command, values)
        env = {name: _template.fill(text, values) for name, text in options.env.items()}
        cwd = _template.fill(options.cwd, values) if options.cwd is not None else None
        self.progress(f"starting {Path(argv[0]).name}")
        return self._wait(options.ready, port, self.spawn(argv, env, cwd))

    def stop(self) -> None:
        """End the program, and forget the password."""
        super().stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _port(self, options: CommandOptions) -> int:
        if options.port_base is not None:
            port = options.port_base + self._index
        elif options.port is not None:
            port = options.port
        else:
            return self.free_port()
        # What listens there already would be taken for the program.
        if self.listens(port):
            raise ServiceFailed(f"port {port} is taken by another program")
        return port

    def _values(self, options: CommandOptions, port: int) -> dict[str, str]:
        values = {"port": str(port), "index": str(self._index), "python": sys.executable}
        values |= {"password_file": str(self._password_file()) if options.password else ""}
        chosen = dict(self._options)
        if self._common_options.get("sizes"):
            chosen["session_size"] = _desktop.chosen_size(self._common_options, self._options)
        return values | _template.option_values(chosen)

    def _password_file(self) -> Path:
        password = _password.new_password()
        self._folder = tempfile.TemporaryDirectory(prefix="wsserver-")
        file = Path(self._folder.name) / "password"
        file.write_bytes(_password.obscured(password))
        self.share(password=password)
        return file

    def _wait(
        self, ready: Literal["port"] | Ready, port: int, program: ProcessGroup
    ) -> tuple[str, int]:
        # How long it may take is start_timeout's business alone.
        if isinstance(ready, Ready) and ready.line is not None:
            line = re.compile(ready.line, re.MULTILINE)
            failure = f"{program.name} did not say that it is ready"
            self.wait_until(
                lambda: line.search(program.output()) is not None, failure, program, math.inf
            )
            return "127.0.0.1", port
        banner = (ready.banner or "") if isinstance(ready, Ready) else ""
        return self.wait_for_port(port, "127.0.0.1", program, math.inf, banner.encode())
