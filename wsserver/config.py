"""Text of the service file and the settings -> frozen specs; all problems at once.

The facts are those of contract.md, "Service file" and "Command line".  The models are
also the source of the JSON Schema that editors use (``twistd wsserver --schema``).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import ip_network
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from wsserver.errors import ConfigError
from wsserver.hosts import Hosts
from wsserver.logins import Logins, login_problems
from wsserver.options import Rule, resolve
from wsserver.origins import Origins, host_of, hosts_of

#: The largest service file that is read, in bytes.
MAX_FILE_SIZE = 1024 * 1024

#: The page that shows an instance, where ``options.page`` names no other.
DEFAULT_PAGE = "viewer.html"

#: Where the server listens as long as nobody has to show who they are.
LOOPBACK = "127.0.0.1"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=-1, le=65535)]
Number = Annotated[int, Field(ge=0)]

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class ServiceEntry(BaseModel):
    """One service type as it stands in the service file."""

    model_config = _STRICT

    script: Annotated[str, Field(min_length=1, description="Python file that starts the service")]
    count: Annotated[int, Field(ge=1, le=100_000, description="most instances at one time")]
    options: Annotated[dict[str, Any], Field(description="handed to the script")]
    start_timeout: Annotated[Seconds, Field(description="longest start, seconds")] = 60.0
    stop_timeout: Annotated[Seconds, Field(description="longest stop, seconds")] = 10.0
    connect_timeout: Annotated[
        Seconds, Field(description="how long the service may take to listen, seconds")
    ] = 15.0
    max_connections: Annotated[
        int, Field(ge=1, le=10_000, description="websockets that may share one token")
    ] = 1
    idle_timeout: Annotated[
        Seconds | None, Field(description="end a session that moves no byte, seconds")
    ] = None
    max_duration: Annotated[Seconds | None, Field(description="longest session, seconds")] = None


class ServiceSpec(ServiceEntry):
    """A checked service type, with its name and what the system reads of its options."""

    name: str

    @property
    def groups(self) -> frozenset[str]:
        """The groups whose members may use the service; empty: everybody may."""
        group = self.options.get("group", [])
        return frozenset([group] if isinstance(group, str) else group)

    @property
    def sizes(self) -> list[str]:
        """The "WxH" strings that users may choose from, as written in the file."""
        return list(self.options.get("sizes", []))

    @property
    def page(self) -> str:
        """The page that opens an instance, relative to the root of the HTTP port."""
        return str(self.options.get("page", DEFAULT_PAGE))

    @property
    def rules(self) -> dict[str, Rule]:
        """The options that a reservation may have, where the service file names them."""
        described: dict[str, Any] = self.options.get("reserve_options", {})
        return {name: Rule.model_validate(rule) for name, rule in described.items()}

    def resolve(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the options of a reservation, with defaults; raise ValueError for a bad one.

        Without ``reserve_options`` all of them are the script's business.
        """
        if "reserve_options" not in self.options:
            return dict(given)
        return resolve(self.rules, given, also=["session_size"] if self.sizes else [])

    def views(self, extension: str) -> bool:
        """Tell whether the service can view files of this extension; case and dot are ignored."""
        return _extension(extension) in map(_extension, self.options.get("file_ext", []))


class Deadlines(BaseModel):
    """How long each wait for a client may take, in seconds."""

    model_config = _STRICT

    #: Until the head of a request is complete, TLS included.
    head_timeout: Seconds = 10.0
    #: From there until its body is.
    body_timeout: Seconds = 30.0
    #: Until somebody listens at the fixed host of tunnels without token.
    connect_timeout: Seconds = 15.0
    #: From one ping to the next: below the 60 s after which nginx closes what is idle.
    ping_interval: Seconds = 20.0
    #: Until a ping must have had an effect; at most the interval.
    ping_timeout: Seconds = 15.0
    #: How long a client may answer nothing at all though its host lives.
    stall_timeout: Seconds = 300.0
    #: How long nothing may move before a close takes its next step.
    close_timeout: Seconds = 10.0


class Limits(BaseModel):
    """How much there may be at one time; 0 is any number."""

    model_config = _STRICT

    #: Sessions whose service starts.
    max_starting: Number = 100
    #: Sessions of all services together, reserved ones included.
    max_sessions: Number = 0
    #: Connections of one client, HTTP and websockets.
    max_connections_per_address: Number = 1000
    #: Reservations of one client that are not used yet.
    max_reservations_per_address: Number = 100


class Settings(Deadlines, Limits, Logins):
    """Everything of the command line that is not the service file itself.

    A port of 0 is any free one.  ``ws_port`` None shares the HTTP port; -1 is no
    websocket listener of its own, which comes to the same while there is HTTP.
    """

    model_config = _STRICT

    ws_port: Port | None = None
    http_port: Port = 9090
    #: None is every address where callers have to show who they are, else loopback alone.
    interface: str | None = None
    http_directory: str | None = None
    add_header: list[str] = []
    cert: str | None = None
    key: str | None = None
    #: Who signs the certificates of clients, and whether all clients must have one.
    client_ca: str | None = None
    client_certificates: Literal["optional", "required"] = "required"
    #: A plain port that sends browsers to the HTTP port by https.
    https_redirect_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    security_token: Annotated[str, Field(min_length=1)] | None = Field(default=None, repr=False)
    #: Addresses and networks of front proxies whose word on their clients is believed.
    trusted_proxies: list[str] = []
    #: Whether those begin each connection with a header of the PROXY protocol.
    proxy_protocol: bool = False
    #: Origins of web pages that may use us beside those of our own host; ``*`` for all.
    allowed_origins: list[str] = []
    #: Names by which browsers may address us, beside those that we know; ``*`` for all.
    allowed_hosts: list[str] = []
    #: Origins whose pages may show ours in a frame; also ``self``, ``none`` and ``*``.
    frame_ancestors: Annotated[list[str], Field(min_length=1)] = ["self"]
    #: How long browsers shall come by TLS alone, in seconds (Strict-Transport-Security).
    hsts: Annotated[int, Field(ge=0)] | None = None
    #: The file that settings come from, if any.
    settings: str | None = None
    remote_session_config: str | None = None
    client_hostname: str = "127.0.0.1"
    client_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    local_session: list[tuple[str, int]] = []
    timeout: Seconds = 300.0
    shutdown_timeout: Seconds = 20.0
    state_directory: str | None = None
    max_message_size: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    log_file: str | None = None
    verbose: Annotated[int, Field(ge=0)] = 0

    @property
    def headers(self) -> list[tuple[str, str]]:
        """``add_header`` as pairs."""
        return [(name, value) for name, _, value in (h.partition("=") for h in self.add_header)]

    @property
    def guarded(self) -> bool:
        """Whether callers have to show who they are."""
        return self.security_token is not None or self.known_users

    @property
    def address(self) -> str:
        """The address to listen on; every one of this machine where it is empty."""
        if self.interface is None:
            return "" if self.guarded else LOOPBACK
        return self.interface

    def hosts(self, own: Callable[[], Iterable[str]]) -> Hosts:
        """Return by which names browsers may address the server; ``own`` looks up this machine's.

        Where callers have to show who they are, that is checked only where names are given.
        """
        if self.guarded and not self.allowed_hosts:
            return Hosts()
        # An address needs no place in the list, and what is odd would find none.
        here = [name for name in (*own(), self.address) if host_of(name) == name.lower()]
        return Hosts([*here, *hosts_of(self.allowed_origins), *self.allowed_hosts])

    @property
    def one_port(self) -> bool:
        """Whether websockets come in on the HTTP port."""
        return self.http_port != -1 and self.ws_port in (None, -1, self.http_port or None)


def load_services(text: str | bytes) -> dict[str, ServiceSpec]:
    """Read the text of a service file.

    Raises:
        ConfigError: with every problem, each led by its JSON path.
    """
    problems: list[str] = []
    specs: dict[str, ServiceSpec] = {}
    for name, value in _entries(text).items():
        try:
            entry = ServiceEntry.model_validate(value)
        except ValidationError as error:
            known = ServiceEntry.model_fields
            problems += [_problem(json_path(name), d, known) for d in error.errors()]
            continue
        spec = ServiceSpec(name=name, **entry.model_dump())
        problems += _option_problems(spec)
        specs[name] = spec
    if problems:
        raise ConfigError(problems)
    return specs


def load_settings(text: str) -> dict[str, Any]:
    """Read the text of a settings file (TOML) into what it names.

    Raises:
        ConfigError: it is no TOML.
    """
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"settings: {error}"]) from None
    # TOML writes pairs as arrays, and the model is strict about tuples.
    if isinstance(found.get("local_session"), list):
        found["local_session"] = [
            tuple(pair) if isinstance(pair, list) else pair for pair in found["local_session"]
        ]
    return {name.replace("-", "_"): value for name, value in found.items()}


def make_settings(*sources: Mapping[str, Any]) -> Settings:
    """Check and join settings; a later source wins.

    Raises:
        ConfigError: with every problem, each led by the name of the setting.
    """
    merged = {name: value for source in sources for name, value in source.items()}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        known = Settings.model_fields
        raise ConfigError([_problem("settings", d, known) for d in error.errors()]) from None
    problems = list(_setting_problems(settings))
    if problems:
        raise ConfigError(problems)
    return settings


def service_file_schema() -> dict[str, Any]:
    """Return the JSON Schema of the service file (draft 2020-12)."""
    entry = ServiceEntry.model_json_schema()
    entry["properties"]["options"]["properties"] = _OPTION_SCHEMA
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "wsserver service file",
        "type": "object",
        "properties": {"$schema": {"type": "string"}},
        "additionalProperties": entry,
    }


#: The keys of ``options`` that the system itself reads.
_TEXTS = {"type": "array", "items": {"type": "string"}}
_OPTION_SCHEMA: dict[str, Any] = {
    "group": {"anyOf": [{"type": "string"}, {**_TEXTS, "minItems": 1}]},
    "file_ext": _TEXTS,
    "sizes": _TEXTS,
    "page": {"type": "string"},
    "reserve_options": {"type": "object", "additionalProperties": Rule.model_json_schema()},
}


def json_path(*keys: str | int) -> str:
    """Return a JSON path such as ``$["Cluster Node"].count``."""
    return "$" + "".join(map(_step, keys))


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f"[{json.dumps(key)}]"


def _entries(text: str | bytes) -> dict[str, Any]:
    """Parse the outer object, as strictly as JSON is meant to be."""
    if len(text) > MAX_FILE_SIZE:
        raise ConfigError([f"$: larger than {MAX_FILE_SIZE} bytes"])
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        found = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ConfigError([f"$: no JSON: {error.msg} at {place}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"$: no UTF-8 at byte {error.start}"]) from None
    except RecursionError:
        raise ConfigError(["$: nested too deeply"]) from None
    except ValueError as error:
        raise ConfigError([f"$: {error}"]) from None
    if not isinstance(found, dict):
        raise ConfigError(["$: must be an object of services"])
    # Editors write the address of the schema there; it is no service.
    if isinstance(found.get("$schema"), str):
        del found["$schema"]
    return found


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice)} stands twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _problem(base: str, detail: ErrorDetails, known: Iterable[str]) -> str:
    path = base + "".join(map(_step, detail["loc"]))
    message = detail["msg"]
    if detail["type"] == "extra_forbidden":
        meant = get_close_matches(str(detail["loc"][-1]), known, 1)
        message = "unknown key" + "".join(f"; did you mean {name}?" for name in meant)
    elif detail["type"] == "missing":
        message = "required, and missing"
    elif detail["loc"][:1] != ("security_token",):
        message += f", not {_short(detail['input'])}"
    return f"{path}: {message}"


def _short(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def _option_problems(spec: ServiceSpec) -> list[str]:
    """Check the keys of ``options`` that the system itself reads."""
    shapes = {
        "group": "must be a string or a list of strings, one or more",
        "file_ext": "must be a list of strings",
        "sizes": "must be a list of strings",
    }
    problems = [
        f"{json_path(spec.name, 'options', key)}: {rule}, not {_short(spec.options[key])}"
        for key, rule in shapes.items()
        if key in spec.options and not (_group if key == "group" else _strings)(spec.options[key])
    ]
    page = spec.options.get("page", DEFAULT_PAGE)
    if not (isinstance(page, str) and re.fullmatch(r"[\w-][\w./-]*", page)):
        where = json_path(spec.name, "options", "page")
        problems.append(f"{where}: must be the path of a page, not {_short(page)}")
    return problems + _rule_problems(spec)


def _rule_problems(spec: ServiceSpec) -> list[str]:
    """Check the description of the options that a reservation may have."""
    base = json_path(spec.name, "options", "reserve_options")
    described = spec.options.get("reserve_options", {})
    if not isinstance(described, dict):
        return [f"{base}: must be an object, not {_short(described)}"]
    problems: list[str] = []
    for name, rule in described.items():
        try:
            Rule.model_validate(rule)
        except ValidationError as error:
            known = Rule.model_fields
            problems += [_problem(base + _step(name), d, known) for d in error.errors()]
    return problems


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _group(value: object) -> bool:
    # None at all could mean everybody, or nobody.
    return isinstance(value, str) or (_strings(value) and value != [])


def _extension(text: str) -> str:
    return text.removeprefix(".").casefold()


def _setting_problems(settings: Settings) -> Iterable[str]:
    for header in settings.add_header:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+=[\x20-\x7e\x80-\xff]*", header):
            yield f"settings.add_header: must be NAME=VALUE, not {_short(header)}"
    for host in settings.allowed_hosts:
        try:
            Hosts([host])
        except ValueError as error:
            yield f"settings.allowed_hosts: {error}"
    for origin in settings.allowed_origins:
        try:
            Origins([origin])
        except ValueError as error:
            yield f"settings.allowed_origins: {error}"
    yield from login_problems(
        settings, bool(settings.trusted_proxies), settings.security_token is not None
    )
    yield from _framing_problems(settings.frame_ancestors)
    yield from _tls_problems(settings)
    if settings.http_port == -1 and settings.ws_port in (None, -1):
        yield "settings.http_port: -1 leaves nothing to listen on; give a ws_port"
    for network in settings.trusted_proxies:
        try:
            everybody = ip_network(network).prefixlen == 0
        except ValueError as error:
            yield f"settings.trusted_proxies: {error}"
            continue
        if everybody and settings.user_header:
            yield f"settings.trusted_proxies: with {network} everybody is whatever user they say"
    if settings.proxy_protocol and not settings.trusted_proxies:
        yield "settings.proxy_protocol: needs trusted_proxies, which may speak it"
    if any(count < 1 for _, count in settings.local_session):
        yield "settings.local_session: COUNT must be 1 or more"
    if settings.ping_timeout > settings.ping_interval:
        yield "settings.ping_timeout: must not be longer than ping_interval"


def _tls_problems(settings: Settings) -> Iterable[str]:
    for name in ("key", "hsts", "client_ca", "https_redirect_port"):
        if getattr(settings, name) is not None and settings.cert is None:
            yield f"settings.{name}: needs cert as well"
    if settings.https_redirect_port is not None and settings.http_port == -1:
        yield "settings.https_redirect_port: needs http_port, where it leads to"
    if "client_certificates" in settings.model_fields_set and settings.client_ca is None:
        yield "settings.client_certificates: needs client_ca, who signs them"


def _framing_problems(ancestors: Sequence[str]) -> Iterable[str]:
    for ancestor in ancestors:
        try:
            Origins([ancestor] if ancestor not in ("self", "none") else [])
        except ValueError as error:
            yield f"settings.frame_ancestors: {error}"
    if "none" in ancestors and len(ancestors) > 1:
        yield "settings.frame_ancestors: none stands alone"
