"""Names of tools for a provider that allows fewer characters in them, and back again."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST = 64

_REFUSED = re.compile(r"[^A-Za-z0-9_-]")


class ToolNames:
    """A one-to-one map between a request's tool names and those sent to a provider.

    Args:
        names: of the tools that are defined; names found later are added.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._there: dict[str, str] = {}
        self._here: dict[str, str] = {}
        for name in sorted(names, key=lambda name: _REFUSED.search(name) is not None):
            self.there(name)

    def there(self, name: str) -> str:
        """Return the name sent to the provider: the same one if that is allowed."""
        if name not in self._there:
            alias = _REFUSED.sub("_", name)[:LONGEST]
            number = 1
            while alias in self._here:
                number += 1
                ending = f"_{number}"
                alias = _REFUSED.sub("_", name)[: LONGEST - len(ending)] + ending
            self._there[name] = alias
            self._here[alias] = name
        return self._there[name]

    def here(self, name: str) -> str:
        """The name that the provider means; one it made up stays as it is."""
        return self._here.get(name, name)
