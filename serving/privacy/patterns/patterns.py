"""Personal data and secrets that have a form: found without a model, the same for the same text.

Knows no names, no places and nothing of what happens to a find. Every pattern takes time linear in
its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving.privacy.patterns import (
    account_numbers,
    assigned_secrets,
    birth_dates,
    cards,
    contacts,
    credentials,
    ibans,
    identity_numbers,
    network,
    postcodes,
    streets,
    tax_numbers,
)
from serving.privacy.patterns.normalised import View, views
from serving.privacy.patterns.operator_rules import OperatorRules
from serving.privacy.patterns.pattern_spec import Finder
from serving.privacy.spans import Span, merged

NO_RULES: Final = OperatorRules()

_SHAPES = (
    *credentials.SPECS,
    *network.MACS,
    *account_numbers.SPECS,
    *identity_numbers.SPECS,
    *tax_numbers.SPECS,
    *birth_dates.SPECS,
    *contacts.SPECS,
    *streets.SPECS,
    *postcodes.SPECS,
)
_FINDERS: tuple[Finder, ...] = (
    *credentials.FINDERS,
    *(spec.find for spec in _SHAPES),
    *assigned_secrets.FINDERS,
    *network.FINDERS,
    *contacts.FINDERS,
    cards.cards,
    ibans.ibans,
)


def find(text: str, rules: OperatorRules = NO_RULES) -> list[Span]:
    """Find personal and secret values by their form, in any disguise that `views` sees through.

    Args:
        text: anything.
        rules: of the operator.

    Returns:
        Spans of the text as it was given, in order, none of them overlapping.
    """
    return merged(view.in_original(span) for view in views(text) for span in _found_in(view, rules))


def _found_in(view: View, rules: OperatorRules) -> Iterator[Span]:
    for finder in _FINDERS:
        yield from finder(view)
    yield from rules.find(view)
