"""Reserve a service, launch it when a websocket opens, tunnel its bytes, stop it afterwards."""

from __future__ import annotations

TYPE_CHECKING = False  # typing is slow to import
if TYPE_CHECKING:
    from typing import Any

    from wsserver.errors import ServiceFailed
    from wsserver.processes import ProcessGroup
    from wsserver.scripts import RemoteServiceScript
    from wsserver.server import make_service

__all__ = ["ProcessGroup", "RemoteServiceScript", "ServiceFailed", "make_service"]

_ROOMS = {
    "ProcessGroup": "processes",
    "RemoteServiceScript": "scripts",
    "ServiceFailed": "errors",
    "make_service": "server",
}


def __getattr__(name: str) -> Any:
    # A service script has no use for a web server, and a supervisor none for anything.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"wsserver.{_ROOMS[name]}"), name)
