"""Settings of identity: what does not go together is said at once."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from wsserver.config import Settings, make_settings
from wsserver.errors import ConfigError

KEYS = {"jwt_keys": "keys.json", "jwt_audience": "desktops"}
PROXY = {"trusted_proxies": ["127.0.0.1"], "user_header": "X-User"}


class LoginsTests(SynchronousTestCase):
    def problems(self, **given: Any) -> list[str]:
        error: ConfigError = self.assertRaises(ConfigError, make_settings, given)
        return list(error.problems)

    def test_sound(self) -> None:
        """Each way to log in, and all together."""
        for given, users in (
            ({}, False),
            ({"security_token": "x", "act_for_users": True, "bind_user": True}, False),
            (PROXY, True),
            ({**PROXY, "groups_header": "X-Groups"}, True),
            (KEYS, True),
            ({"jwt_secret_file": "secret"}, True),
            ({"jwt_secret_file": "secret", "jwt_issuer": "x", "bind_user": True}, True),
            ({"htpasswd": "users", "htgroup": "groups"}, True),
            ({**PROXY, **KEYS, "htpasswd": "users", "security_token": "x"}, True),
        ):
            self.assertEqual(make_settings(given).known_users, users, given)

    def test_urls(self) -> None:
        """Keys come by https, or from this machine."""
        for where, url in (
            ("keys.json", False),
            ("https://login.example/keys", True),
            ("http://127.0.0.1:8080/keys", True),
            ("http://localhost/keys", True),
            ("http://[::1]/keys", True),
        ):
            settings: Settings = make_settings({**KEYS, "jwt_keys": where})
            self.assertEqual(settings.jwt_keys_url is not None, url, where)
        for where in ("http://login.example/keys", "ftp://localhost/", "file:///etc/keys", "://"):
            (problem,) = self.problems(**{**KEYS, "jwt_keys": where})
            self.assertIn("must be https", problem)

    def test_unsound(self) -> None:
        """What cannot work, or would be unsafe, is refused by name."""
        for given, name in (
            ({"user_header": "X-User"}, "user_header: needs trusted_proxies"),
            ({**PROXY, "user_header": "X User"}, "user_header: must be the name"),
            ({**PROXY, "user_header": "Authorization"}, "user_header: must be a header that"),
            ({**PROXY, "groups_header": "cookie"}, "groups_header: must be a header that"),
            ({**PROXY, "trusted_proxies": ["0.0.0.0/0"]}, "trusted_proxies: with 0.0.0.0/0 every"),
            (
                {**PROXY, "trusted_proxies": ["10.0.0.1", "::/0"]},
                "trusted_proxies: with ::/0 every",
            ),
            ({"groups_header": "X-Groups"}, "groups_header: needs user_header"),
            ({"jwt_keys": "keys.json"}, "jwt_keys: needs jwt_audience"),
            ({"jwt_audience": "x"}, "jwt_audience: needs jwt_keys"),
            ({"htgroup": "groups"}, "htgroup: needs htpasswd"),
            ({"act_for_users": True}, "act_for_users: needs security_token"),
            ({"bind_user": True}, "bind_user: needs a source"),
            ({"failure_limit": 0}, "failure_limit"),
            ({"failure_memory": 0}, "failure_memory"),
            ({"jwt_leeway": -1.0}, "jwt_leeway"),
        ):
            (problem,) = self.problems(**given)
            self.assertIn(f"settings.{name}", problem)
