"""Numbers of bank accounts and banks that are no IBAN. Most are known by the words near them."""

from __future__ import annotations

import re
from typing import Final

from serving.privacy.patterns import checksums
from serving.privacy.patterns.pattern_spec import PatternSpec, words

_ROUTING = words("routing", "aba", "rtn", "routing number", "transit number", "wire", "ach")
_SORT_CODE = words("sort code", "sort-code", "sortcode")
_BIC = words("bic", "swift", "swift code", "swift/bic", "bic/swift")
_ACCOUNT = words(
    "account", "account number", "account no", "accounts", "acct", "a/c", "acc", "iban",
    "bank account", "checking", "savings", "direct debit", "konto", "kontonummer", "konto-nr",
    "kontonr", "bankverbindung", "blz", "bankleitzahl", "compte", "numéro de compte", "rib",
    "cuenta",
    "número de cuenta", "conto", "conto corrente", "rekening", "rekeningnummer", "numer konta",
    "rachunek", "conta", "agência", "ifsc", "bsb", "clabe",
)  # fmt: skip

SPECS: Final = (
    PatternSpec(  # Wallets of Bitcoin and Ethereum.
        entity="ACCOUNT",
        pattern=re.compile(
            r"(?<![A-Za-z0-9])(?:bc1[a-z0-9]{25,60}|0x[0-9A-Fa-f]{40})(?![A-Za-z0-9])"
        ),
        alone=0.8,
        marks=("bc1", "0x"),
        anywhere=True,
    ),
    PatternSpec(  # Bitcoin in base 58: letters of both cases, and no 0, O, I, l.
        entity="ACCOUNT",
        pattern=re.compile(
            r"[13](?<![A-Za-z0-9].)(?=[1-9a-z]{0,33}[A-Z])(?=[1-9A-Z]{0,33}[a-z])"
            r"[1-9A-HJ-NP-Za-km-z]{25,34}(?![A-Za-z0-9])"
        ),
        alone=0.7,
    ),
    PatternSpec(
        entity="ACCOUNT",
        pattern=re.compile(r"[0-9](?<![A-Za-z0-9].)(?:[ -]?[0-9]){8}(?![A-Za-z0-9])"),
        check=checksums.aba,
        near=_ROUTING,
        named=0.7,
        both=0.9,
    ),
    PatternSpec(
        entity="ACCOUNT",
        pattern=re.compile(
            r"[0-9](?<![A-Za-z0-9/.\-].)[0-9](?:[- ][0-9]{2}){2}[ ,/|]{1,3}[0-9]{8}(?![A-Za-z0-9])"
        ),
        alone=0.7,
        near=_ACCOUNT,
        named=0.9,
        long=True,
    ),
    PatternSpec(
        entity="ACCOUNT",
        pattern=re.compile(r"[0-9](?<![A-Za-z0-9].)[0-9][- ]?[0-9]{2}[- ]?[0-9]{2}(?![A-Za-z0-9])"),
        near=_SORT_CODE,
        named=0.8,
    ),
    PatternSpec(
        entity="ACCOUNT",
        pattern=re.compile(r"(?<![A-Za-z0-9])[A-Z]{6}[A-Z0-9]{2}(?:[A-Z0-9]{3})?(?![A-Za-z0-9])"),
        near=_BIC,
        named=0.8,
        anywhere=True,
    ),
    PatternSpec(  # India's branch code.
        entity="ACCOUNT",
        pattern=re.compile(r"[A-Z](?<![A-Za-z0-9].)[A-Z]{3}0[A-Z0-9]{6}(?![A-Za-z0-9])"),
        alone=0.6,
    ),
    PatternSpec(
        entity="ACCOUNT",
        pattern=re.compile(
            r"[0-9](?<![A-Za-z0-9.,$\u20ac\u00a3].)(?:[ \-/.]?[0-9]){5,22}+(?![A-Za-z0-9%])"
        ),
        near=_ACCOUNT,
        named=0.65,
        reach=36,
    ),
)
