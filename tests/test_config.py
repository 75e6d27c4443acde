from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import wsserver
from tests.fakes import make_spec
from wsserver import config
from wsserver.errors import ConfigError, Misdirected

DOCUMENTED = """
{
    "Desktop Session": {
        "script": "desktop.py",
        "count": 4,
        "options": {
            "display_base": 10,
            "sizes": ["1024x768", "12080x1024"],
            "file_ext": ["case", ".ENC"]
        }
    },
    "Cluster Node Session": {
        "script": "cluster.py",
        "count": 1,
        "options": {"host": "node1.example.com", "group": "cluster"},
        "start_timeout": 90,
        "stop_timeout": 5.5,
        "connect_timeout": 1,
        "max_connections": 3,
        "idle_timeout": 600,
        "max_duration": null
    }
}
"""


def entry(**changes: Any) -> dict[str, Any]:
    return {"script": "demo.py", "count": 1, "options": {}, **changes}


class ConfigTestCase(SynchronousTestCase):
    def problems(self, text: str | bytes | dict[str, Any]) -> list[str]:
        """Return the problems of a service file, or none."""
        try:
            config.load_services(json.dumps(text) if isinstance(text, dict) else text)
        except ConfigError as error:
            return list(error.problems)
        return []

    def assert_problem(self, text: str | bytes | dict[str, Any], *starts: str) -> None:
        """Assert that there are exactly these problems, by their first words."""
        found = self.problems(text)
        self.assertEqual(len(found), len(starts), found)
        for problem, start in zip(found, starts, strict=True):
            self.assertTrue(problem.startswith(start), problem)


class ServiceFileTests(ConfigTestCase):
    def test_documented(self) -> None:
        """The documented services are read as they stand."""
        services = config.load_services(DOCUMENTED)
        self.assertEqual(list(services), ["Desktop Session", "Cluster Node Session"])
        desktop, cluster = services.values()
        self.assertEqual((desktop.name, desktop.script), ("Desktop Session", "desktop.py"))
        self.assertEqual(desktop.count, 4)
        self.assertEqual(desktop.options["display_base"], 10)
        self.assertEqual(desktop.sizes, ["1024x768", "12080x1024"])
        self.assertEqual(desktop.groups, frozenset())
        self.assertEqual(cluster.options["host"], "node1.example.com")
        self.assertEqual(cluster.groups, frozenset({"cluster"}))
        self.assertEqual((cluster.sizes, cluster.views("case")), ([], False))

    def test_tuning(self) -> None:
        """The optional keys tune a service; their defaults are those of the contract."""
        desktop, cluster = config.load_services(DOCUMENTED).values()
        names = ["start_timeout", "stop_timeout", "connect_timeout"]
        names += ["max_connections", "idle_timeout", "max_duration"]
        self.assertEqual([getattr(desktop, n) for n in names], [60, 10, 15, 1, None, None])
        self.assertEqual([getattr(cluster, n) for n in names], [90, 5.5, 1, 3, 600, None])

    def test_file_ext(self) -> None:
        """Extensions are compared without their dot and without case."""
        spec = make_spec(options={"file_ext": ["case", ".ENC"]})
        for extension in ("case", ".case", "CASE", "enc", ".Enc"):
            self.assertTrue(spec.views(extension), extension)
        for extension in ("", ".", "cas", "..case", "txt"):
            self.assertFalse(spec.views(extension), extension)

    def test_groups(self) -> None:
        """A group is a name or a list of names."""
        self.assertEqual(make_spec(options={"group": ["a", "b"]}).groups, {"a", "b"})
        self.assertEqual(self.problems({"S": entry(options={"group": ["a"]})}), [])

    def test_empty(self) -> None:
        """A file without a service is a file; options of a script are its own business."""
        self.assertEqual(config.load_services("{}"), {})
        odd = {"x": None, "y": [1.5, {"z": True}], "sizes": ["big"]}
        self.assertEqual(config.load_services(json.dumps({"S": entry(options=odd)}))["S"].options,
                         odd)  # fmt: skip

    def test_bytes(self) -> None:
        """Bytes are UTF-8, and a byte order mark does no harm."""
        text = json.dumps({"Büro": entry()}, ensure_ascii=False).encode()
        for data in (text, b"\xef\xbb\xbf" + text):
            self.assertEqual(list(config.load_services(data)), ["Büro"])

    def test_schema_key(self) -> None:
        """The address of the schema that an editor writes is no service."""
        text = json.dumps({"$schema": "services.schema.json", "S": entry()})
        self.assertEqual(list(config.load_services(text)), ["S"])
        self.assert_problem({"$schema": 3}, '$["$schema"]: ')


class MalformedTests(ConfigTestCase):
    def test_no_json(self) -> None:
        """What is no JSON is told with line and column."""
        for text in ("", "{", '{"a": }', "{'a': 1}", "{} x", '{"a": 1,}'):
            self.assert_problem(text, "$: no JSON: ")
        self.assertIn("at line 2 column 3", self.problems("{\n  a: 1}")[0])

    def test_no_object(self) -> None:
        """The outermost value is an object of services."""
        for text in ("[]", "null", "1", '"x"', "true"):
            self.assert_problem(text, "$: must be an object of services")

    def test_no_text(self) -> None:
        """Bytes that are no UTF-8 are told by their place."""
        self.assert_problem(b'{"\xff": 1}', "$: no UTF-8 at byte 2")
        self.assert_problem("{}".encode("utf-16"), "$: no UTF-8 at byte 0")

    def test_oversized(self) -> None:
        """A file of more than 1 MiB is not even parsed; one of just 1 MiB is."""
        room = config.MAX_FILE_SIZE - 2
        self.assertEqual(self.problems(b"{" + b" " * room + b"}"), [])
        self.assert_problem(b"{" + b" " * (room + 1) + b"}", "$: larger than 1048576 bytes")

    def test_not_a_number(self) -> None:
        """NaN and Infinity are no JSON."""
        for name in ("NaN", "Infinity", "-Infinity"):
            text = '{"S": {"script": "a", "count": 1, "options": {"x": NAME}}}'.replace(
                "NAME", name
            )
            self.assert_problem(text, f"$: {name} is no JSON number")

    def test_repeated_key(self) -> None:
        """A key that stands twice is no choice between the two, however deep it stands."""
        self.assert_problem('{"S": 1, "S": 2}', '$: the key "S" stands twice')
        self.assert_problem('{"S": {"options": {"a": 1, "b": 2, "b": 3}}}',
                            '$: the key "b" stands twice')  # fmt: skip

    def test_deep_nesting(self) -> None:
        """A hundred thousand brackets are a problem of the file, not of the server."""
        for text in ("[" * 100_000, '{"a":' * 100_000, '{"S": ' + "[" * 100_000 + "]" * 100_000):
            self.assert_problem(text, "$: nested too deeply")

    def test_endless_number(self) -> None:
        """A number of thousands of digits is refused."""
        self.assert_problem('{"S": {"count": 1%s}}' % ("0" * 9999), "$: ")
        text = '{"S": {"script": "a", "count": 1, "options": {}, "%s": 1e999}}'
        self.assert_problem(text % "idle_timeout", "$.S.idle_timeout: ")


#: What may stand where something else should: each is JSON, or nearly so.
ODD = (
    *("null", "true", "-1", "0", "1.5", "1e999", "-0", "123456789012345678901234567890", '""'),
    *(
        "[]",
        "{}",
        "[null]",
        '[[["x"]]]',
        '{"": {}}',
        '"\\u0000"',
        '"\\ud800"',
        '"%s"' % ("x" * 5000),
    ),
    *(
        "NaN",
        "-Infinity",
        "'x'",
        "undefined",
        "[1,]",
        '{"a": 1, "a": 2}',
        "[" * 5000,
        "\ufeff1",
        "",
    ),
)


def everywhere(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything that stands below a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, below in pairs:
        yield (*path, key)
        if isinstance(below, dict | list):
            yield from everywhere(below, (*path, key))


def replaced(path: tuple[str | int, ...], text: str) -> str:
    """The documented file with another value in one place."""
    whole = json.loads(DOCUMENTED)
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "@@"
    return json.dumps(whole).replace('"@@"', text, 1)


class CorpusTests(ConfigTestCase):
    """Whatever is wrong with a file, each problem has its place, and there is no traceback."""

    def assert_told(self, text: str | bytes) -> int:
        found = self.problems(text)
        for problem in found:
            self.assertRegex(problem, r"^\$[^:]*(\[.*\])?.*: .", text)
            self.assertLess(len(problem), 400)
        return bool(found)

    def test_values(self) -> None:
        """Any value of the file replaced by any odd one is right, or told by its own path."""
        count = told = 0
        for path in everywhere(json.loads(DOCUMENTED)):
            for odd in ODD:
                text = replaced(path, odd)
                count += 1
                told += self.assert_told(text)
                try:
                    json.loads(text, parse_constant=float, object_pairs_hook=unique)
                except (ValueError, RecursionError):
                    continue
                where = [config.json_path(*path[: i + 1]) for i in range(len(path))]
                for problem in self.problems(text):
                    self.assertTrue(problem.startswith((*where, "$: ")), (problem, path))
        self.assertGreater(count, 500)
        self.assertGreater(told, 400)

    def test_bytes(self) -> None:
        """A file that is cut off, or has bytes exchanged or put in, is right or told."""
        rng = random.Random(1)
        whole = DOCUMENTED.strip().encode()
        for end in range(0, len(whole), 7):
            self.assertTrue(self.assert_told(whole[:end]))
        for _ in range(1000):
            damaged = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(damaged))
                if rng.random() < 0.5:
                    damaged[place] = rng.randrange(256)
                else:
                    damaged[place:place] = rng.choice((b"\xef\xbb\xbf", b"\0", b'"', b"{", b"\xff"))
            self.assert_told(bytes(damaged))
        for encoding in ("utf-16", "utf-32", "utf-16-le"):
            self.assertTrue(self.assert_told(DOCUMENTED.encode(encoding)))


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


class WrongEntryTests(ConfigTestCase):
    def test_missing(self) -> None:
        """Every required key that is missing is named."""
        missing = [f"$.S.{key}: required, and missing" for key in ("script", "count", "options")]
        self.assertEqual(self.problems({"S": {}}), missing)

    def test_wrong_values(self) -> None:
        """A value of the wrong type or size is told by its path, with the value itself."""
        for key, values in {
            "script": [1, None, "", ["a.py"]],
            "count": [0, -1, 1.0, 1.5, "1", True, None, 100_001],
            "options": [[], None, "x"],
            "start_timeout": [0, -1, "60", None, True],
            "stop_timeout": [0, None],
            "connect_timeout": [0, None],
            "max_connections": [0, 10_001, None, 2.0],
            "idle_timeout": [0, "off", False],
            "max_duration": [-1, {}],
        }.items():
            for value in values:
                with self.subTest(key=key, value=value):
                    (problem,) = self.problems({"S": entry(**{key: value})})
                    self.assertTrue(problem.startswith(f"$.S.{key}: "), problem)
                    self.assertTrue(problem.endswith(f", not {json.dumps(value)}"), problem)

    def test_no_object(self) -> None:
        """A service is an object."""
        for value in (None, 1, [], "demo.py"):
            self.assert_problem({"S": value}, "$.S: ")

    def test_unknown_key(self) -> None:
        """An unknown key is named with its path, so that a slip of the pen is found."""
        self.assert_problem({"My Service": entry(start_time=3)},
                            '$["My Service"].start_time: unknown key')  # fmt: skip

    def test_own_options(self) -> None:
        """The options that the system itself reads are checked."""
        rule = "must be a list of strings"
        for key, value, words in (
            ("file_ext", "case", rule),
            ("file_ext", [1], rule),
            ("sizes", None, rule),
            ("sizes", {"a": 1}, rule),
            ("group", 1, "must be a string or a list of strings"),
            ("group", ["a", None], "must be a string or a list of strings"),
            # Nobody could tell whether that is everybody or nobody.
            ("group", [], "must be a string or a list of strings, one or more"),
            ("page", "/etc/passwd", "must be the path of a page"),
            ("page", 1, "must be the path of a page"),
            ("reserve_options", [], "must be an object"),
        ):
            self.assert_problem({"S": entry(options={key: value})}, f"$.S.options.{key}: {words}")

    def test_reserve_options(self) -> None:
        """The description of the options of a reservation is checked to the last key."""
        rules = {
            "a b": {"type": "text"},
            "n": {"type": "integer", "maximum": 1, "default": 2},
            "p": {"pattern": "("},
            "good": {"choices": ["x"], "default": "x"},
        }
        self.assert_problem(
            {"S": entry(options={"reserve_options": rules})},
            '$.S.options.reserve_options["a b"].type: ',
            "$.S.options.reserve_options.n: ",
            "$.S.options.reserve_options.p.pattern: ",
        )

    def test_long_value(self) -> None:
        """A problem quotes the beginning of a long value only."""
        (problem,) = self.problems({"S": entry(count="x" * 500)})
        self.assertTrue(problem.endswith("xxx..."))
        self.assertLess(len(problem), 150)

    def test_all_at_once(self) -> None:
        """All problems of all services are told at once, in the order of the file."""
        text = {
            "One": entry(count=0, colour="red"),
            "Two Words": {"script": "a.py", "options": {}},
            "Three": entry(options={"sizes": 1, "group": 2}),
            "Four": entry(),
            "Five": None,
        }
        self.assert_problem(
            text,
            "$.One.count: ",
            "$.One.colour: unknown key",
            '$["Two Words"].count: required, and missing',
            "$.Three.options.group: ",
            "$.Three.options.sizes: ",
            "$.Five: ",
        )

    def test_json_path(self) -> None:
        """Paths are written as JSON paths are."""
        self.assertEqual(config.json_path(), "$")
        self.assertEqual(config.json_path("a b", "c_1", 2, "1"), '$["a b"].c_1[2]["1"]')


class SchemaTests(SynchronousTestCase):
    def test_shipped(self) -> None:
        """The shipped schema is that of the code; regenerate it with `twistd wsserver --schema`."""
        path = Path(wsserver.__file__).parent / "services.schema.json"
        wanted = json.dumps(config.service_file_schema(), indent=2) + "\n"
        told = f"twistd wsserver --schema > {path}"
        self.assertEqual(path.read_text("utf-8"), wanted, f"out of date; regenerate it: {told}")

    def test_contents(self) -> None:
        """The schema knows what is required, and that nothing else may stand there."""
        schema = config.service_file_schema()
        service = schema["additionalProperties"]
        self.assertEqual(service["required"], ["script", "count", "options"])
        self.assertIs(service["additionalProperties"], False)
        self.assertEqual(set(service["properties"]), set(config.ServiceEntry.model_fields))


class SettingsTests(SynchronousTestCase):
    def problems(self, *sources: dict[str, Any]) -> list[str]:
        """Return the problems of settings, or none."""
        try:
            config.make_settings(*sources)
        except ConfigError as error:
            return list(error.problems)
        return []

    def test_defaults(self) -> None:
        """The defaults are those of the contract."""
        settings = config.make_settings()
        self.assertEqual((settings.http_port, settings.ws_port), (9090, None))
        self.assertEqual((settings.client_hostname, settings.client_port), ("127.0.0.1", None))
        self.assertEqual((settings.timeout, settings.headers), (300.0, []))

    def test_merge(self) -> None:
        """A later source wins, and what it does not name stays."""
        settings = config.make_settings(
            {"http_port": 1, "timeout": 5.0}, {}, {"http_port": 2, "verbose": 1}
        )
        self.assertEqual((settings.http_port, settings.timeout, settings.verbose), (2, 5.0, 1))

    def test_toml(self) -> None:
        """A settings file has the names of the options, with underscores or dashes."""
        found = config.load_settings(
            'http_port = 8080\nclient-port = 1999\nadd-header = ["A=B"]\n'
            'local_session = [["ensight", 2], ["envision", 1]]\n'
        )
        settings = config.make_settings(found)
        self.assertEqual((settings.http_port, settings.client_port), (8080, 1999))
        self.assertEqual(settings.headers, [("A", "B")])
        self.assertEqual(settings.local_session, [("ensight", 2), ("envision", 1)])

    def test_no_toml(self) -> None:
        """What is no TOML is one problem, whatever is wrong with it."""
        for text in ("x", "a = 1\na = 2", "a = " + "[" * 100_000, "a = 1" + "0" * 9999):
            error = self.assertRaises(ConfigError, config.load_settings, text)
            self.assertEqual(len(error.problems), 1)
            self.assertTrue(error.problems[0].startswith("settings: "))

    def test_wrong_values(self) -> None:
        """A setting of the wrong type or size is told by its name."""
        for name, values in {
            "ws_port": [-2, 65536, "80", 1.0, True],
            "http_port": [-2, 65536, None],
            "client_port": [0, -1, 65536],
            "timeout": [0, -1, float("nan"), float("inf"), "5"],
            "max_message_size": [-1],
            "security_token": [""],
            "add_header": ["A=B", [1]],
            "verbose": [-1],
            "allowed_origins": [["app.example"], ["https://app.example/"], [1], "*"],
            "max_starting": [-1, 1.5],
            "max_connections_per_address": [-1],
            "frame_ancestors": [[], ["app.example"], ["none", "self"], "self"],
            "hsts": [-1, 3600],
            "client_certificates": ["never", "optional"],
            "client_ca": [1, "ca.pem"],
            "https_redirect_port": [-1, 65536, 80],
            "trusted_proxies": [["proxy.example"], ["10.0.0.1/8"], "127.0.0.1"],
        }.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    (problem,) = self.problems({name: value})
                    self.assertTrue(problem.startswith(f"settings.{name}"), problem)

    def test_unknown(self) -> None:
        """An unknown setting is named; all problems are told at once."""
        found = self.problems({"htp_port": 1, "timeout": 0})
        self.assertEqual(sorted(p.split(":")[0] for p in found),
                         ["settings.htp_port", "settings.timeout"])  # fmt: skip
        self.assertIn("settings.htp_port: unknown key; did you mean http_port?", found)

    def test_local_session(self) -> None:
        """A local session is an application and a number of 1 or more."""
        self.assertEqual(self.problems({"local_session": [("app", 1)]}), [])
        for text, path in (
            ('local_session = "app"', "settings.local_session:"),
            ('local_session = ["app"]', "settings.local_session[0]:"),
            ('local_session = [["app"]]', "settings.local_session[0][1]:"),
            ('local_session = [["app", "2"]]', "settings.local_session[0][1]:"),
            ('local_session = [["app", 0]]', "settings.local_session: COUNT"),
        ):
            (problem,) = self.problems(config.load_settings(text))
            self.assertTrue(problem.startswith(path), problem)

    def test_headers(self) -> None:
        """A header is NAME=VALUE; the value may be empty and hold further equal signs."""
        good = ["A=B", "X-Frame-Options=", "A=b=c", "A= b c "]
        settings = config.make_settings({"add_header": good})
        self.assertEqual(settings.headers[1:3], [("X-Frame-Options", ""), ("A", "b=c")])
        for bad in ("A", "=B", "A B=C", "A:=C", "A=B\r\nC=D", "A=\x00", "Ä=B", "A=\u20ac", "A\n=B"):
            (problem,) = self.problems({"add_header": ["A=B", bad]})
            self.assertTrue(problem.startswith("settings.add_header: must be NAME=VALUE"))

    def test_address(self) -> None:
        """Where nobody has to show who they are the server is for this machine, unless told so."""
        for given, address in (
            ({}, "127.0.0.1"),
            ({"client_port": 1}, "127.0.0.1"),
            ({"security_token": "s"}, ""),
            ({"htpasswd": "f"}, ""),
            ({"interface": ""}, ""),
            ({"interface": "0.0.0.0"}, "0.0.0.0"),
            ({"interface": "::1", "security_token": "s"}, "::1"),
        ):
            self.assertEqual(config.make_settings(given).address, address, given)

    def test_hosts(self) -> None:
        """The names that the machine has, and those that are given; all, where callers log in."""
        named = {"allowed_hosts": ["a.example"], "allowed_origins": ["https://b.example:1"]}
        for given, ours, other in (
            ({}, "node7", "a.example"),
            ({"interface": "c.example"}, "c.example", "a.example"),
            ({"interface": "::1"}, "node7", "c.example"),
            (named, "a.example", "c.example"),
            (named, "b.example", "c.example"),
            ({"security_token": "s", **named}, "node7", "c.example"),
            ({"security_token": "s"}, "c.example", None),
            ({"htpasswd": "f"}, "c.example", None),
            ({"allowed_hosts": ["*"]}, "c.example", None),
            ({"allowed_origins": ["*"]}, "c.example", None),
        ):
            hosts = config.make_settings(given).hosts(lambda: ["Node7", "no name"])
            hosts.check(ours)
            if other is not None:
                self.assertRaises(Misdirected, hosts.check, other)
        # To look them up may take a while: it is not done for nothing.
        config.make_settings({"security_token": "s"}).hosts(self.fail)

    def test_allowed_hosts(self) -> None:
        """What is no name is named."""
        (problem,) = self.problems({"allowed_hosts": ["a.example", "http://a.example"]})
        self.assertIn("settings.allowed_hosts: must be a name", problem)

    def test_proxy_protocol(self) -> None:
        """Somebody must be trusted to speak it."""
        (problem,) = self.problems({"proxy_protocol": True})
        self.assertTrue(problem.startswith("settings.proxy_protocol: needs trusted_proxies"))
        config.make_settings({"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]})

    def test_key_without_cert(self) -> None:
        """A key alone is no use."""
        self.assertEqual(self.problems({"key": "k.pem"}), ["settings.key: needs cert as well"])
        self.assertEqual(self.problems({"key": "k.pem", "cert": "c.pem"}), [])
        self.assertEqual(self.problems({"cert": "c.pem"}), [])

    def test_one_port(self) -> None:
        """Websockets share the HTTP port unless they have one of their own."""
        for http, ws, one in (
            (9090, None, True),
            (9090, -1, True),
            (9090, 9090, True),
            (9090, 9000, False),
            (9090, 0, False),
            (0, None, True),
            (0, -1, True),
            (0, 0, False),
            (-1, 9000, False),
        ):
            settings = config.make_settings({"http_port": http, "ws_port": ws})
            self.assertIs(settings.one_port, one, (http, ws))

    def test_no_port_at_all(self) -> None:
        """A server that listens nowhere is refused."""
        for ws in (None, -1):
            (problem,) = self.problems({"http_port": -1, "ws_port": ws})
            self.assertTrue(problem.startswith("settings.http_port: -1 leaves nothing"))

    def test_secret(self) -> None:
        """The security token does not show where settings are printed."""
        self.assertNotIn("s3cret", repr(config.make_settings({"security_token": "s3cret"})))
