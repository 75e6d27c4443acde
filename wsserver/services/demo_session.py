"""A demonstration that needs no other program: a small VNC server in pure Python.

Common option ``sizes``: choices of the reserve option ``session_size``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from wsserver import RemoteServiceScript
from wsserver.services import _desktop


class DemoSession(RemoteServiceScript):
    """Starts ``python -m wsserver.services.rfb_demo``."""

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Check the chosen size."""
        _desktop.check_size(common_options, options)

    def start(self) -> tuple[str, int]:
        """Start the server; return where it listens."""
        port = self.free_port()
        size = _desktop.chosen_size(self._common_options, self._options)
        command = [sys.executable, "-m", "wsserver.services.rfb_demo", str(port), size]
        return self.wait_for_port(port, process=self.spawn(command))
