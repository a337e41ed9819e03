"""The origin of an answer, as reported to its client."""

from __future__ import annotations

from dataclasses import dataclass

from serving.domain.privacy_class import PrivacyClass

LOCAL_ROUTE = "local"


@dataclass(frozen=True, slots=True)
class Origin:
    """The route that an answer took, and under which class.

    `route` is `local` or `overflow:<provider>`; `receipt` is the signed statement of it, if any.
    """

    privacy: PrivacyClass
    route: str = LOCAL_ROUTE
    receipt: str | None = None
