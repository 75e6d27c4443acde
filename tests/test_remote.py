"""Another host by ssh: what ssh is told, and what is made of its answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver import RemoteServiceScript, ServiceFailed
from wsserver.services import _remote
from wsserver.services._remote import Ssh, SshOptions, shell_command

#: Stands for ssh: writes down how it was called, and does what the variable says.
FAKE = """#!/bin/sh
printf '%s\\n' "$*" >>"$FAKE_SSH.calls"
[ -f "$FAKE_SSH" ] && . "$FAKE_SSH"
"""


def speak(connection: socket.socket) -> None:
    """Say something, and wait until the other side has gone."""
    with connection:
        connection.sendall(b"h")
        connection.recv(1)


class CommandTests(SynchronousTestCase):
    #: Whoever logs in there may have one of these.
    shells = [shell for shell in ("sh", "bash", "dash", "tcsh") if shutil.which(shell)]

    def through_a_shell(self, script: str, **variables: str) -> str:
        command = shell_command(script, variables)
        self.assertNotIn("\n", command)
        answers = {
            subprocess.run([shell, "-c", command], capture_output=True, check=True).stdout
            for shell in self.shells
        }
        (answer,) = answers
        return answer.decode()

    def test_script(self) -> None:
        """A script of several lines arrives as it is."""
        script = "# it's\nprintf '%s|' \"$a\" 'b\\n'\n"
        self.assertEqual(self.through_a_shell(script, a="x  y"), "x  y|b\\n|")

    def test_odd_values(self) -> None:
        """So are those that a shell, printf or ssh might take for their own."""
        for value in (
            "it's",
            '"',
            "\\",
            "\\n\\0101\\c",
            "%s%d%%",
            "a\n\nb\n",
            "\r\t",
            "$(id)`id`",
            "ä€😀",
        ):
            self.assertEqual(self.through_a_shell('printf %s "$a"; echo .', a=value), value + ".\n")

    @settings(max_examples=30, deadline=None)
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
    def test_values(self, value: str) -> None:
        """Every value arrives as it is."""
        self.assertEqual(self.through_a_shell('printf %s "$a"; echo .', a=value), value + ".\n")


class SshTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        program = self.folder / "ssh"
        program.write_text(FAKE)
        program.chmod(0o755)
        path = f"{self.folder}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "FAKE_SSH": str(self.folder / "does")}
        self.patch(os, "environ", environment)
        self.script = RemoteServiceScript("Test", 0, {}, {})
        self.addCleanup(self.script.stop)

    def ssh(self, does: str = "cat >/dev/null", **options: Any) -> Ssh:
        (self.folder / "does").write_text(does)
        return Ssh(self.script, "far", SshOptions.model_validate(options))

    @property
    def calls(self) -> list[str]:
        return (self.folder / "does.calls").read_text().splitlines()

    def test_flags(self) -> None:
        """Nothing is asked for, the host key is checked, and what the file says is passed on."""
        ssh = self.ssh("echo 'wsserver: connected'; cat >/dev/null")
        port = ssh.connect("127.0.0.1:5901")
        (call,) = self.calls
        for flag in (
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=yes",
            "-oExitOnForwardFailure=yes",
            "-oControlPath=none",
            f"-L 127.0.0.1:{port}:127.0.0.1:5901 far ",
        ):
            self.assertIn(flag, call)

    def test_listens(self) -> None:
        """A forwarded port has somebody behind it where it does not close at once."""
        self.patch(_remote, "QUIET", 0.05)
        ssh = self.ssh()
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            self.assertTrue(ssh.listens(port))
            server.accept()[0].close()
            for does, expected in ((socket.socket.close, False), (speak, True)):
                thread = threading.Thread(target=lambda does=does: does(server.accept()[0]))
                thread.start()
                self.assertEqual(ssh.listens(port), expected)
                thread.join()
        self.assertFalse(ssh.listens(port))

    def test_options(self) -> None:
        """The options of the service file; those of ssh itself come first, and so win."""
        ssh = self.ssh(
            "echo 'wsserver: connected'; cat >/dev/null",
            user="viz",
            port=2222,
            identity="/key",
            known_hosts="/hosts",
            options=["ServerAliveInterval=1"],
        )
        ssh.connect("x:1")
        (call,) = self.calls
        for flag in (
            "-l viz",
            "-p 2222",
            "-i /key -oIdentitiesOnly=yes",
            "-oUserKnownHostsFile=/hosts",
        ):
            self.assertIn(flag, call)
        first, second = call.index("AliveInterval=1"), call.index("AliveInterval=5")
        self.assertLess(first, second)

    def test_steps(self) -> None:
        """The steps of a script are its marked lines, in their order, while it runs."""
        program = self.script.spawn(
            ["sh", "-c", "echo 'wsserver: one'; echo noise; echo 'wsserver: two'; cat"], stdin=b""
        )
        wait_until(lambda: program.output().count("\n") == 3)
        self.assertEqual(_remote.steps_of(program), ["one", "two"])
        self.script.stop()
        error = self.assertRaises(ServiceFailed, _remote.steps_of, program)
        self.assertEqual(str(error), "it ended, with status 0")

    def test_mistakes(self) -> None:
        """Options that ssh would take for something else are refused."""
        for wrong in (
            {"user": "-lroot"},
            {"user": "a@b"},
            {"port": 0},
            {"options": ["-oProxyCommand=x"]},
            {"options": ["ProxyCommand"]},
            {"control_master": "yes"},
            {"password": "x"},
        ):
            self.assertRaises(ValidationError, SshOptions.model_validate, wrong)

    def test_ssh_gone(self) -> None:
        """That a forwarded port cannot be given back does not keep anything from ending."""
        ssh = self.ssh(
            "case $* in *-O*) exit 255 ;; *) cat >/dev/null ;; esac", control_master=True
        )
        ssh.run("true", "/there")
        ssh.forget()
        self.assertEqual(sum("-O cancel" in call for call in self.calls), 1)

    def failure(self, does: str) -> str:
        return str(self.assertRaises(ServiceFailed, self.ssh(does).connect, "x:1"))

    def test_refused(self) -> None:
        """What ssh complains of is told."""
        said = self.failure("echo noise; echo 'Host key verification failed.' >&2; exit 255")
        self.assertEqual(said, "far cannot be reached by ssh: Host key verification failed.")
        self.assertEqual(self.failure("exit 255"), "far cannot be reached by ssh: no answer")

    def test_command_fails(self) -> None:
        """So is what the command says, or its status."""
        self.assertEqual(self.failure("echo 'wsserver failed: no disk'; exit 1"), "far: no disk")
        self.assertEqual(self.failure("exit 7"), "far: it ended, with status 7")
        self.assertEqual(self.failure("echo 'wsserver failed: no'; exit 255"), "far: no")

    def test_odd_host(self) -> None:
        """A host that would be an option of ssh is refused."""
        for host in ("-oProxyCommand=x", ""):
            self.assertRaises(ServiceFailed, Ssh, self.script, host, SshOptions())

    def test_shared_connection(self) -> None:
        """A connection that is shared goes on, so its forwarded port is given back."""
        ssh = self.ssh("case $* in *-O*) ;; *) cat >/dev/null ;; esac", control_master=True)
        ssh.run("true", "/there")
        ssh.forget()
        ssh.forget()
        self.script.stop()
        cancelled = [call for call in self.calls if "-O cancel -L 127.0.0.1:" in call]
        self.assertEqual(len(cancelled), 1)
        self.assertIn(f"ControlPath={_remote._shared_folder()}/%C", cancelled[0])
        self.assertEqual(Path(_remote._shared_folder()).stat().st_mode & 0o077, 0)

    def test_unsafe_folder(self) -> None:
        """A folder in which others could put a socket is not used."""
        self.patch(_remote.tempfile, "gettempdir", lambda: str(self.folder))
        Path(_remote._shared_folder()).chmod(0o777)
        error = self.assertRaises(ServiceFailed, _remote._shared_folder)
        self.assertIn("is not safe", str(error))

    def test_opened_once(self) -> None:
        """It is opened by a process of its own, unless it is open; sessions open none."""
        ssh = self.ssh(
            "case $* in *check*) test -e open ;; *true) touch open ;; *) cat >/dev/null ;; esac",
            control_master=True,
        )
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.mktemp_folder())
        ssh.run("cat", "/there")
        ssh.run("cat", "/there")
        opening = [call for call in self.calls if "-oControlMaster=auto" in call]
        self.assertEqual(len(opening), 1)
        self.assertTrue(opening[0].endswith("far true"))
        self.assertLess(opening[0].index("Master=auto"), opening[0].index("Master=no"))
        self.assertEqual(sum("-O check" in call for call in self.calls), 2)

    def test_cannot_be_opened(self) -> None:
        """That it cannot be opened is told as that of any other connection."""
        ssh = self.ssh("echo 'Permission denied' >&2; exit 255", control_master=True)
        error = self.assertRaises(ServiceFailed, ssh.run, "cat", "/there")
        self.assertEqual(str(error), "far cannot be reached by ssh: Permission denied")

    def mktemp_folder(self) -> str:
        name = self.mktemp()
        os.mkdir(name)
        return name

    def test_own_connection(self) -> None:
        """A connection of its own ends with the session, and needs no more."""
        ssh = self.ssh()
        ssh.run("true", "/there")
        ssh.forget()
        self.script.stop()
        self.assertNotIn("-O", "".join(self.calls))
