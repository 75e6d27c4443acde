"""The command line."""

from __future__ import annotations

import json
import os
import socket
import time
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.application.service import Application, IServiceMaker, MultiService
from twisted.internet import reactor
from twisted.logger import ILogObserver, capturedLogs
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from wsserver import tap
from wsserver.config import Settings, service_file_schema
from wsserver.tap import Options, TwistdServer, makeService


class TapCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.out = StringIO()
        self.patch(os, "environ", {k: v for k, v in os.environ.items() if "WEBSOCKET" not in k})
        self.patch(__import__("sys"), "stdout", self.out)

    def parse(self, line: str) -> Settings:
        return self.options(line).settings

    def options(self, line: str) -> Options:
        options = Options()
        options.parseOptions(line.split())
        return options

    def exit(self, line: str) -> Any:
        with self.assertRaises(SystemExit) as caught:
            self.parse(line)
        return caught.exception.code

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


class OptionTests(TapCase):
    def test_defaults(self) -> None:
        """Without any word the documented defaults hold."""
        settings = self.parse("")
        self.assertEqual(settings, Settings())
        self.assertEqual((settings.http_port, settings.timeout), (9090, 300))
        self.assertEqual(settings.client_hostname, "127.0.0.1")

    def test_every_option(self) -> None:
        """Each long option works with underscores and with dashes."""
        words = {
            "http_port": 1,
            "http_directory": "d",
            "cert": "c",
            "key": "k",
            "security_token": "s",
            "remote_session_config": "f",
            "client_hostname": "h",
            "client_port": 2,
            "timeout": 3.5,
            "shutdown_timeout": 4.0,
            "max_message_size": 5,
            "body_timeout": 6.0,
            "max_starting": 7,
            "max_sessions": 8,
            "max_connections_per_address": 9,
            "max_reservations_per_address": 0,
            "log_file": "l",
            "interface": "i",
        }
        for join in (lambda n: n, lambda n: n.replace("_", "-")):
            for glue in (" ", "="):
                line = " ".join(f"--{join(name)}{glue}{value}" for name, value in words.items())
                settings = self.parse(line)
                for name, value in words.items():
                    self.assertEqual(getattr(settings, name), value)
        self.assertEqual(self.parse("-c f").remote_session_config, "f")
        self.assertEqual(self.parse("--verbose").verbose, 1)
        self.assertEqual(self.parse("-v --verbose").verbose, 2)

    def test_proxies(self) -> None:
        """Front proxies are listed after one option, and may speak their protocol."""
        settings = self.parse("--trusted-proxies 127.0.0.1 10.0.0.0/8 --proxy-protocol")
        self.assertEqual(settings.trusted_proxies, ["127.0.0.1", "10.0.0.0/8"])
        self.assertTrue(settings.proxy_protocol)

    def test_ws_port(self) -> None:
        """The websocket port may stand first, or last, or be -1."""
        for line, port in (
            ("9000 -c f", 9000),
            ("-c f 9000", 9000),
            ("-1 -c f", -1),
            ("-c f --http_port 1 -1", -1),
            ("--add_header A=B C=D 9000", 9000),
            ("--add_header A=B -1", -1),
            ("--local_session envision 2 9000", 9000),
            ("-c f", None),
        ):
            self.assertEqual(self.parse(line).ws_port, port, line)

    def test_values_keep_their_dashes(self) -> None:
        """Only names of options are written with dashes as well."""
        settings = self.parse("--security-token=a-b_c --add-header X-A=1-2 -c my-file")
        self.assertEqual(settings.security_token, "a-b_c")
        self.assertEqual(settings.headers, [("X-A", "1-2")])
        self.assertEqual(settings.remote_session_config, "my-file")

    def test_add_header(self) -> None:
        """Several headers in one go, or one by one."""
        settings = self.parse("--add_header A=B C=D --add-header E=F")
        self.assertEqual(settings.headers, [("A", "B"), ("C", "D"), ("E", "F")])

    def test_local_session(self) -> None:
        """Several programs, each with its count."""
        settings = self.parse("--local_session ensight 2 --local-session envision 1")
        self.assertEqual(settings.local_session, [("ensight", 2), ("envision", 1)])
        with self.assertRaises(usage.UsageError):
            self.parse("--local_session ensight many")

    def test_unknown(self) -> None:
        """A word that is no option is named."""
        for line in ("--nonsense", "--http_port x", "nine", "--http_dir d"):
            with self.assertRaises(usage.UsageError) as caught:
                self.parse(line)
            self.assertIn(line.split()[-1] if " " in line else line, str(caught.exception))

    def test_sources(self) -> None:
        """The command line wins over the environment, and that over the settings file."""
        path = self.file("s.toml", 'security_token = "file"\ntimeout = 7.0\nhttp-port = 5\n')
        line = f"--settings {path}"
        self.assertEqual(self.parse(line).security_token, "file")
        os.environ["WEBSOCKETSERVER_SECURITY_TOKEN"] = "environment"
        self.assertEqual(self.parse(line).security_token, "environment")
        settings = self.parse(line + " --security_token line --http_port 6")
        self.assertEqual((settings.security_token, settings.timeout), ("line", 7.0))
        self.assertEqual(settings.http_port, 6)
        self.assertNotIn("line", repr(settings))

    def test_empty_secret(self) -> None:
        """A secret that is empty by mistake opens nothing."""
        os.environ["WEBSOCKETSERVER_SECURITY_TOKEN"] = ""
        self.assertIn("security_token", self.exit(""))

    def test_bad_settings(self) -> None:
        """Every problem of the settings is told at once."""
        said = self.exit("--http_port 70000 --timeout -1 --key k --add_header nonsense")
        for name in ("http_port", "timeout"):
            self.assertIn(f"settings.{name}", said)
        self.assertIn("No such file", self.exit(f"--settings {self.folder}/none"))
        path = self.folder / "latin"
        path.write_bytes(b"\xff")
        self.assertIn("no UTF-8", self.exit(f"--settings {path}"))
        self.assertIn("settings", self.exit(f"--settings {self.file('t', 'a = ')}"))

    def test_help(self) -> None:
        """--help shows every option, and ends well."""
        self.assertEqual(self.exit("--help"), 0)
        self.assertIn("--local_session", self.out.getvalue())


class CheckTests(TapCase):
    def test_schema(self) -> None:
        """--schema prints what is shipped."""
        self.assertEqual(self.exit("--schema"), 0)
        self.assertEqual(json.loads(self.out.getvalue()), service_file_schema())

    def test_good(self) -> None:
        """A sound file is said to be sound, and what is unavailable is named."""
        self.assertEqual(self.exit("--check --local_session no-such-program 1"), 0)
        said = self.out.getvalue()
        self.assertIn("local_no-such-program x1: no-such-program is not on the PATH", said)
        self.assertIn("no problems found", said)

    def test_certificate(self) -> None:
        """A certificate that cannot be used is a problem, too."""
        said = self.exit(f"--check --cert {self.folder}/none")
        self.assertIn("No such file", said)
        self.assertEqual(self.out.getvalue(), "")

    def test_logins(self) -> None:
        """Files of users and keys are read, and their problems told with all others."""
        users = self.file("users", "alice:plain")
        said = self.exit(f"--check --htpasswd {users} --jwt_secret_file {self.folder}/none")
        self.assertIn(f"{users}: line 1", said)
        self.assertIn("none: No such file", said)
        said = self.exit("--check --htgroup x --bind_user --failure_limit 0")
        self.assertIn("settings.failure_limit", said)

    def test_permissions(self) -> None:
        """What anybody may change is a warning; the settings are sound all the same."""
        secret = self.file("settings.toml", 'security_token = "x"\nhttp_port = 0')
        secret.chmod(0o606)
        self.assertEqual(self.exit(f"--check --settings {secret}"), 0)
        said = self.out.getvalue()
        for what in ("write", "read"):
            self.assertIn(f"warning: {secret}: everybody on this machine may {what} it", said)
        self.assertIn("no problems found", said)

    def test_unsafe(self) -> None:
        """So is what is unsafe together, with the words of what to do."""
        self.assertEqual(
            self.exit("--check --http_port 0 --interface 0.0.0.0 --allowed_origins *"), 0
        )
        said = self.out.getvalue()
        for what in ("security_token", "TLS", "allowed_origins is *"):
            self.assertIn(what, "".join(line for line in said.splitlines() if "warning" in line))
        self.assertEqual(self.exit("--check --http_port 0"), 0)
        self.assertNotIn("warning", self.out.getvalue().removeprefix(said))

    def test_bad(self) -> None:
        """Problems are the exit message, which makes the status 1."""
        path = self.file("services.json", '{"A": {"script": 1}, "B c": 2}')
        said = self.exit(f"--check -c {path}")
        for part in ("$.A.script", "$.A.count", "$.A.options", '$["B c"]'):
            self.assertIn(part, said)
        self.assertIn("No such file", self.exit(f"--check -c {self.folder}/none"))
        said = self.exit(f"--check --http_directory {self.folder}/none")
        self.assertIn("none is no directory", said)


class ServiceTests(TapCase):
    def setUp(self) -> None:
        super().setUp()
        # makeService makes the reactor's clock monotonic; other tests keep theirs.
        self.patch(reactor, "seconds", reactor.seconds)

    def test_plugin(self) -> None:
        """twistd finds the plugin, and the plugin finds this module."""
        (found,) = [p for p in getPlugins(IServiceMaker) if p.tapname == "wsserver"]
        self.assertIs(found.options, Options)
        self.assertIs(found.makeService, makeService)

    def test_monotonic(self) -> None:
        """Run by twistd, no timer follows the wall clock."""
        service = makeService(self.options("--http_port 0"))
        self.assertIsInstance(service, TwistdServer)
        self.assertIs(reactor.seconds, time.monotonic)

    def test_broken_file(self) -> None:
        """A broken service file ends the start."""
        path = self.file("services.json", "{")
        with self.assertRaises(SystemExit) as caught:
            makeService(self.options(f"-c {path}"))
        self.assertIn("line 1", str(caught.exception))

    def test_port_in_use(self) -> None:
        """A taken port is one line, and nothing else listens either."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            line = f"--http_port 0 --interface 127.0.0.1 {port}"
            service = makeService(self.options(line))
            with self.assertRaises(SystemExit) as caught, capturedLogs() as events:
                service.privilegedStartService()
        self.assertEqual(caught.exception.code, 1)
        self.assertIn(f":{port}", events[-1]["error"])
        self.assertEqual(service._ports, [])

    def test_log(self) -> None:
        """The log goes where the options say; the application carries its observer."""
        for twistd, line, file in (
            ({"nodaemon": True}, "", None),
            ({"nodaemon": True}, "--log_file mine", "mine"),
            ({"nodaemon": False}, "", "twistd.log"),
            ({"nodaemon": False, "logfile": "theirs"}, "", "theirs"),
            ({"nodaemon": True, "logfile": "-"}, "", None),
        ):
            options = self.options(f"--http_port 0 {line}")
            options.parent = twistd
            seen: list[Any] = []
            self.patch(tap, "observer", lambda *a, seen=seen: seen.append(a))
            makeService(options)
            self.assertEqual(seen, [(file, 0)])

    def test_observer(self) -> None:
        """twistd logs as we want it to."""
        service = makeService(self.options("--http_port 0"))
        application = Application("wsserver")
        service.setServiceParent(application)
        self.assertIs(application.getComponent(ILogObserver), service.log_observer)

    def test_verbosity(self) -> None:
        """Each -v is handed to the log."""
        seen: list[Any] = []
        self.patch(tap, "observer", lambda *a: seen.append(a))
        for line in ("-v", "-v -v", "--verbose"):
            makeService(self.options(f"--http_port 0 {line}"))
        self.assertEqual([verbosity for _, verbosity in seen], [1, 2, 1])

    def test_part_of_another_service(self) -> None:
        """Below a service that is no application the log is left as it is."""
        parent = MultiService()
        service = makeService(self.options("--http_port 0"))
        service.setServiceParent(parent)
        self.assertEqual(list(parent), [service])

    def test_log_that_cannot_be_written(self) -> None:
        """A log file that cannot be written ends the start with its name."""
        with self.assertRaises(SystemExit) as caught:
            makeService(self.options(f"--http_port 0 --log_file {self.folder}/no/log"))
        self.assertIn("no/log: No such file", str(caught.exception))

    def test_ends_in_time(self) -> None:
        """From the stop on the process ends in time, whatever hangs."""
        seen: list[float] = []
        self.patch(tap, "end_in_time", seen.append)
        service = makeService(self.options("--http_port 0 --shutdown_timeout 7"))
        service.stopService()
        self.assertEqual(seen, [])
        service.running = 1
        self.patch(tap.Server, "stopService", lambda _: None)
        service.stopService()
        self.assertEqual(seen, [7.0])

    def test_unsafe_state(self) -> None:
        """A state directory into which others may write is one line, and nothing listens."""
        state = self.folder / "state"
        state.mkdir()
        state.chmod(0o777)
        service = makeService(self.options(f"--http_port 0 --state_directory {state}"))
        with self.assertRaises(SystemExit) as caught, capturedLogs() as events:
            service.privilegedStartService()
        self.assertEqual(caught.exception.code, 1)
        self.assertIn("others may write into", events[-1]["error"])
        self.assertEqual(service._ports, [])


class TryTests(TapCase):
    def setUp(self) -> None:
        super().setUp()
        self.tried: list[tuple[str, dict[str, str]]] = []

        def fake(offer: Any, options: dict[str, str]) -> bool:
            self.tried.append((offer.spec.name, options))
            return "bad" not in options

        self.patch(tap, "try_service", fake)
        entry = {"script": "demo_session.py", "count": 1, "options": {}}
        self.services = self.file("s.json", json.dumps({"Demo": entry, "What?": entry}))

    def test_names(self) -> None:
        """A service is named as in the URL of a reservation, with or without options."""
        for wanted, name, options in (
            ("Demo", "Demo", {}),
            ("Demo?a=1&b=", "Demo", {"a": "1", "b": ""}),
            ("What?", "What?", {}),
            ("What??a=1", "What?", {"a": "1"}),
            ("Demo?url=http://a/?b", "Demo", {"url": "http://a/?b"}),
        ):
            self.assertEqual(self.exit(f"-c {self.services} --try {wanted}"), 0)
            self.assertEqual(self.tried.pop(), (name, options))

    def test_status(self) -> None:
        """Problems are the exit status 1; an unknown service is a mistake of usage."""
        self.assertEqual(self.exit(f"-c {self.services} --try Demo?bad=1"), 1)
        with self.assertRaisesRegex(usage.UsageError, "no service is called 'X', but Demo, What"):
            self.parse(f"-c {self.services} --try X")
