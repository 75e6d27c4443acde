"""What browsers are told of our answers: what may run, who may frame them, what leaks.

Content Security Policy Level 3; Referrer Policy; RFC 6797 (Strict-Transport-Security).
"""

from __future__ import annotations

from collections.abc import Sequence

CSP = "Content-Security-Policy"

#: For what is no page: listings, errors, data.
_NO_SCRIPT = "script-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'"

#: The viewer may be told to connect to another host and port, hence ws: and wss:.
_PAGE = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'"
)

#: xterm.js makes style sheets of its own.
_INLINE_STYLES = "style-src 'self' 'unsafe-inline'"

_FRAME_OPTIONS = {"self": "SAMEORIGIN", "none": "DENY"}


class Policy:
    """The headers of answers.

    ``frame_ancestors`` are the origins whose pages may show ours in a frame, ``self``,
    ``none`` or ``*``; ``hsts`` is how long browsers shall come by TLS alone, in seconds;
    ``added`` are headers that the operator wants, and win over ours.
    """

    def __init__(
        self,
        frame_ancestors: Sequence[str] = ("self",),
        hsts: int | None = None,
        added: Sequence[tuple[str, str]] = (),
    ) -> None:
        words = [f"'{word}'" if word in ("self", "none") else word for word in frame_ancestors]
        self._frames = f"frame-ancestors {' '.join(words)}"
        ours = {
            CSP: f"{_NO_SCRIPT}; {self._frames}",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        # It knows no origins; browsers that know frame-ancestors do not read it.
        if len(frame_ancestors) == 1 and frame_ancestors[0] in _FRAME_OPTIONS:
            ours["X-Frame-Options"] = _FRAME_OPTIONS[frame_ancestors[0]]
        if hsts is not None:
            ours["Strict-Transport-Security"] = f"max-age={hsts}"
        names = {name.lower() for name, _ in added}
        kept = [(name, value) for name, value in ours.items() if name.lower() not in names]
        #: What every answer carries.
        self.headers: list[tuple[str, str]] = [*kept, *added]
        # Several are one with commas between, and each of them counts.
        self._added = ", ".join(value for name, value in added if name.lower() == CSP.lower())
        #: The policy of files that are not ours: their scripts are the operator's business.
        self.of_files = self._added or self._frames

    def of_page(self, inline_styles: bool = False) -> str:
        """Return the policy of a page of ours: no script but our own files.

        Where the operator has added another, that one.
        """
        if self._added:
            return self._added
        styles = [_INLINE_STYLES] if inline_styles else []
        return "; ".join([_PAGE, *styles, self._frames])
