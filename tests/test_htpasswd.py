"""Password and group files as Apache has them."""

from __future__ import annotations

import os
from pathlib import Path

import bcrypt
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from wsserver.errors import ConfigError
from wsserver.htpasswd import UserFiles, Users, read_groups, read_users


def hashed(password: str, prefix: str = "2y") -> str:
    """What ``htpasswd -B`` writes, as cheap as bcrypt can be."""
    made = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    return made.replace("$2b$", f"${prefix}$", 1)


ALICE = f"alice:{hashed('wonderland')}\n"


class ParseTests(SynchronousTestCase):
    def test_users(self) -> None:
        """One user a line; comments and empty lines are none."""
        text = f"# of the site\n\n{ALICE}bob smith:{hashed('x', '2b')}\n"
        self.assertEqual(list(read_users(text)), ["alice", "bob smith"])

    def test_wrong_users(self) -> None:
        """Every wrong line is named, and what to do about other hashes."""
        text = f"alice\n{ALICE}bob:$apr1$x$y\n:{hashed('x')}\neve:\n{hashed('x')}"
        error = self.assertRaises(ConfigError, read_users, text)
        lines = [problem.split(":")[0] for problem in error.problems]
        self.assertEqual(lines, ["line 1", "line 3", "line 4", "line 5", "line 6"])
        self.assertIn("htpasswd -B", error.problems[1])
        self.assertNotIn("apr1", str(error))

    def test_spoilt_hashes(self) -> None:
        """A hash that bcrypt itself would refuse is refused when the file is read."""
        good = hashed("x")
        spoilt = [
            good[:28] + "/" + good[29:],
            good[:-1] + "/",
            *(good.replace("$04$", f"${cost}$") for cost in ("03", "17", "99")),
        ]
        for wrong in spoilt:
            error = self.assertRaises(ConfigError, read_users, f"bob:{wrong}")
            self.assertIn("line 1: no bcrypt hash of cost 4 to 16", error.problems[0])
        for number in range(200):
            users = Users(read_users(f"bob:{hashed(str(number))}"), {})
            self.assertTrue(users.right("bob", str(number).encode()))

    def test_groups(self) -> None:
        """A group has users with spaces between them; a user has any number of groups."""
        text = "# groups\nstaff: alice  bob\n\nadmins:alice\nempty:\nstaff: carol"
        self.assertEqual(
            read_groups(text), {"alice": {"staff", "admins"}, "bob": {"staff"}, "carol": {"staff"}}
        )
        error = self.assertRaises(ConfigError, read_groups, "staff alice\nx: y\n: bob")
        self.assertEqual([p.split(":")[0] for p in error.problems], ["line 1", "line 3"])


class UsersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.users = Users(read_users(ALICE + f"empty:{hashed('')}"), {})

    def test_right(self) -> None:
        """The password of the user is right, with any spelling of the hash."""
        for prefix in ("2a", "2b", "2y"):
            users = Users(read_users(f"u:{hashed('grün', prefix)}"), {})
            self.assertTrue(users.right("u", "grün".encode()))

    def test_wrong(self) -> None:
        """Anything else is not; an unknown user takes a hash as well."""
        for user, password in (
            ("alice", b"Wonderland"),
            ("alice", b""),
            ("alice", b"wonderland\0"),
            ("bob", b"wonderland"),
            ("bob", b""),
            ("empty", b"\0"),
            ("empty", b"x" * 73),
        ):
            self.assertFalse(self.users.right(user, password), (user, password))
        self.assertTrue(self.users.right("empty", b""))
        self.assertFalse(Users({}, {}).right("alice", b""))

    def test_always_hashed(self) -> None:
        """The time does not tell whether there is such a user: bcrypt runs for everybody."""
        asked: list[bytes] = []
        check = bcrypt.checkpw
        self.patch(bcrypt, "checkpw", lambda p, h: asked.append(h) or check(p, h))
        for user in ("alice", "bob"):
            self.users.right(user, b"x")
        self.assertEqual(asked, [self.users.hashes["alice"]] * 2)

    def test_repr(self) -> None:
        """Hashes do not get into a log by accident."""
        self.assertNotIn("$", repr(self.users))


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.htpasswd = Path(self.mktemp())
        self.groups = Path(self.mktemp())
        self.htpasswd.write_text(ALICE)
        self.groups.write_text("staff: alice")

    def files(self) -> UserFiles:
        return UserFiles(str(self.htpasswd), str(self.groups))

    def test_changed(self) -> None:
        """Either file is read again when it has changed, and else not."""
        files = self.files()
        first = files.current()
        self.assertEqual(first.groups, {"alice": {"staff"}})
        self.assertIs(files.current(), first)
        self.groups.write_text("admins: alice")
        self.assertEqual(files.current().groups, {"alice": {"admins"}})
        self.htpasswd.write_text(ALICE + f"bob:{hashed('x')}")
        self.assertIn("bob", files.current().hashes)

    def test_spoilt(self) -> None:
        """A file that is spoilt later changes nothing, and the log tells."""
        files = self.files()
        good = files.current()
        for spoil in (
            lambda: self.htpasswd.write_text("alice:plain"),
            lambda: self.htpasswd.write_bytes(b"\xff\xff"),
            lambda: self.htpasswd.unlink(),
        ):
            spoil()
            with capturedLogs() as events:
                self.assertIs(files.current(), good)
            self.assertIn(str(self.htpasswd), events[0]["why"])

    def test_at_first(self) -> None:
        """At first everything must be right; problems name file and line."""
        for spoil, why in (
            (lambda: self.groups.write_text("x"), f"{self.groups}: line 1"),
            (lambda: self.htpasswd.write_bytes(b"\xff"), f"{self.htpasswd}: no UTF-8"),
            (lambda: self.htpasswd.unlink(), f"{self.htpasswd}: No such file"),
            (lambda: os.mkdir(self.htpasswd), f"{self.htpasswd}: Is a directory"),
        ):
            spoil()
            error = self.assertRaises(ConfigError, self.files)
            self.assertTrue(error.problems[0].startswith(why), error.problems)

    def test_without_groups(self) -> None:
        """There need not be groups."""
        self.assertEqual(UserFiles(str(self.htpasswd)).current().groups, {})
