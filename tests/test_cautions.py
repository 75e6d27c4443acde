"""What is said of settings that are unsafe together; each rule speaks, and holds its peace."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from wsserver import cautions as rules
from wsserver.cautions import RULES, Case, Rule, cautions
from wsserver.config import ServiceSpec, make_settings

LONG = "a-long-security-token"
HERE = {"interface": "127.0.0.1"}
ALL = {"interface": ""}


def case(argv: str = "", groups: str | None = None, **settings: Any) -> Case:
    options = {} if groups is None else {"group": groups}
    spec = ServiceSpec(name="S", script="s.py", count=1, options=options)
    return Case(make_settings(settings), [spec], argv.split())


class RuleTests(SynchronousTestCase):
    def check(self, rule: Rule, unsafe: list[Case], safe: list[Case]) -> None:
        for each in unsafe:
            (line,) = rule(each)
            self.assertIn(line, cautions(each))
            # What it is, and what to do.
            self.assertRegex(line, "[:;] .{5}")
            self.assertNotIn(LONG, line)
        for each in safe:
            self.assertEqual(list(rule(each)), [])
        self.assertIn(rule, RULES)

    def test_every_rule_is_tested(self) -> None:
        """A rule that is added has a test here."""
        tested = {name.removeprefix("test_") for name in dir(self) if name.startswith("test_")}
        self.assertLessEqual({rule.__name__ for rule in RULES}, tested)

    def test_nothing_to_say(self) -> None:
        """The server on loopback, and the one with all that is asked for, are left in peace."""
        good = {"security_token": LONG, "cert": "c", "key": "k", "allowed_origins": ["http://a"]}
        loopback = [case(interface=name) for name in ("127.0.0.1", "::1", "localhost", None)]
        for safe in (*loopback, case(**good)):
            self.assertEqual(cautions(safe), [])
        self.assertEqual(len(cautions(case(**ALL))), 2)

    def test_open_rest(self) -> None:
        self.check(
            rules.open_rest,
            [case(interface=name) for name in ("", "0.0.0.0", "192.0.2.1", "::")],
            [case(), case(**HERE), case(security_token=LONG, **ALL), case(htpasswd="users"),
             case(http_port=-1, ws_port=1, client_port=5900)],
        )  # fmt: skip

    def test_open_tunnel(self) -> None:
        here = case(client_port=5900, **HERE)
        safe = [case(**ALL), case(client_port=5900), here]
        safe.append(case(client_port=5900, htpasswd="users", **ALL))
        self.check(rules.open_tunnel, [case(client_port=5900, **ALL)], safe)

    def test_no_tls(self) -> None:
        proxy = case(trusted_proxies=["192.0.2.1"], **ALL)
        unsafe = [case(**ALL), case(security_token=LONG)]
        self.check(rules.no_tls, unsafe, [case(cert="c", **ALL), proxy, case(), case(**HERE)])

    def test_nobody_in_group(self) -> None:
        known = [case(groups="g", security_token=LONG), case(groups="g", htpasswd="users"), case()]
        self.check(rules.nobody_in_group, [case(groups="g", **HERE)], known)

    def test_any_host(self) -> None:
        anybody = {"allowed_hosts": ["a.example", "*"]}
        safe = [case(), case(allowed_hosts=["a.example"]), case(security_token=LONG, **anybody)]
        self.check(rules.any_host, [case(**anybody)], safe)

    def test_any_origin(self) -> None:
        one = case(allowed_origins=["https://a"])
        self.check(rules.any_origin, [case(allowed_origins=["https://a", "*"])], [case(), one])

    def test_any_reader(self) -> None:
        added = case(add_header=["access-control-allow-ORIGIN=*", "A=b"])
        self.check(rules.any_reader, [added], [case(), case(add_header=["A=b"])])

    def test_any_frame(self) -> None:
        self.check(rules.any_frame, [case(frame_ancestors=["*"])], [case()])

    def test_secret_on_command_line(self) -> None:
        shown = [case(f"twistd --security_token {LONG}", security_token=LONG),
                 case(f"twistd --security_token={LONG}", security_token=LONG)]  # fmt: skip
        self.check(
            rules.secret_on_command_line,
            shown,
            [case("twistd wsserver", security_token=LONG), case("twistd")],
        )

    def test_short_secret(self) -> None:
        self.check(rules.short_secret, [case(security_token="sesame")],
                   [case(), case(security_token="0" * 16)])  # fmt: skip

    def test_everybody_a_proxy(self) -> None:
        wide = [case(trusted_proxies=[n]) for n in ("0.0.0.0/0", "10.0.0.0/8", "::/0")]
        narrow = [case(trusted_proxies=[n]) for n in ("10.1.0.0/16", "127.0.0.1", "::1")]
        self.check(rules.everybody_a_proxy, wide, narrow)

    def test_served_secrets(self) -> None:
        self.check(
            rules.served_secrets,
            [case(http_directory="/srv/www", remote_session_config="/srv/www/services.json"),
             case(http_directory=".", settings="settings.toml")],
            [case(http_directory="/srv/www", key="/srv/key.pem", cert="/srv/cert.pem"),
             case(http_directory="/srv/www"), case(settings="/srv/www/settings.toml")],
        )  # fmt: skip

    def test_bound_to_nobody(self) -> None:
        application = {"security_token": LONG, "act_for_users": True, "bind_user": True}
        tokens = {"jwt_secret_file": "secret", "bind_user": True}
        header = {"trusted_proxies": ["10.0.0.1"], "user_header": "X-User"}
        self.check(
            rules.bound_to_nobody,
            [case(**application), case(**tokens), case(**{**application, **tokens})],
            [case(**{**application, "act_for_users": False}), case(**application, htpasswd="users"),
             case(**application, **header), case(**tokens, trusted_proxies=["10.0.0.1"]),
             case(**{**application, "bind_user": False})],
        )  # fmt: skip

    def test_silent_websockets(self) -> None:
        bound = {"htpasswd": "users", "bind_user": True}
        fixed = {"htpasswd": "users", "client_port": 5900}
        self.check(
            rules.silent_websockets,
            [case(ws_port=1, **bound), case(ws_port=1, **fixed)],
            [case(**bound), case(**fixed), case(ws_port=1, htpasswd="users")],
        )
