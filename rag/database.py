"""The SQL database as retrieval sees it. Knows nothing of where it is."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from sqlalchemy.ext.asyncio import AsyncSession


class Database(Protocol):
    """Sessions over our tables."""

    dialect: Literal["sqlite", "postgresql"]

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Read one consistent snapshot."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Write; committed when the block ends, rolled back when it raises."""
        ...
