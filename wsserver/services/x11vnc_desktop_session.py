"""Shares an X display of this host by x11vnc.

Common options: ``display`` (such as ":0"), or ``display_base`` (the instance's index
is added); ``host`` (this host); ``xvfb`` (true: start a virtual screen there first,
with ``sizes``, ``window_manager`` and ``startup`` as in desktop_session.py).
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from typing import Any

from wsserver import ProcessGroup, ServiceFailed
from wsserver.services import _desktop

#: How long a virtual screen may take to start, in seconds.
SCREEN_TIMEOUT = 20.0


class X11VNCDesktopSession(_desktop.Desktop):
    """Starts x11vnc, and a virtual screen where one is wanted."""

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Tell whether the host is another one, or a program is missing."""
        host = str(common_options.get("host", "localhost"))
        if host not in ("", "localhost", "127.0.0.1", socket.gethostname(), socket.getfqdn()):
            return f"{host} is another host, and these cannot be reached yet"
        programs = ["x11vnc", *(["Xvfb"] if common_options.get("xvfb") else [])]
        missing = [name for name in programs if shutil.which(name) is None]
        return f"{' and '.join(missing)}: not installed" if missing else None

    def start(self) -> tuple[str, int]:
        """Share the display; return where x11vnc listens."""
        if self._common_options.get("xvfb"):
            display = f":{self.take_display(ports=False)}"
            self._start_screen(display)
            self.start_programs()
        else:
            display = self._existing()
        port = self.free_port()
        self.progress("starting x11vnc")
        argv = ["x11vnc", "-display", display, "-rfbport", str(port), "-localhost"]
        argv += ["-forever", "-shared", "-nopw", "-quiet", "-noxrecord"]
        authority = self.private_file("authority")
        argv += ["-auth", str(authority)] if authority.exists() else []
        # Of several listeners on the host it must be this one, not one on IPv6 as well.
        server = self.spawn([*argv, "-no6"])
        return self.wait_for_port(port, process=server)

    def _existing(self) -> str:
        number = int(self._common_options.get("display_base", 0)) + self._index
        return str(self._common_options.get("display", f":{number}"))

    def _start_screen(self, display: str) -> None:
        self.progress("starting Xvfb")
        argv = ["Xvfb", display, "-screen", "0", f"{self.size}x24", "-nolisten", "tcp"]
        screen = self.spawn([*argv, "-auth", str(self.cookie())])
        self._wait_for_screen(screen, display)

    def _wait_for_screen(self, screen: ProcessGroup, display: str) -> None:
        deadline = time.monotonic() + SCREEN_TIMEOUT
        path = os.path.join("/tmp/.X11-unix", f"X{display[1:]}")  # noqa: S108
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path) == 0:
                    return
            if not screen.running or self.cancelled.wait(0.02) or time.monotonic() > deadline:
                raise ServiceFailed("the virtual screen did not start")
