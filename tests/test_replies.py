"""JSON answers."""

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from wsserver.errors import AtCapacity, Unauthorized
from wsserver.replies import error_body, json_body, refusal


class ReplyTests(SynchronousTestCase):
    def test_json(self) -> None:
        """An answer is JSON and not kept by caches."""
        request = DummyRequest([])
        self.assertEqual(json_body(request, {"a": 1}), b'{"a": 1}\n')
        headers = request.responseHeaders
        self.assertEqual(headers.getRawHeaders("Content-Type"), ["application/json"])
        self.assertEqual(headers.getRawHeaders("Cache-Control"), ["no-store"])

    def test_error(self) -> None:
        """The reason phrase holds the words, without what cannot stand there."""
        request = DummyRequest([])
        body = error_body(request, 404, "NoSuchThing", "no ä\r\nSet-Cookie: x")
        self.assertIn(b"Set-Cookie", body)
        self.assertEqual(request.responseCode, 404)
        self.assertEqual(request.responseMessage, b"no ???Set-Cookie: x")

    def test_refusal(self) -> None:
        """A deliberate failure says when to come again, or how to log in."""
        request = DummyRequest([])
        refusal(request, AtCapacity("all in use", 7), ["Bearer"])
        headers = request.responseHeaders
        self.assertEqual(headers.getRawHeaders("Retry-After"), ["7"])
        self.assertFalse(headers.hasHeader("WWW-Authenticate"))
        body = refusal(request, Unauthorized("log in"), ["Bearer", 'Basic realm="x"'])
        self.assertIn(b'"error": "Unauthorized"', body)
        challenges = headers.getRawHeaders("WWW-Authenticate")
        self.assertEqual((request.responseCode, challenges), (401, ["Bearer", 'Basic realm="x"']))
