"""The principal: on whose behalf a request runs, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.domain.errors import NotPermitted
from serving.domain.privacy_class import PrivacyClass

Role = Literal["inference", "admin"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. An admin key manages and does not infer; an inference key does the opposite.

    `allowed_models` of None means every model; an empty set means none. `privacy` is the loosest
    class that its requests may have. `groups` and `user` are what access lists of files name.
    """

    tenant: str
    key_id: str
    key_name: str
    role: Role
    allowed_models: frozenset[str] | None
    privacy: PrivacyClass = "local_only"
    groups: frozenset[str] = frozenset()
    user: str | None = None

    def may_use(self, model: str) -> bool:
        """Whether this principal may send requests to `model`."""
        if self.role != "inference":
            return False
        return self.allowed_models is None or model in self.allowed_models

    def require(self, role: Role) -> None:
        """Go on only in that role.

        Raises:
            NotPermitted: the key has the other role.
        """
        if self.role != role:
            raise NotPermitted(
                f"This needs a key of role {role!r}; the key sent has {self.role!r}."
            )
