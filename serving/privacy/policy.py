"""The privacy policy of a tenant: what happens to each type of personal data that would leave."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self, get_args

from serving.domain.privacy_class import ENTITY_TYPES, Action, EntityType
from serving.privacy.refusals import Blocked


@dataclass(frozen=True, slots=True)
class PrivacyPolicy:
    """The action for each type; a type in neither set is masked and restored.

    `languages` are codes of those that may leave though nobody reads them for names.

    A secret is not restored unless a tenant says so. An answer seldom needs it, and one that an
    injected document has steered could otherwise carry it off in a link or a tool's arguments. The
    price: code that comes back has a pseudonym where the secret stood.
    """

    blocked: frozenset[EntityType] = frozenset()
    never_restored: frozenset[EntityType] = frozenset({"SECRET"})
    languages: frozenset[str] = frozenset()

    @classmethod
    def of(cls, actions: Mapping[EntityType, Action], languages: Iterable[str] = ()) -> Self:
        """The default policy, changed for the types that are named.

        Raises:
            ValueError: a type or an action that does not exist.
        """
        for entity, action in actions.items():
            if entity not in ENTITY_TYPES:
                raise ValueError(f"no type of personal data is called {entity!r}")
            if action not in get_args(Action):
                raise ValueError(f"{action!r} is none of {', '.join(get_args(Action))}")
        default = cls()
        rest = frozenset(default.never_restored - actions.keys())
        return cls(
            blocked=frozenset(one for one, action in actions.items() if action == "block"),
            never_restored=rest.union(
                one for one, action in actions.items() if action == "never_restore"
            ),
            languages=frozenset(languages),
        )

    def action(self, entity: EntityType) -> Action:
        """Return the action for values of that type: the stricter one if both are set."""
        if entity in self.blocked:
            return "block"
        return "never_restore" if entity in self.never_restored else "mask"

    def check(self, found: Iterable[EntityType]) -> None:
        """Refuse what may not leave.

        Raises:
            Blocked: the types, without a value.
        """
        if forbidden := self.blocked.intersection(found):
            raise Blocked(forbidden)

    @property
    def version(self) -> str:
        """16 hexadecimal digits that change with any action of any type, and with languages."""
        told = ";".join(f"{entity}={self.action(entity)}" for entity in sorted(ENTITY_TYPES))
        if self.languages:
            told += f";languages={','.join(sorted(self.languages))}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]
