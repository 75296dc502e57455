"""What can go wrong between the bridge and the target, in words for the user."""

from __future__ import annotations

from rumplab.errors import RumplabError


class Lost(RumplabError):
    """The session with the target is over; nothing is known about a request under way."""


class WrongKey(Lost):
    """The first answer has an HMAC that the key doesn't give."""

    def __init__(self) -> None:
        super().__init__(
            "wrong key: the target's answer isn't authenticated by it; give the IPKDBKEY that its kernel was built with"
        )


class Silent(Lost):
    """No valid answer within the time allowed."""


class Refused(RumplabError):
    """The target answered with an error of its own; the session goes on."""


class Unexpected(Lost):
    """A valid answer that doesn't belong to the request."""
