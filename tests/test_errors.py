from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from wsserver import errors


def every_error() -> list[type[errors.WSServerError]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.WSServerError)
    ]


class ErrorsTests(SynchronousTestCase):
    def test_http_status(self) -> None:
        """Every error has a status that tells the client of a failure."""
        for error in every_error():
            self.assertIn(error.http_status // 100, (4, 5), error)

    def test_close_code(self) -> None:
        """Every close code mirrors its HTTP status, save for the two orderly ends."""
        orderly = {errors.Released: 1000, errors.ShuttingDown: 1001}
        for error in every_error():
            self.assertEqual(error.close_code, orderly.get(error, 4000 + error.http_status))

    def test_documented(self) -> None:
        """Every error says in its docstring when it is raised."""
        for error in every_error():
            self.assertTrue(error.__doc__, error)

    def test_message(self) -> None:
        """The text is the public message; a time to come back may go with it."""
        error = errors.AtCapacity("all are in use", 7)
        self.assertEqual((str(error), error.retry_after), ("all are in use", 7))
        self.assertIsNone(errors.BadRequest("no").retry_after)

    def test_config_error(self) -> None:
        """Problems of a file are kept one by one, and read one a line."""
        error = errors.ConfigError(["one", "two"])
        self.assertEqual((error.problems, str(error)), (("one", "two"), "one\ntwo"))

    def test_fixed_messages(self) -> None:
        """Some errors always say the same, so that they give nothing away."""
        self.assertEqual(str(errors.NoSuchToken()), "unknown or expired token")
        self.assertEqual(str(errors.TokenInUse()), "token already in use")
        self.assertEqual(errors.ShuttingDown().retry_after, 30)
