"""Errors of the database and of Valkey."""

from __future__ import annotations


class DatabaseError(Exception):
    """A message for the operator; it never holds a password or a row's values.

    DatabaseError
    ├── DatabaseUrlInvalid    the setting cannot name a database
    ├── DatabaseUnavailable   cannot be opened or reached, locked, or too slow: try again
    └── MigrationFailed       the tables cannot be brought to this version's shape

    ValkeyError
    ├── ValkeyUrlInvalid      the setting cannot name a server
    ├── ValkeyStartFailed     the embedded server does not start
    └── ValkeyUnavailable     not reached, too slow, or refusing: its state is unknown
        └── ValkeyNotAsked    it failed a moment ago, so nothing was sent
    """


class DatabaseUrlInvalid(DatabaseError):
    """The URL is malformed, or names a database that is not supported."""


class DatabaseUnavailable(DatabaseError):
    """The database did not answer in time, or refused."""


class MigrationFailed(DatabaseError):
    """The tables are newer than this version, or a migration broke a foreign key."""


class ValkeyError(Exception):
    """A message for the operator; it never holds a password or a value."""


class ValkeyUrlInvalid(ValkeyError):
    """The URL is malformed, or of a scheme that is not supported."""


class ValkeyStartFailed(ValkeyError):
    """The embedded server did not start."""


class ValkeyUnavailable(ValkeyError):
    """The server did not answer in time, or refused. What was asked may have been done."""


class ValkeyNotAsked(ValkeyUnavailable):
    """The server failed a moment ago, so that nothing was sent to it."""
