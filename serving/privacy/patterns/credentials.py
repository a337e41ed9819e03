"""API keys and tokens by the prefixes of those who issue them, and blocks of private keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from serving.privacy.patterns.normalised import View
from serving.privacy.patterns.pattern_spec import Finder, PatternSpec, starting
from serving.privacy.spans import Span

_START, _END = "(?<![A-Za-z0-9]..)", "(?![A-Za-z0-9])"
_ISSUED: Final = 1.0

# Each: how it begins, and what follows. They are looked for only in a text with some beginning.
_PREFIXES: tuple[tuple[str, str], ...] = (
    # OpenAI, Anthropic, OpenRouter, Ringfence and others; words are joined by hyphens, too.
    ("sk-", r"(?=[\w-]{0,64}?[0-9])[A-Za-z0-9_-]{16,}+"),
    ("AKIA", "[A-Z0-9]{12,128}+"),
    ("ASIA", "[A-Z0-9]{12,128}+"),
    ("ABSK", "[A-Za-z0-9+/=]{40,}+"),
    ("ghp_", "[A-Za-z0-9]{20,}+"),
    ("gho_", "[A-Za-z0-9]{20,}+"),
    ("ghu_", "[A-Za-z0-9]{20,}+"),
    ("ghs_", "[A-Za-z0-9._-]{20,}+"),
    ("ghr_", "[A-Za-z0-9]{20,}+"),
    ("github_pat_", "[A-Za-z0-9_]{20,}+"),
    ("glpat-", r"[\w.-]{16,}+"),
    ("gldt-", r"[\w-]{16,}+"),
    ("glrt-", r"[\w.-]{16,}+"),
    ("glptt-", r"[\w-]{16,}+"),
    ("glcbt-", r"[\w-]{16,}+"),
    ("gloas-", r"[\w-]{16,}+"),
    ("glft-", r"[\w-]{16,}+"),
    ("glsoat-", r"[\w-]{16,}+"),
    ("xox", "[a-z](?:[.-][A-Za-z0-9]+)+"),
    ("xapp-", "[A-Za-z0-9-]{10,}+"),
    ("hooks.slack.com/services/", "[A-Za-z0-9/]{20,}+"),
    ("sk_live_", "[A-Za-z0-9]{10,}+"),
    ("sk_test_", "[A-Za-z0-9]{10,}+"),
    ("rk_live_", "[A-Za-z0-9]{10,}+"),
    ("rk_test_", "[A-Za-z0-9]{10,}+"),
    ("pk_live_", "[A-Za-z0-9]{10,}+"),
    ("pk_test_", "[A-Za-z0-9]{10,}+"),
    ("whsec_", "[A-Za-z0-9+/=]{16,}+"),
    ("AIza", r"[\w-]{30,}+"),
    ("ya29.", r"[\w-]{20,}+"),
    ("GOCSPX-", r"[\w-]{20,}+"),
    ("SG.", r"[\w-]{16,}+\.[\w-]{16,}+"),
    ("npm_", "[A-Za-z0-9]{30,}+"),
    ("pypi-", r"[\w-]{50,}+"),
    ("hf_", "[A-Za-z0-9]{20,}+"),
    ("api_org_", "[A-Za-z0-9]{20,}+"),
    ("rf_", "[A-Za-z0-9_-]{20,}+"),
    ("gsk_", "[A-Za-z0-9]{30,}+"),
    ("xai-", "[A-Za-z0-9]{30,}+"),
    ("pplx-", "[A-Za-z0-9]{30,}+"),
    ("r8_", "[A-Za-z0-9]{30,}+"),
    ("nvapi-", r"[\w-]{30,}+"),
    ("tgp_v1_", r"[\w-]{30,}+"),
    ("fw_", "[A-Za-z0-9]{20,}+"),
    ("dop_v1_", "[a-f0-9]{32,}+"),
    ("doo_v1_", "[a-f0-9]{32,}+"),
    ("dckr_pat_", r"[\w-]{20,}+"),
    ("dp.pt.", "[A-Za-z0-9]{30,}+"),
    ("dapi", "[a-f0-9]{32}(?:-[0-9])?"),
    ("shpat_", "[a-fA-F0-9]{32}"),
    ("shpss_", "[a-fA-F0-9]{32}"),
    ("shpca_", "[a-fA-F0-9]{32}"),
    ("sq0atp-", r"[\w-]{20,}+"),
    ("sq0csp-", r"[\w-]{30,}+"),
    ("EAAA", r"[\w-]{50,}+"),
    ("lin_api_", "[A-Za-z0-9]{30,}+"),
    ("ntn_", "[A-Za-z0-9]{30,}+"),
    ("secret_", "[A-Za-z0-9]{40,}+"),
    ("figd_", r"[\w-]{30,}+"),
    ("phc_", "[A-Za-z0-9]{30,}+"),
    ("phx_", "[A-Za-z0-9]{30,}+"),
    ("sntrys_", r"[\w+/=-]{30,}+"),
    ("NRAK-", "[A-Z0-9]{20,}+"),
    ("hvs.", r"[\w-]{20,}+"),
    ("hvb.", r"[\w-]{20,}+"),
    ("ATATT3", r"[\w=-]{30,}+"),
    ("ATBB", "[A-Za-z0-9]{20,}+"),
    ("pul-", "[a-f0-9]{40}"),
    ("PMAK-", "[A-Za-z0-9-]{30,}+"),
    ("rdme_", "[a-z0-9]{40,}+"),
    ("tfp_", "[A-Za-z0-9]{30,}+"),
    ("AGE-SECRET-KEY-1", "[A-Z0-9]{30,}+"),
    ("key-", "[a-f0-9]{32}"),
    ("eyJ", r"[\w-]{8,}+(?:\.[\w-]{4,}+){1,4}+(?:\.[\w-]{0,})*+"),
)


def _prefixed(prefix: str, rest: str) -> PatternSpec:
    before = f"(?<![A-Za-z0-9]{'.' * len(prefix)})"
    return PatternSpec(
        entity="SECRET",
        pattern=re.compile(f"{re.escape(prefix)}{before}{rest}"),
        alone=_ISSUED,
        marks=(prefix.lower(),),
        anywhere=True,
    )


_PREFIXED = tuple(_prefixed(*one) for one in _PREFIXES)
_ANY_PREFIX = re.compile(
    starting(*(re.escape(prefix) for prefix, _ in _PREFIXES), not_after="A-Za-z0-9")
)

SPECS: Final = (
    PatternSpec(  # Twilio.
        entity="SECRET",
        pattern=re.compile(f"(?:SK|AC){_START}[0-9a-f]{{32}}{_END}"),
        alone=_ISSUED,
    ),
    PatternSpec(  # Hashes of passwords, as crypt(3) writes them.
        entity="SECRET",
        pattern=re.compile(r"\$(?:2[abxy]|[156y]|argon2(?:id?|d)|scrypt)\$[\w./+=,$-]{20,}+"),
        alone=0.95,
        anywhere=True,
    ),
    PatternSpec(  # Telegram.
        entity="SECRET",
        pattern=re.compile(r"[0-9](?<![A-Za-z0-9].)[0-9]{7,9}:A[\w-]{32,40}(?![\w-])"),
        alone=_ISSUED,
        long=True,
    ),
    PatternSpec(  # Azure's storage, queues and databases: 64 bytes.
        entity="SECRET",
        pattern=re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==(?![A-Za-z0-9+/=])"),
        alone=_ISSUED,
        marks=("==",),
        anywhere=True,
    ),
    PatternSpec(  # Azure's newer keys have a mark in the middle, and a checksum behind it.
        entity="SECRET",
        pattern=re.compile(
            r"(?<![A-Za-z0-9])[A-Za-z0-9+/]{30,80}(?:AzSe|AzFu|AzCa|APIM|ACDb|AIoT|ASbE|AACJ99|ACOG)"
            r"[A-Za-z0-9+/]{4,30}={0,2}(?![A-Za-z0-9])"
        ),
        alone=_ISSUED,
        marks=("azse", "azfu", "azca", "apim", "acdb", "aiot", "asbe", "aacj99", "acog"),
        anywhere=True,
    ),
    PatternSpec(
        entity="SECRET",
        pattern=re.compile(
            r"(?<![A-Za-z0-9])[Bb]earer\s{1,4}(?P<value>(?=[\w.~+/=-]{0,128}?[0-9])[\w.~+/=-]{12,}+)"
        ),
        alone=0.95,
        marks=("bearer",),
        anywhere=True,
    ),
    PatternSpec(
        entity="SECRET",
        pattern=re.compile(
            r"(?i:authorization)[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?i:basic|token|digest|negotiate)\s{1,4}"
            r"(?P<value>[\w.~+/=-]{8,}+)"
        ),
        alone=0.95,
        marks=("authorization",),
        anywhere=True,
    ),
)

_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}(?:PRIVATE KEY|SECRET)[A-Z ]{0,20}-----"
    r"(?:(?:[^-]|-(?!----))*+-----END[^-\n]{1,60}-----|(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{16,}+)*+)"
)


def issued(view: View) -> Iterator[Span]:
    """Keys and tokens that begin as those of their issuer do."""
    if _ANY_PREFIX.search(view.text):
        for spec in _PREFIXED:
            yield from spec.find(view)


def private_keys(view: View) -> Iterator[Span]:
    """PEM blocks (RFC 7468) as a whole; of one without an end, what looks like its body."""
    if "-----BEGIN" in view.text:
        for match in _PEM.finditer(view.text):
            yield Span(*match.span(), "SECRET", _ISSUED)


FINDERS: Final[tuple[Finder, ...]] = (issued, private_keys)
