"""A script that computes in its thread: figure "lag of the loop"."""

import time

from wsserver import RemoteServiceScript


class Burn(RemoteServiceScript):
    def start(self):
        end = time.monotonic() + float(self._options["seconds"])
        number = 0
        while time.monotonic() < end and not self.cancelled.is_set():
            for _ in range(10_000):
                number = (number * 1103515245 + 12345) % 2147483648
        return "127.0.0.1", self._common_options["port"]
