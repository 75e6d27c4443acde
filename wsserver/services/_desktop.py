"""What the desktop scripts share: sizes, displays, X cookies, the programs of a desktop."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from wsserver import RemoteServiceScript, ServiceFailed

#: How many displays above the wanted one are tried.
TRIES = 20

WINDOW_MANAGERS = ("openbox", "xfwm4", "fluxbox", "icewm", "twm")
_SIZE = re.compile(r"[1-9]\d{1,4}x[1-9]\d{1,4}", re.ASCII)

_lock = Lock()
_in_use: set[int] = set()


def check_size(common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Raise ValueError unless ``session_size`` is one that the service offers."""
    size = options.get("session_size")
    offered = common_options.get("sizes", [])
    if size is None:
        return
    if not _SIZE.fullmatch(size):
        raise ValueError(f"session_size must look like 1280x800, not {size!r}")
    if offered and size not in offered:
        raise ValueError(f"session_size must be one of {', '.join(offered)}, not {size}")


def chosen_size(common_options: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """Return the size of a desktop: chosen, else the first offered."""
    first = next(iter(common_options.get("sizes", [])), "1280x800")
    return options.get("session_size", str(first))


def words(command: str | Sequence[str]) -> list[str]:
    """Return a command of the service file as an argument list; no shell is involved."""
    return shlex.split(command) if isinstance(command, str) else [str(w) for w in command]


class Desktop(RemoteServiceScript):
    """A desktop on an X display of its own."""

    #: The display that was taken, or -1.
    display = -1
    _folder: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Check the chosen size."""
        check_size(common_options, options)

    @property
    def size(self) -> str:
        """The size of the desktop, "WxH"."""
        return chosen_size(self._common_options, self._options)

    def stop(self) -> None:
        """End the programs, and give the display back."""
        super().stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        if self.display >= 0:
            # A server that had to be killed leaves these behind.
            for left in (_lock_file(self.display), _socket_file(self.display)):
                left.unlink(missing_ok=True)
            with _lock:
                _in_use.discard(self.display)
            self.display = -1

    def take_display(self) -> int:
        """Return a free display: ``display_base`` + index, or the next ones where it is taken.

        Raises:
            ServiceFailed: none of them is free.
        """
        wanted = int(self._common_options.get("display_base", 1)) + self._index
        for number in range(wanted, wanted + TRIES):
            with _lock:
                if number not in _in_use and _free(number):
                    _in_use.add(number)
                    self.display = number
                    return number
            self.progress(f"display :{number} is taken, trying :{number + 1}")
        raise ServiceFailed(f"no display from :{wanted} to :{wanted + TRIES - 1} is free")

    def private_file(self, name: str) -> Path:
        """Return the path of a file that only this user can read, gone after ``stop``."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="wsserver-")
        return Path(self._folder.name) / name

    def cookie(self) -> Path:
        """Write the X authority file of the display, so that other users stay out."""
        path = self.private_file("authority")
        fields = (b"", str(self.display).encode(), b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))
        packed = b"".join(struct.pack(">H", len(field)) + field for field in fields)
        path.write_bytes(struct.pack(">H", 0xFFFF) + packed)
        return path

    def start_programs(self) -> None:
        """Start the window manager and the startup command on the display."""
        env = {"DISPLAY": f":{self.display}"}
        if (authority := self.private_file("authority")).exists():
            env["XAUTHORITY"] = str(authority)
        for command in (self._window_manager(), self._startup()):
            if command:
                self.progress(f"starting {os.path.basename(command[0])}")
                self.spawn(command, env)

    def _window_manager(self) -> list[str]:
        chosen = self._common_options.get("window_manager")
        if chosen is not None:
            return words(chosen)
        return [name for name in WINDOW_MANAGERS if shutil.which(name)][:1]

    def _startup(self) -> list[str]:
        chosen = self._common_options.get("startup")
        if chosen is not None:
            return words(chosen)
        return ["xterm", "-geometry", "100x30+60+60"] if shutil.which("xterm") else []


def _lock_file(display: int) -> Path:
    return Path(f"/tmp/.X{display}-lock")  # noqa: S108  the X server's own place


def _socket_file(display: int) -> Path:
    return Path(f"/tmp/.X11-unix/X{display}")  # noqa: S108


def _free(display: int) -> bool:
    """Tell whether no X server has the display, and nobody its VNC port.

    The files of a dead server do not count.
    """
    try:
        os.kill(int(_lock_file(display).read_text()), 0)
    except PermissionError:
        return False
    except (FileNotFoundError, ProcessLookupError, ValueError):
        pass
    else:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(_socket_file(display))) == 0:
            return False
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 5900 + display)) != 0
