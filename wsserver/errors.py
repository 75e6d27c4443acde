"""Every deliberate failure, with the way each door reports it.

``http_status`` is the answer of the HTTP doors, ``close_code`` the websocket close
code after the upgrade (contract.md, "Websocket": 44xx and 45xx mirror HTTP).  The
text of an error is public: details that only an operator may see go to the log.
"""

from __future__ import annotations

from collections.abc import Sequence


class WSServerError(Exception):
    """The root of all deliberate failures."""

    http_status = 500
    close_code = 4500

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ConfigError(WSServerError):
    """The service file, a script or the settings cannot be used.

    ``problems`` lists everything that is wrong, one line each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class IllegalTransition(WSServerError):
    """An event that the lifecycle does not know in this phase: a bug of ours."""


class BadRequest(WSServerError):
    """The request cannot be understood, or an option is not allowed."""

    http_status = 400
    close_code = 4400


class Unauthorized(WSServerError):
    """Nothing shows who asks, or what is shown is wrong."""

    http_status = 401
    close_code = 4401


class Forbidden(WSServerError):
    """The caller is known, and may not do this."""

    http_status = 403
    close_code = 4403


class NoSuchService(WSServerError):
    """No service has this name."""

    http_status = 404
    close_code = 4404


class NoSuchToken(WSServerError):
    """The token is unknown, expired or used: which of them is not told."""

    http_status = 404
    close_code = 4404

    def __init__(self) -> None:
        super().__init__("unknown or expired token")


class TokenInUse(WSServerError):
    """The token carries as many connections as its service allows."""

    http_status = 409
    close_code = 4409

    def __init__(self) -> None:
        super().__init__("token already in use")


class TooMuchTooEarly(WSServerError):
    """The client sent more than is kept while its service starts."""

    http_status = 413
    close_code = 4413


class Misdirected(WSServerError):
    """The request is for a host that this server is not known as."""

    http_status = 421
    close_code = 4421


class TooMany(WSServerError):
    """The client has as many of something as one address may have."""

    http_status = 429
    close_code = 4429


class TooManyFailures(TooMany):
    """Too many wrong secrets came from an address; it has to wait, in seconds."""

    def __init__(self, wait: int) -> None:
        super().__init__("too many failures, wait before you try again", retry_after=wait)


class Released(WSServerError):
    """The reservation was released while its connection lived: an orderly end."""

    http_status = 410
    close_code = 1000


class ServiceFailed(WSServerError):
    """The script could not start the service, or its answer makes no sense."""


class ConnectFailed(WSServerError):
    """Nobody accepted a connection where the script said, or it broke."""

    http_status = 502
    close_code = 4502


class AtCapacity(WSServerError):
    """Every slot of the service is taken."""

    http_status = 503
    close_code = 4503


class Unavailable(WSServerError):
    """The service cannot run on this machine."""

    http_status = 503
    close_code = 4503


class ShuttingDown(WSServerError):
    """The server is going away."""

    http_status = 503
    close_code = 1001

    def __init__(self) -> None:
        super().__init__("the server is shutting down", retry_after=30)


class StartTimeout(WSServerError):
    """``start`` took longer than ``start_timeout``."""

    http_status = 504
    close_code = 4504
