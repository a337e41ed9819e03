"""Numbers that tax offices give to people and firms."""

from __future__ import annotations

import re
from typing import Final

from serving.privacy.patterns import checksums
from serving.privacy.patterns.pattern_spec import PatternSpec, starting, words

_END = "(?![A-Za-z0-9])"
_TAX = words(
    "tax", "tax id", "tax number", "tax no", "taxpayer", "tin", "ein", "fein",
    "employer identification", "employer id", "irs", "vat", "vat id", "vat no", "vat number",
    "steuer-id", "steuernummer", "steuer-nr", "steueridentifikationsnummer",
    "identifikationsnummer", "idnr", "ust-id", "ust-idnr", "umsatzsteuer-id", "siren", "siret",
    "numéro fiscal", "tva", "nif", "cif", "codice fiscale", "partita iva", "p.iva", "nip", "btw",
    "utr", "unique taxpayer reference", "gst", "gstin", "abn", "acn", "rut", "cuit", "cpf", "cnpj",
    "pan", "permanent account number", "tfn", "tax file number",
)  # fmt: skip
_TFN = words("tfn", "tax file", "tax file number")
_COUNTRIES = (
    "ATU[0-9]{8}", "BE[01][0-9]{9}", "BG[0-9]{9,10}", "CHE[0-9]{9}", "CY[0-9]{8}[A-Z]",
    "CZ[0-9]{8,10}", "DE[0-9]{9}", "DK[0-9]{8}", "EE[0-9]{9}", "EL[0-9]{9}",
    "ES[A-Z0-9][0-9]{7}[A-Z0-9]", "FI[0-9]{8}", "FR[A-Z0-9]{2}[0-9]{9}", "GB[0-9]{9}(?:[0-9]{3})?",
    "HR[0-9]{11}", "HU[0-9]{8}", "IE[0-9][A-Z0-9+*][0-9]{5}[A-Z]{1,2}", "IT[0-9]{11}",
    "LT(?:[0-9]{9}|[0-9]{12})", "LU[0-9]{8}", "LV[0-9]{11}", "MT[0-9]{8}", "NL[0-9]{9}B[0-9]{2}",
    "PL[0-9]{10}", "PT[0-9]{9}", "RO[0-9]{2,10}", "SE[0-9]{12}", "SI[0-9]{8}", "SK[0-9]{10}",
)  # fmt: skip


def _digits(pattern: str) -> re.Pattern[str]:
    return re.compile(f"[0-9](?<![A-Za-z0-9].){pattern}{_END}")


def _letters(first: str, rest: str) -> re.Pattern[str]:
    """A pattern in any case that begins with a class, which the search looks for first."""
    return re.compile(f"[{first}{first.lower()}](?<![A-Za-z0-9].)(?i:{rest}){_END}")


SPECS: Final = (
    # United States: employers.
    PatternSpec(entity="TAX_ID", pattern=_digits("[0-9]-?[0-9]{7}"), near=_TAX, named=0.8),
    # Germany.
    PatternSpec(
        entity="TAX_ID",
        pattern=_digits("[0-9][ ]?[0-9]{3}[ ]?[0-9]{3}[ ]?[0-9]{3}"),
        check=checksums.mod_11_10,
        checked=0.75,
        near=_TAX,
        named=0.85,
        long=True,
    ),
    # Italy.
    PatternSpec(
        entity="TAX_ID",
        pattern=_letters(
            "A-Z", "[A-Z]{5}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"
        ),
        alone=0.85,
        check=checksums.codice_fiscale,
        checked=1.0,
    ),
    # Mexico; India: PAN and GSTIN.
    PatternSpec(
        entity="TAX_ID",
        pattern=_letters("A-ZÑ&", "[A-ZÑ&]{2,3}[0-9]{2}[01][0-9][0-3][0-9][A-Z0-9]{2}[0-9A]"),
        alone=0.75,
    ),
    PatternSpec(
        entity="TAX_ID",
        pattern=_letters("A-Z", "[A-Z]{2}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]"),
        alone=0.8,
    ),
    PatternSpec(
        entity="TAX_ID",
        pattern=_digits("[0-9](?i:[A-Z]{5}[0-9]{4}[A-Z][0-9A-Z]Z[0-9A-Z])"),
        alone=0.9,
    ),
    # Australia.
    PatternSpec(
        entity="TAX_ID",
        pattern=_digits("[0-9]{2}(?: [0-9]{3}){2}"),
        check=checksums.tfn,
        checked=0.75,
        near=_TFN,
        named=0.85,
        long=True,
    ),
    # Brazil: people and firms.
    PatternSpec(
        entity="TAX_ID",
        pattern=_digits(r"[0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
        alone=0.9,
        check=checksums.cpf,
        checked=1.0,
        long=True,
    ),
    PatternSpec(
        entity="TAX_ID",
        pattern=_letters("A-Z0-9", r"[0-9A-Z]\.[0-9A-Z]{3}\.[0-9A-Z]{3}/[0-9A-Z]{4}-[0-9]{2}"),
        alone=0.9,
        check=checksums.cnpj,
        checked=1.0,
    ),
    PatternSpec(
        entity="TAX_ID", pattern=_digits("[0-9]{10}"), check=checksums.cpf, checked=0.6, long=True
    ),
    PatternSpec(
        entity="TAX_ID", pattern=_digits("[0-9]{13}"), check=checksums.cnpj, checked=0.75, long=True
    ),
    # European Union.
    PatternSpec(
        entity="TAX_ID",
        pattern=re.compile(starting(*_COUNTRIES, not_after="A-Za-z0-9", any_case=True) + _END),
        alone=0.7,
        near=_TAX,
        named=0.9,
    ),
    # Anywhere, after words.
    PatternSpec(
        entity="TAX_ID",
        pattern=re.compile(
            rf"(?<![A-Za-z0-9])[A-Z]{{0,3}}[ -]?[0-9](?:[ .\-/]?[0-9]|[A-Z]){{6,14}}+{_END}"
        ),
        near=_TAX,
        named=0.65,
        reach=30,
    ),
)
