"""One-time VNC passwords, in the form that VNC servers read."""

from __future__ import annotations

import secrets
import shutil
import string
import subprocess

from wsserver import ServiceFailed

#: A VNC password has no more characters that count.
LENGTH = 8

_LETTERS = string.ascii_letters + string.digits


def new_password() -> str:
    """Return a random password of 8 characters, 47 bits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(LENGTH))


def obscured(password: str) -> bytes:
    """Return the content of a VNC password file, as Xvnc and x11vnc read it.

    Raises:
        ServiceFailed: TigerVNC's vncpasswd is not installed.
    """
    program = shutil.which("tigervncpasswd") or shutil.which("vncpasswd")
    if program is None:
        raise ServiceFailed("vncpasswd is not installed, so there can be no password")
    done = subprocess.run([program, "-f"], input=password.encode(), capture_output=True, check=True)
    return done.stdout
