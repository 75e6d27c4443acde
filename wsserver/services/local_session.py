"""``--local_session APP COUNT``: a program of this host that serves VNC by itself.

The program is started as ``APP -port PORT [FILE]`` and must serve RFB (VNC) on that
port of the loopback address.  FILE is the reserve option ``target_pathname``.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsserver import RemoteServiceScript, ServiceFailed


class LocalSession(RemoteServiceScript):
    """Starts the program that the common option ``app`` names."""

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Tell whether the program is missing."""
        app = str(common_options["app"])
        return None if shutil.which(app) else f"{app} is not on the PATH"

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Check the name of the file."""
        path = options.get("target_pathname", "")
        if path.startswith("-") or any(ord(letter) < 32 for letter in path):
            raise ValueError(f"target_pathname is no file name: {path!r}")

    def start(self) -> tuple[str, int]:
        """Start the program; return where it listens."""
        port = self.free_port()
        argv = [str(self._common_options["app"]), "-port", str(port)]
        if path := self._options.get("target_pathname"):
            if not Path(path).exists():
                raise ServiceFailed(f"{path} does not exist")
            argv.append(path)
        self.progress(f"starting {argv[0]}")
        return self.wait_for_port(port, process=self.spawn(argv))
