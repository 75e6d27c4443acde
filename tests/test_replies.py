"""JSON answers."""

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from wsserver.replies import error_body, json_body


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
