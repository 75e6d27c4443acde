"""Files that more people may read or write than the server should trust (T27 of reliability.md)."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wsserver.config import Settings
from wsserver.offers import Offer


def permission_warnings(settings: Settings, offers: Mapping[str, Offer]) -> list[str]:
    """Return what to say of the files that the settings name, and of the scripts beside them."""
    services = settings.remote_session_config
    scripts: list[str] = []
    if services is not None:
        # A shipped script is not there.
        scripts = [str(Path(services).parent / offer.spec.script) for offer in offers.values()]
    keys = None if settings.jwt_keys_url else settings.jwt_keys
    believed = [services, *scripts, keys, settings.htgroup, settings.cert]
    secret = [settings.key or settings.cert, settings.jwt_secret_file, settings.htpasswd]
    if settings.security_token is not None:
        secret.append(settings.settings)
    return loose_files(map(Path, filter(None, believed)), map(Path, filter(None, secret)))


def loose_files(believed: Iterable[Path], secret: Iterable[Path]) -> list[str]:
    """Return what to say of files whose permissions are too wide; blocks a little.

    Nobody else should write what the server runs or believes, nor read what is ``secret``.
    """
    secrets = list(secret)
    warnings = [w for path in [*believed, *secrets] for w in _writable(path)]
    warnings += [
        f"{path}: everybody on this machine may read it"
        for path in secrets
        if _mode(path) & stat.S_IROTH and _mode(path.parent) & stat.S_IXOTH
    ]
    return list(dict.fromkeys(warnings))


def _writable(path: Path) -> Iterator[str]:
    if _mode(path) & stat.S_IWOTH:
        yield f"{path}: everybody on this machine may write it"
    folder = path.absolute().parent
    # In a folder such as /tmp nobody else may replace a file.
    if _mode(folder) & stat.S_IWOTH and not _mode(folder) & stat.S_ISVTX:
        yield f"{folder}: everybody on this machine may replace what is in it"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
