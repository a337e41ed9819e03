"""The principal: on whose behalf a request runs, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.access.errors import NotPermitted

Role = Literal["inference", "admin"]
PrivacyClass = Literal["local_only", "scrubbed", "open"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. An admin key manages and does not infer; an inference key does the opposite.

    `allowed_models` of None means every model; an empty set means none.
    """

    tenant: str
    key_id: str
    key_name: str
    role: Role
    allowed_models: frozenset[str] | None
    privacy: PrivacyClass = "local_only"

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
