"""Why a request may not leave this machine. Knows no HTTP, and holds no text of a request."""

from __future__ import annotations

from collections.abc import Iterable


class MayNotLeave(Exception):
    """The request may not leave. The message is safe for the caller and for a log.

    MayNotLeave
    ├── Blocked         the policy forbids a type of personal data that is in it
    ├── Unscrubbable    it holds what nobody can scrub: images, sound, files, token ids
    │   └── Unread      text in a script or language that is not read for names
    └── StillPersonal   personal data was found in the bytes that were about to be sent
    """


class Blocked(MayNotLeave):
    """The policy forbids what was found. `entities` are types, never values."""

    def __init__(self, entities: Iterable[str]) -> None:
        self.entities = tuple(sorted(set(entities)))
        super().__init__(f"The policy lets nothing leave that holds {', '.join(self.entities)}.")


class Unscrubbable(MayNotLeave):
    """A part of the request cannot be read for personal data."""


class Unread(Unscrubbable):
    """Text is in a script or language that is not read for names. `what` names it."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"The request has text in {what}, which is not read for names.")


class StillPersonal(MayNotLeave):
    """The last scan found personal data. `entities` are types, never values."""

    def __init__(self, entities: Iterable[str]) -> None:
        self.entities = tuple(sorted(set(entities)))
        super().__init__(f"The last scan still found {', '.join(self.entities)}; nothing was sent.")
