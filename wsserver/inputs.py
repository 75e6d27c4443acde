"""What the settings name, read and checked: service file, scripts, certificate, users."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from wsserver.cautions import Case, cautions
from wsserver.config import ServiceSpec, Settings, load_services
from wsserver.errors import ConfigError
from wsserver.offers import Offer, load_offers
from wsserver.permissions import permission_warnings
from wsserver.sources import Files, read_files
from wsserver.tls import Certificate

#: What is offered when nothing else is said.
DEMO = Path(__file__).parent / "demo.json"


def unsafe(settings: Settings, offers: Mapping[str, Offer]) -> list[str]:
    """Return what to say of settings and files that are sound, and not safe."""
    case = Case(settings, [offer.spec for offer in offers.values()], sys.argv)
    return cautions(case) + permission_warnings(settings, offers)


def check_directory(path: str | None) -> None:
    """Raise ConfigError unless a directory that is to be served is there."""
    if path is not None and not Path(path).is_dir():
        raise ConfigError([f"settings.http_directory: {path} is no directory"])


def offers_of(settings: Settings) -> dict[str, Offer]:
    """Read the service file and load its scripts.

    Raises:
        ConfigError: with every problem.
    """
    path = Path(settings.remote_session_config) if settings.remote_session_config else None
    if path is None and settings.client_port is None and not settings.local_session:
        path = DEMO
    folder = path.parent if path is not None else Path()
    specs = list(_read(path).values()) if path is not None else []
    return load_offers([*specs, *_local_sessions(settings.local_session)], folder)


def read_all(settings: Settings) -> tuple[dict[str, Offer], Files]:
    """Return what is offered, and the files of users; raise ConfigError as those do."""
    return offers_of(settings), read_files(settings)


def _read(path: Path) -> dict[str, ServiceSpec]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    return load_services(text)


def _local_sessions(wanted: Sequence[tuple[str, int]]) -> list[ServiceSpec]:
    """Return the services of ``--local_session`` (contract.md, "Command line")."""
    make = partial(ServiceSpec, script="local_session.py")
    return [make(name=f"local_{app}", count=n, options={"app": app}) for app, n in wanted]


def certificate(settings: Settings) -> Certificate | None:
    """Return the certificate, None where TLS is not wanted.  Raises ConfigError."""
    if settings.cert is None:
        return None
    required = settings.client_certificates == "required"
    return Certificate(settings.cert, settings.key, settings.client_ca, required)


def fixed_host(settings: Settings) -> tuple[str, int] | None:
    """Return where tunnels without token go, None where there are none."""
    if settings.client_port is None:
        return None
    return settings.client_hostname, settings.client_port
