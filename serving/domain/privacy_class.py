"""The words of the privacy contract: classes of requests, and kinds of personal data."""

from __future__ import annotations

from typing import Literal, get_args

PrivacyClass = Literal["open", "scrubbed", "local_only"]
"""`local_only` never leaves; `scrubbed` leaves without personal data; `open` leaves as it is."""

CLASSES: tuple[PrivacyClass, ...] = get_args(PrivacyClass)
"""All classes, from the loosest to the strictest."""

EntityType = Literal[
    "PERSON",
    "EMAIL",
    "PHONE",
    "ADDRESS",  # A street with its number, a PO box, a postcode.
    "PLACE",
    "ORGANISATION",
    "IBAN",
    "CARD",
    "ACCOUNT",  # Of a bank, without a check of its own: routing and account numbers, BIC.
    "NATIONAL_ID",  # Social security, passport, driving licence.
    "TAX_ID",
    "BIRTH_DATE",
    "IP",
    "MAC",
    "URL",  # With credentials in it.
    "SECRET",  # API keys, tokens, passwords, PEM blocks.
    "CUSTOM",  # The operator's own patterns and words.
]
ENTITY_TYPES: tuple[EntityType, ...] = get_args(EntityType)

Action = Literal["mask", "block", "never_restore"]
"""What happens to personal data that would leave: `mask` puts a pseudonym that is restored in the
answer, `never_restore` one that is not, and `block` stops the request from leaving."""


def strictest(*classes: PrivacyClass | None) -> PrivacyClass:
    """Return the strictest of the classes that are given; without any, `local_only`.

    It only ever rises: no argument makes the answer looser than another one.
    """
    said = [CLASSES.index(one) for one in classes if one is not None]
    return CLASSES[max(said)] if said else "local_only"
