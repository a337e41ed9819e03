"""The SQL database as retrieval uses it. Does not know where the database is."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from sqlalchemy.ext.asyncio import AsyncSession


class SqlDatabase(Protocol):
    """Opens sessions on the database."""

    dialect: Literal["sqlite", "postgresql"]

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a session that reads one consistent snapshot."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction; it commits after the block, or rolls back if the block raises."""
        ...
