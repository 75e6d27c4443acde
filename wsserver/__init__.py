"""Reserve a service, launch it when a websocket opens, tunnel its bytes, stop it afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsserver.errors import ServiceFailed
from wsserver.processes import ProcessGroup
from wsserver.scripts import RemoteServiceScript

if TYPE_CHECKING:
    from wsserver.server import make_service

__all__ = ["ProcessGroup", "RemoteServiceScript", "ServiceFailed", "make_service"]


def __getattr__(name: str) -> Any:
    # A service script imports this package, and has no use for a web server.
    if name == "make_service":
        from wsserver.server import make_service

        return make_service
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
