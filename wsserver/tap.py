"""``twistd wsserver``: the command line (contract.md, "Command line")."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from wsserver.config import Settings, load_settings, make_settings, service_file_schema
from wsserver.errors import ConfigError
from wsserver.inputs import check_directory, offers_of, unsafe
from wsserver.logs import observer
from wsserver.offers import Offer
from wsserver.process import end_in_time, prepare, raise_file_limit, settle
from wsserver.server import Server
from wsserver.sources import read_files
from wsserver.tls import context_factory
from wsserver.tryout import try_service

_TOKEN_VARIABLE = "WEBSOCKETSERVER_SECURITY_TOKEN"  # noqa: S105


#: The waits for clients, and what the help says of them.
_DEADLINES = {
    "head_timeout": "until the head of a request is complete, TLS included; 10",
    "body_timeout": "from there until its body is; 30",
    "connect_timeout": "until --client_port listens; 15",
    "ping_interval": "from one ping of a websocket to the next; 20",
    "ping_timeout": "until a ping must have had an effect; 15",
    "stall_timeout": "how long a client may answer nothing at all; 300",
    "close_timeout": "without progress, until a close takes its next step; 10",
}

#: What there may be at one time, and what the help says of it.
_LIMITS = {
    "max_starting": "most sessions whose service starts; 100",
    "max_sessions": "most sessions of all services, reserved ones included; any number",
    "max_connections_per_address": "most connections of one client; 1000",
    "max_reservations_per_address": "most unused reservations of one client; 100",
}

#: Who can log in and how (docs/identity.md): help, form, kind.
_LOGINS: dict[str, tuple[str, str, type]] = {
    "user_header": ("header in which a trusted proxy names the user", "HEADER", str),
    "groups_header": ("header in which it names their groups, with commas", "HEADER", str),
    "jwt_keys": ("keys that sign tokens of users: PEM or JWKS, file or URL", "WHERE", str),
    "jwt_secret_file": ("file with the secret that signs tokens of users", "FILE", str),
    "jwt_audience": ("name of this server in such tokens", "NAME", str),
    "jwt_issuer": ("who must have made them", "NAME", str),
    "jwt_leeway": ("how far clocks may differ; 30", "SECONDS", float),
    "jwt_user_claim": ("what names the user; sub", "CLAIM", str),
    "jwt_groups_claim": ("what names their groups; groups", "CLAIM", str),
    "htpasswd": ("users with bcrypt passwords", "FILE", str),
    "htgroup": ("their groups", "FILE", str),
    "failure_limit": ("wrong secrets of an address until it has to wait; 5", "COUNT", int),
    "failure_memory": ("how long it has to wait; 300", "SECONDS", float),
}

_log = Logger(namespace="wsserver")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise usage.UsageError(f"{message}\nSee twistd wsserver --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="twistd -n wsserver",
        description="Reserve, launch and tunnel services to web browsers.",
        epilog="Every long option may be written with dashes as well as with underscores.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "ws_port",
        nargs="?",
        type=int,
        default=None,
        help="port of a websocket listener of its own; "
        "default, and -1: websockets come in on the HTTP port",
    )
    add("-c", "--remote_session_config", metavar="FILE", help="the service file (JSON)")
    add("--http_port", type=int, metavar="PORT", help="default 9090; -1 for no HTTP")
    add(
        "--interface",
        metavar="ADDRESS",
        help="address to listen on; default 127.0.0.1, and all ('') where there is a source "
        "of identity",
    )
    add("--http_directory", metavar="DIR", help="serve the files below DIR at /")
    add("--add_header", nargs="+", action="extend", metavar="NAME=VALUE",
        help="add headers to every HTTP answer")  # fmt: skip
    add("--cert", metavar="PEM", help="certificate: serve https and wss")
    add("--key", metavar="PEM", help="key of the certificate, if not in the same file")
    add("--security_token", metavar="SECRET",
        help=f"what REST calls must show; better set {_TOKEN_VARIABLE}")  # fmt: skip
    add("--trusted_proxies", nargs="+", action="extend", metavar="NETWORK",
        help="front proxies whose X-Forwarded-For is believed, such as 127.0.0.1")  # fmt: skip
    add("--proxy_protocol", action="store_true",
        help="those begin each connection with a PROXY header, version 1 or 2")  # fmt: skip
    add("--allowed_origins", action="append", metavar="ORIGIN",
        help="web pages of other hosts that may use websockets and REST, "
        "such as https://app.example; * for all; may be given several times")  # fmt: skip
    add("--allowed_hosts", action="append", metavar="NAME",
        help="names by which browsers may address the server, such as desktops.example; "
        "* for any; may be given several times")  # fmt: skip
    for name, (what, metavar, kind) in _LOGINS.items():
        add(f"--{name}", metavar=metavar, type=kind, help=what)
    add("--bind_user", action="store_true", help="a reservation is of use to its own user alone")
    add("--act_for_users", action="store_true",
        help="reserve takes user and groups from who holds the security token")  # fmt: skip
    add("--frame_ancestors", action="append", metavar="ORIGIN",
        help="pages that may show ours in a frame: origins, self (default), none or *")  # fmt: skip
    add(
        "--client_ca", metavar="PEM", help="clients need a certificate that one of these has signed"
    )
    add("--client_certificates", choices=["optional", "required"], help="default required")
    add("--https_redirect_port", type=int, metavar="PORT",
        help="a plain port that sends browsers to --http_port by https")  # fmt: skip
    add("--hsts", type=int, metavar="SECONDS", help="tell browsers to come by TLS alone")
    add("--client_hostname", metavar="HOST", help="where websockets without token go")
    add("--client_port", type=int, metavar="PORT", help="where websockets without token go")
    add("--timeout", type=float, metavar="SECONDS", help="life of an unused reservation; 300")
    add("--shutdown_timeout", type=float, metavar="SECONDS", help="longest shutdown; 20")
    add("--state_directory", metavar="DIR", help="where it is noted which sessions there are")
    for name, what in _DEADLINES.items():
        add(f"--{name}", type=float, metavar="SECONDS", help=what)
    for name, what in _LIMITS.items():
        add(f"--{name}", type=int, metavar="NUMBER", help=f"{what}; 0 for no limit")
    add("--max_message_size", type=int, metavar="BYTES", help="largest websocket message; 16 MiB")
    add("--local_session", nargs=2, action="append", metavar=("APP", "COUNT"),
        help="offer the program APP as service local_APP")  # fmt: skip
    add("--log_file", metavar="FILE", help="append the log to FILE")
    add("-v", "--verbose", action="count", help="log requests; twice: log everything")
    add("--settings", metavar="FILE", help="TOML file with any of these options")
    add("--check", action="store_true", help="check service file, scripts and settings, then exit")
    add("--try", dest="try_service", metavar="SERVICE[?option=value&...]",
        help="start and stop one instance, tell each step and what is left, then exit")  # fmt: skip
    add("--schema", action="store_true", help="print the JSON Schema of the service file")
    return parser


class Options(usage.Options):
    """The options of ``twistd wsserver``; ``settings`` holds them checked and merged."""

    settings: Settings

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the arguments after ``wsserver``.

        Raises:
            UsageError: an argument is wrong.
            SystemExit: with every problem of the settings; or after --check and --schema.
        """
        given = vars(_parser().parse_args([_underscored(word) for word in options or []]))
        if given.pop("schema", False):
            raise _printed(json.dumps(service_file_schema(), indent=2))
        check = given.pop("check", False)
        tried = given.pop("try_service", None)
        try:
            self.settings = _merged(given)
            if check:
                raise _printed(_checked(self.settings))
            if tried is not None:
                raise SystemExit(0 if _tried(tried, offers_of(self.settings)) else 1)
        except ConfigError as error:
            raise SystemExit(str(error)) from None


def _log_file(options: Options) -> str | None:
    """Return where the log goes; None is standard output."""
    twistd = getattr(options, "parent", None) or {}
    background = None if twistd.get("nodaemon") else "twistd.log"
    log_file: str | None = options.settings.log_file or twistd.get("logfile") or background
    return None if log_file == "-" else log_file


def makeService(options: Options) -> Server:
    """Return the server that twistd runs; problems end the process with status 1."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    prepare(reactor)
    try:
        offers = offers_of(options.settings)
        server = TwistdServer(reactor, options.settings, offers, reactor.stop)
        server.log_observer = observer(_log_file(options), options.settings.verbose)
        return server
    except OSError as error:
        raise SystemExit(f"wsserver: {error.filename}: {error.strerror}") from None
    except ConfigError as error:
        raise SystemExit(str(error)) from None


class TwistdServer(Server):
    """The server as a process of its own: where it cannot listen, it ends with a line."""

    log_observer: ILogObserver

    def setServiceParent(self, parent: Any) -> None:
        """Become part of twistd's application, which logs as ours does."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log_observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """Serve, with all that the process can have for it."""
        signal.signal(signal.SIGHUP, self._hang_up)
        super().startService()
        raise_file_limit()
        settle()

    def _hang_up(self, *_: object) -> None:
        # Not within whatever the signal has interrupted.
        self._reactor.callFromThread(self.reload)

    def stopService(self) -> Deferred[None]:
        """Stop in order; the process ends in time, whatever hangs."""
        if self.running:
            end_in_time(self._settings.shutdown_timeout)
        return super().stopService()

    def privilegedStartService(self) -> None:
        """Listen on every port, or exit."""
        try:
            super().privilegedStartService()
        except (CannotListenError, ConfigError) as error:
            # Standard error belongs to the log by now.
            _log.critical("{error}", error=str(error))
            raise CannotStart(str(error)) from None


class CannotStart(SystemExit, Exception):
    """The end of the process, with status 1.

    An exception as well, as nothing else makes twistd tell its parent process, which would
    wait for ever, and remove the file with its number.
    """

    def __init__(self, why: str) -> None:
        super().__init__(1)
        self._why = why

    def __str__(self) -> str:
        return self._why


def _underscored(word: str) -> str:
    """Return an option with underscores in its name, however it was written."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _merged(given: dict[str, Any]) -> Settings:
    """Join defaults < settings file < environment < command line."""
    given = {name: value for name, value in given.items() if value is not None}
    headers = given.get("add_header", [])
    # "--add_header A=B 9000": the port stands last.
    if "ws_port" not in given and headers and re.fullmatch(r"-1|\d+", headers[-1]):
        given["ws_port"] = int(headers.pop())
    if "local_session" in given:
        given["local_session"] = [_local(app, count) for app, count in given["local_session"]]
    path = given.get("settings")
    token = os.environ.get(_TOKEN_VARIABLE)
    environment = {"security_token": token} if token is not None else {}
    return make_settings(_from_file(path) if path else {}, environment, given)


def _local(app: str, count: str) -> tuple[str, int]:
    if not count.isdigit():
        raise usage.UsageError(f"--local_session {app}: COUNT must be a number, not {count}")
    return app, int(count)


def _from_file(path: str) -> Mapping[str, Any]:
    try:
        return load_settings(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: no UTF-8 at byte {error.start}"]) from error


def _checked(settings: Settings) -> str:
    """Return what --check says of sound settings, or raise ConfigError."""
    check_directory(settings.http_directory)
    read_files(settings)
    offers = offers_of(settings)
    if settings.cert is not None:
        context_factory(settings.cert, settings.key, settings.client_ca)
    lines = [
        f"{name} x{offer.spec.count}: {offer.unavailable or 'ok'}" for name, offer in offers.items()
    ]
    warnings = [f"warning: {text}" for text in unsafe(settings, offers)]
    return "\n".join([*lines, *warnings, "no problems found"])


def _tried(wanted: str, offers: Mapping[str, Offer]) -> bool:
    """Try a service, written as in the URL of a reservation but for the percent signs."""
    names = [name for name in offers if wanted == name or wanted.startswith(f"{name}?")]
    if not names:
        raise usage.UsageError(f"--try: no service is called {wanted!r}, but {', '.join(offers)}")
    name = max(names, key=len)
    query = wanted.removeprefix(name).removeprefix("?")
    return try_service(offers[name], dict(parse_qsl(query, keep_blank_values=True)))


def _printed(text: str) -> SystemExit:
    print(text)
    return SystemExit(0)
