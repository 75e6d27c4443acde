"""TLS as others see it: a scanner of our own, openssl, clients with and without certificates."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import Server, certificate, connect, fetch, folder, until
from tests.integration.raw import dial, head_of

#: Forward secret and authenticated (RFC 9325, section 4.2): ECDHE with AES-GCM or ChaCha20.
GOOD = {0xC02B, 0xC02C, 0xC02F, 0xC030, 0xCCA8, 0xCCA9}
#: Where all suites of TLS 1.2 and before have their numbers, and those of 1.3.
SUITES = [*range(0x100), *range(0xC000, 0xC0B6), *range(0xCC13, 0xCCAF), *range(0xD000, 0xD006)]
SUITES_13 = [*range(0x1301, 0x1306)]
SSL_3, TLS_1_0, TLS_1_1, TLS_1_2 = 0x300, 0x301, 0x302, 0x303

# Groups, signature algorithms and point formats that any server can use.
EXTENSIONS = bytes.fromhex(
    "000a0008 0006 001d 0017 0018"
    "000d0014 0012 0403 0804 0401 0503 0805 0501 0806 0601 0201"
    "000b0002 0100"
    "ff010001 00".replace(" ", "")
)


def hello(version: int, suites: Iterable[int], compression: bytes = b"\0") -> bytes:
    """Return a ClientHello (RFC 5246, section 7.4.1.2)."""
    offered = b"".join(struct.pack(">H", suite) for suite in suites)
    body = struct.pack(">H", version) + os.urandom(32) + b"\0"
    body += struct.pack(">H", len(offered)) + offered
    body += bytes([len(compression)]) + compression
    if version != SSL_3:
        body += struct.pack(">H", len(EXTENSIONS)) + EXTENSIONS
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16" + struct.pack(">HH", min(version, TLS_1_0), len(message)) + message


def chosen(port: int, greeting: bytes) -> tuple[int, int, int] | None:
    """Return version, suite and compression that the server chooses; None if it refuses."""
    answer = b""
    with dial(port) as connection:
        connection.sendall(greeting)
        while len(answer) < 100 and (more := connection.recv(4096)):
            answer += more
            if answer[0] != 0x16:
                return None
    if len(answer) < 50:
        return None
    version, session = struct.unpack(">H", answer[9:11])[0], answer[43]
    suite, compression = struct.unpack(">HB", answer[44 + session : 47 + session])
    return version, suite, compression


class ScannerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())

    def openssl(self, *command: str) -> None:
        subprocess.run(["openssl", *command], check=True, capture_output=True, cwd=self.folder)

    def check(self, port: int) -> None:
        """Offer every suite by itself, and old versions all of them."""
        accepted = {s for s in SUITES if chosen(port, hello(TLS_1_2, [s])) is not None}
        self.assertLessEqual(accepted, GOOD)
        self.assertEqual(len(accepted), 3)
        for version in (SSL_3, TLS_1_0, TLS_1_1):
            self.assertIsNone(chosen(port, hello(version, SUITES)), hex(version))
        # Compression is offered, and not taken.
        best = chosen(port, hello(TLS_1_2, SUITES, compression=b"\x01\0"))
        self.assertIn(best, [(TLS_1_2, suite, 0) for suite in accepted])

    def renegotiates(self, port: int) -> bool:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_2"]
        done = subprocess.run(command, input="R\n", capture_output=True, text=True, timeout=60)
        self.assertIn("RENEGOTIATING", done.stdout + done.stderr)
        return "no renegotiation" not in done.stderr

    def test_scan(self) -> None:
        """Only what is safe today, on both ports, and after a reload with another key."""
        cert, key = certificate(self.folder)
        services = self.folder / "none.json"
        services.write_text("{}")
        common = ("-c", services, "--interface", "127.0.0.1", "--http_port", 0)
        server = self.enterContext(Server(0, *common, "--cert", cert, "--key", key))
        for port in (server.http_port, server.ws_port):
            self.check(port)
            self.assertFalse(self.renegotiates(port))
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                     "-nodes", "-days", "2", "-subj", "/CN=other", "-keyout", str(key),
                     "-out", str(cert))  # fmt: skip
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log)
        self.check(server.http_port)
        self.assertFalse(self.renegotiates(server.http_port))
        for suites in ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"):
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.http_port}",
                       "-tls1_3", "-ciphersuites", suites]  # fmt: skip
            done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60)
            self.assertIn(suites, done.stdout)


class ReloadTests(SynchronousTestCase):
    def test_live_sessions(self) -> None:
        """50 sessions by wss go on while the certificate is exchanged; new ones see the new one."""
        path = self.enterContext(folder())
        cert, key = certificate(path)
        target = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        target.listen(100)
        common = ("--interface", "127.0.0.1", "--client_port", target.getsockname()[1])
        server = self.enterContext(Server("--http_port", 0, *common, "--cert", cert, "--key", key))
        live = []
        for _ in range(50):
            browser = self.enterContext(connect(server.ws))
            live.append((browser, self.enterContext(target.accept()[0])))
        old = ssl.get_server_certificate(("127.0.0.1", server.http_port))
        certificate(path)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in server.log)
        new = ssl.get_server_certificate(("127.0.0.1", server.http_port))
        self.assertNotEqual(old, new)
        self.assertEqual(new.split(), cert.read_text().split())
        for browser, service in live:
            browser.send(b"up")
            self.assertEqual(service.recv(10), b"up")
            service.sendall(b"down")
            self.assertEqual(browser.recv(20), b"down")


class ClientCertificateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())
        self.cert, self.key = certificate(self.folder)
        services = self.folder / "none.json"
        services.write_text("{}")
        self.common = ("-c", services, "--interface", "127.0.0.1", "--http_port", 0)
        self.common += ("--cert", self.cert, "--key", self.key)
        for authority in ("ours", "theirs"):
            self.signer(authority)

    def openssl(self, command: str) -> None:
        words = ["openssl", *command.split()]
        subprocess.run(words, check=True, capture_output=True, cwd=self.folder)

    def signer(self, name: str) -> None:
        """Make an authority, and a client's certificate that it has signed."""
        make = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        self.openssl(f"{make} -x509 -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem")
        self.openssl(f"{make} -subj /CN=client -keyout {name}-client.key -out {name}.csr")
        by = f"-CA {name}.pem -CAkey {name}.key -CAcreateserial"
        self.openssl(f"x509 -req -days 2 -in {name}.csr {by} -out {name}-client.pem")

    def get(self, server: Server, client: str | None) -> int:
        """Return the status for a client with a certificate of that authority; 0: turned away."""
        context = ssl._create_unverified_context()
        if client is not None:
            files = [str(self.folder / f"{client}-client.{kind}") for kind in ("pem", "key")]
            context.load_cert_chain(*files)
        try:
            with urllib.request.urlopen(f"{server.http}/", timeout=20, context=context) as answer:
                return int(answer.status)
        except OSError:
            return 0

    def serve(self, *args: object) -> Server:
        ca = ("--client_ca", self.folder / "ours.pem")
        return self.enterContext(Server(*self.common, *ca, *args))

    def test_required(self) -> None:
        """Who has no certificate of ours is turned away before any request, after a reload too."""
        server = self.serve()
        for _ in range(2):
            found = [self.get(server, client) for client in (None, "theirs", "ours")]
            self.assertEqual(found, [0, 0, 200])
            server.process.send_signal(signal.SIGHUP)
            until(lambda: "reloaded" in server.log)

    def test_optional(self) -> None:
        """Who has none comes in; who has a wrong one does not."""
        server = self.serve("--client_certificates", "optional")
        found = [self.get(server, client) for client in (None, "theirs", "ours")]
        self.assertEqual(found, [200, 0, 200])

    def test_redirect(self) -> None:
        """The plain port leads to the TLS one, where browsers are told to come from now on."""
        server = self.enterContext(Server(*self.common, "--https_redirect_port", 0, "--hsts", 3600))
        plain = int(re.search(r"http://\S+:(\d+)/ \(leads", server.log)[1])  # type: ignore[index]
        answer = head_of(plain, b"GET /a?b=c HTTP/1.1\r\nHost: localhost:1\r\n\r\n").decode()
        self.assertIn("HTTP/1.1 308 ", answer)
        self.assertIn(f"\r\nLocation: https://localhost:{server.http_port}/a?b=c\r\n", answer)
        self.assertNotIn("Strict-Transport-Security", answer)
        page = fetch(f"http://localhost:{plain}/")
        self.assertEqual(page.headers["Strict-Transport-Security"], "max-age=3600")
        self.assertIn(b"Open a session", page.body)
