"""What the database may raise. Knows nothing of who asked."""

from __future__ import annotations


class DatabaseError(Exception):
    """A message for the operator; it never holds a password or a row's values.

    DatabaseError
    ├── DatabaseUrlInvalid    the setting cannot name a database
    ├── DatabaseUnavailable   cannot be opened or reached, locked, or too slow: try again
    └── MigrationFailed       the tables cannot be brought to this version's shape
    """


class DatabaseUrlInvalid(DatabaseError):
    """The URL is malformed, or names a database that is not supported."""


class DatabaseUnavailable(DatabaseError):
    """The database did not answer in time, or refused."""


class MigrationFailed(DatabaseError):
    """The tables are newer than this version, or a migration broke a foreign key."""
