"""What the settings name, read and checked."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from wsserver.config import Settings
from wsserver.errors import ConfigError
from wsserver.inputs import certificate, check_directory, fixed_host, offers_of, unsafe

SCRIPT = """
from wsserver import RemoteServiceScript
class Script(RemoteServiceScript):
    pass
"""


class InputsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        (self.folder / "script.py").write_text(SCRIPT)
        self.services = self.folder / "services.json"
        entry = {"script": "script.py", "count": 1, "options": {}}
        self.services.write_text(json.dumps({"S": entry}))

    def test_what_is_offered(self) -> None:
        """Without a word the demo; with a fixed host nothing; else what the file says."""
        self.assertEqual(list(offers_of(Settings())), ["Demo"])
        self.assertEqual(list(offers_of(Settings(client_port=1))), [])
        self.assertEqual(list(offers_of(Settings(remote_session_config=str(self.services)))), ["S"])

    def test_nothing_there(self) -> None:
        """What cannot be read is named."""
        wrong = Settings(remote_session_config=str(self.folder / "none.json"))
        self.assertIn("none.json", str(self.assertRaises(ConfigError, offers_of, wrong)))
        self.assertRaises(ConfigError, check_directory, str(self.folder / "none"))
        check_directory(str(self.folder))
        check_directory(None)

    def test_fixed_host(self) -> None:
        """Tunnels without token go where the settings say, if anywhere."""
        self.assertIsNone(fixed_host(Settings()))
        self.assertEqual(fixed_host(Settings(client_port=5901)), ("127.0.0.1", 5901))

    def test_no_certificate(self) -> None:
        """TLS is for who asks for it."""
        self.assertIsNone(certificate(Settings()))

    def test_unsafe(self) -> None:
        """Sound settings that are unsafe are told."""
        offers = offers_of(Settings(remote_session_config=str(self.services)))
        self.assertEqual(unsafe(Settings(), offers), [])
        self.assertIn("everybody", "".join(unsafe(Settings(interface="0.0.0.0"), offers)))
