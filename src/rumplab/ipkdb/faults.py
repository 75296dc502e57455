"""The errors between the translator and the target, with messages for the user."""

from __future__ import annotations

from rumplab.errors import RumplabError


class Lost(RumplabError):
    """The session with the target is over. The target may or may not have executed the last request."""


class WrongKey(Lost):
    """The HMAC of the first answer doesn't match the key."""

    def __init__(self) -> None:
        super().__init__(
            "wrong key: the HMAC of the target's answer doesn't match; give the IPKDBKEY that its kernel was built with"
        )


class Silent(Lost):
    """The target sent no valid answer within the time limit."""


class Refused(RumplabError):
    """The target answered with an error packet; the session continues."""


class Unexpected(Lost):
    """The target sent a valid packet that isn't an answer to the request."""
