"""A desktop of its own for each instance, by TigerVNC's Xvnc.

Common options, all optional: ``sizes`` (choices of the reserve option
``session_size``), ``display_base`` (1; the instance's index is added),
``window_manager`` and ``startup`` (commands), ``password`` (true: a random one-time
password, which the viewer learns with the token; a text: the viewer asks for it; none:
every user of this host who finds the port gets in), ``depth`` (24), ``xvnc`` (the program),
``extra`` (further arguments of Xvnc).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from wsserver.services import _desktop, _password


class DesktopSession(_desktop.Desktop):
    """Starts Xvnc, a window manager and a first program."""

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Tell whether Xvnc is missing; raise ValueError for a password that is none."""
        if not isinstance(common_options.get("password", ""), str | bool | None):
            raise ValueError("password must be true, or a string")
        program = str(common_options.get("xvnc", "Xvnc"))
        return None if shutil.which(program) else f"{program} is not installed"

    def start(self) -> tuple[str, int]:
        """Start the desktop; return where its VNC server listens."""
        display = self.take_display()
        port = 5900 + display
        self.progress("starting Xvnc")
        server = self.spawn(self._xvnc(display, port))
        self.wait_for_port(port, process=server)
        self.start_programs()
        return "127.0.0.1", port

    def _xvnc(self, display: int, port: int) -> list[str]:
        options = self._common_options
        argv = [str(options.get("xvnc", "Xvnc")), f":{display}"]
        argv += ["-rfbport", str(port), "-localhost", "-interface", "127.0.0.1"]
        argv += ["-geometry", self.size, "-depth", str(options.get("depth", 24))]
        argv += ["-desktop", f"{self._name} {self._index}", "-AlwaysShared"]
        argv += ["-auth", str(self.cookie())]
        return [*argv, *self._security(), *_desktop.words(options.get("extra", []))]

    def _security(self) -> list[str]:
        password = self._common_options.get("password")
        if not password:
            return ["-SecurityTypes", "None"]
        if password is True:
            password = _password.new_password()
            self.share(password=password)
        file = self.private_file("password")
        file.touch(0o600)
        file.write_bytes(_password.obscured(password))
        return ["-SecurityTypes", "VncAuth", "-PasswordFile", str(file)]
