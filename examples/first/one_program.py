"""One text program on a screen of its own: the example of docs/scripts.md."""

import shutil

from wsserver import RemoteServiceScript


class OneProgram(RemoteServiceScript):
    @classmethod
    def unavailable(cls, common_options):
        missing = [name for name in ("Xvnc", "xterm") if shutil.which(name) is None]
        return f"{' and '.join(missing)}: not installed" if missing else None

    def start(self):
        display = self._common_options["display_base"] + self._index
        port = 5900 + display
        self.progress("starting the screen")
        access = ["-localhost", "-SecurityTypes", "None"]
        screen = self.spawn(["Xvnc", f":{display}", "-rfbport", str(port), *access])
        self.wait_for_port(port, process=screen, banner=b"RFB ")
        program = self._options["program"]
        self.progress(f"starting {program}")
        terminal = ["xterm", "-geometry", "170x58", "-e", program]
        self.spawn(terminal, env={"DISPLAY": f":{display}"})
        return "127.0.0.1", port
