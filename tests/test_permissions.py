"""Files that others may read or write."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_offer
from wsserver.config import make_settings
from wsserver.permissions import loose_files, permission_warnings


class PermissionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o755)
        self.file = self.folder / "services.json"
        self.file.touch(mode=0o600)

    def test_tight(self) -> None:
        """What only its owner may write, and only its owner may read, is fine."""
        self.assertEqual(loose_files([], [self.file]), [])
        self.file.chmod(0o644)
        self.assertEqual(loose_files([self.file, self.folder / "none"], []), [])

    def test_writable(self) -> None:
        """What everybody may write, or replace, is told once."""
        self.file.chmod(0o606)
        (warning,) = loose_files([self.file, self.file], [])
        self.assertEqual(warning, f"{self.file}: everybody on this machine may write it")
        self.file.chmod(0o600)
        self.folder.chmod(0o777)
        self.assertIn("may replace", loose_files([self.file], [])[0])
        self.folder.chmod(0o1777)
        self.assertEqual(loose_files([self.file], []), [])

    def test_readable(self) -> None:
        """A secret that everybody may read is told, unless nobody gets at it."""
        self.file.chmod(0o644)
        (warning,) = loose_files([], [self.file])
        self.assertIn("may read it", warning)
        self.folder.chmod(0o700)
        self.assertEqual(loose_files([], [self.file]), [])

    def test_settings(self) -> None:
        """Every file of the settings is looked at, and the scripts beside the service file."""
        names = ["services.json", "own.py", "keys.pem", "groups", "cert.pem"]
        secrets = ["key.pem", "secret", "users", "settings.toml"]
        for name in (*names, *secrets):
            (self.folder / name).touch()
            (self.folder / name).chmod(0o646)
        where = {name: str(self.folder / name) for name in (*names, *secrets)}
        settings = make_settings(
            {
                "remote_session_config": where["services.json"],
                "jwt_keys": where["keys.pem"],
                "jwt_audience": "x",
                "jwt_secret_file": where["secret"],
                "htpasswd": where["users"],
                "htgroup": where["groups"],
                "cert": where["cert.pem"],
                "key": where["key.pem"],
                "settings": where["settings.toml"],
                "security_token": "x",
            }
        )
        offers = {
            n: make_offer(n, script_file=f) for n, f in (("A", "own.py"), ("B", "shipped.py"))
        }
        warnings = permission_warnings(settings, offers)
        for name in (*names, *secrets):
            found = [w.split(" may ")[1][:5].strip() for w in warnings if w.startswith(where[name])]
            self.assertEqual(found, ["write", "read"] if name in secrets else ["write"], name)
        self.assertEqual(permission_warnings(make_settings({}), {}), [])
        url = make_settings({"jwt_keys": "https://x.example/", "jwt_audience": "x"})
        self.assertEqual(permission_warnings(url, {}), [])
