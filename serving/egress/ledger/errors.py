"""Errors of the egress ledger, its signatures and its receipts. No HTTP."""

from __future__ import annotations


class LedgerError(Exception):
    """A message for the operator; it never holds a key or a body.

    LedgerError
    ├── LedgerUnavailable    a row cannot be written now: nothing may leave
    │   └── LedgerTruncated  entries are gone or changed: nothing may leave until that is known
    ├── SigningKeyUnsafe     the private key's file may be read by others, or holds no such key
    ├── PublicKeyInvalid     a file holds no public key
    ├── LedgerFileInvalid    an export, or a file of checkpoints, cannot be read
    └── ReceiptInvalid       not signed by a key we were given, or changed since
    """


class LedgerUnavailable(LedgerError):
    """The row of what would leave could not be written in time, so it must not leave."""


class LedgerTruncated(LedgerUnavailable):
    """Entries are gone that were signed, or that this gateway has written."""


class SigningKeyUnsafe(LedgerError):
    """The file of the private key is not private, or is no Ed25519 key."""


class PublicKeyInvalid(LedgerError):
    """A file holds no Ed25519 public key."""


class LedgerFileInvalid(LedgerError):
    """A line of a file is not what the ledger writes."""


class ReceiptInvalid(LedgerError):
    """A receipt that proves nothing."""
