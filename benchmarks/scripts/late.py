"""A service that listens late: figure "first byte to the browser after the service listens"."""

import sys
from pathlib import Path

from wsserver import RemoteServiceScript

LISTENER = Path(__file__).with_name("late_listener.py")


class Late(RemoteServiceScript):
    def start(self):
        port = self.free_port()
        process = self.spawn([sys.executable, str(LISTENER), str(port), self._options["delay"]])
        if self._options["wait"] == "true":
            return self.wait_for_port(port, process=process)
        return "127.0.0.1", port
