"""By which names the server may be addressed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from wsserver.errors import Misdirected
from wsserver.hosts import Hosts

#: Where the names are desks.example and node7: what may stand in a Host header, and what not.
OURS = [
    None,
    *("desks.example", "desks.example:9090", "DESKS.example", "desks.example.", "node7"),
    *("localhost", "localhost:9090", "LOCALHOST", "localhost.", "a.localhost:80", "a.b.localhost"),
    *("127.0.0.1", "127.0.0.1:9090", "192.0.2.7", "[::1]", "[::1]:9090", "[2001:db8::7]:80"),
]
FOREIGN = [
    *(
        "evil.example",
        "evil.example:9090",
        "evil.example.",
        "a.desks.example",
        "desks.example.evil",
    ),
    *("evildesks.example", "example", "node", "node7.evil", "node77", "localhost.evil"),
    *("evillocalhost", "127.0.0.1.evil", "127.0.0.1.2", "127.1", "0x7f.1", "2130706433"),
    *("", " ", ":9090", "*", "desks.example, evil.example", "evil.example,desks.example"),
    *("user@desks.example", "desks.example/", "desks.example:x", "[::1", "::1", "[evil]"),
    *("desks.example\n", "d\u0435sks.example", "de\u017fks.example", ".localhost", "..", "."),
    "a" * 65536,
]


class HostsTests(SynchronousTestCase):
    def refused(self, hosts: Hosts, host: str | None) -> str:
        """Return the words of the refusal, none where there is none."""
        try:
            hosts.check(host)
        except Misdirected as error:
            return str(error)
        return ""

    def test_table(self) -> None:
        """Names that are ours, to the letter, addresses, and what no name server tells."""
        hosts = Hosts(["desks.example", "Node7"])
        for host in OURS:
            self.assertEqual(self.refused(hosts, host), "", host)
        for host in FOREIGN:
            self.assertNotEqual(self.refused(hosts, host), "", host)

    def test_any(self) -> None:
        """All are allowed where that is said, and where nothing is said at all."""
        for hosts in (Hosts(), Hosts(["desks.example", "*"])):
            for host in (*OURS, *FOREIGN):
                self.assertEqual(self.refused(hosts, host), "", host)
        self.assertNotEqual(self.refused(Hosts([]), "desks.example"), "")

    def test_words(self) -> None:
        """The refusal names the host where it is one, and what to do."""
        self.assertEqual(
            self.refused(Hosts([]), "Evil.example:80"),
            "this server is not known as evil.example: see allowed_hosts",
        )
        for host in ("<script>", "a" * 300):
            self.assertEqual(
                self.refused(Hosts([]), host), "this server is not known as that: see allowed_hosts"
            )

    def test_bad_list(self) -> None:
        """A list that holds no name is a mistake that is named."""
        for text in ("", "http://desks.example", "desks.example:80", "*.example", "a b", "b\u00fc"):
            with self.assertRaises(ValueError) as caught:
                Hosts([text])
            self.assertIn(repr(text), str(caught.exception))
