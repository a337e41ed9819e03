"""Addresses of machines, and URLs with credentials in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from serving.privacy.patterns.normalised import View
from serving.privacy.patterns.pattern_spec import Finder, PatternSpec, words
from serving.privacy.spans import Span

_IPV4 = re.compile(
    r"[0-9](?<![A-Za-z0-9].)(?<![0-9]\..)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![A-Za-z0-9]|\.[0-9])"
)
_IPV6 = re.compile(
    r"[0-9A-Fa-f:](?<![A-Za-z0-9:.].)(?:(?<!:)[0-9A-Fa-f]{0,3}|(?<=:)(?=:))(?::[0-9A-Fa-f]{0,4}){2,8}(?::?[0-9]{1,3}(?:\.[0-9]{1,3}){3})?"
    r"(?![A-Za-z0-9:])"
)
_VERSIONS = words("version", "versions", "release", "v", "ver", "build", "firmware", "upgrade")
_URL = re.compile(r"://[^\s<>\"`]*+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,30}\Z")
_TRAILING = ".,;:!?)]}'*_"
_USER_INFO = re.compile(r"://(?:[^/?#\s]*:[^\s]*@|[^/?#@\s:]{16,}@)")
_PARAMETER = re.compile(
    r"[?&#;](?:[A-Za-z0-9]{1,20}[_\-.]){0,3}(?:token|jwt|key|api_?key|apikey|secret|sig|signature|hmac|password"
    r"|passwd|pwd|pass|auth|authorization|credential|credentials|code|session|sessionid|sid|ticket|otp)=[^&#\s]",
    re.IGNORECASE,
)
MAX_SCHEME_CHARS: Final = 31

MACS: Final = (
    PatternSpec(
        entity="MAC",
        pattern=re.compile(
            r"[0-9A-Fa-f](?<![A-Za-z0-9].)(?<![A-Za-z0-9][:\-].)[0-9A-Fa-f]"
            r"(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})(?![A-Za-z0-9]|[:\-][0-9A-Fa-f]{2})"
        ),
        alone=0.95,
        anywhere=True,
    ),
    PatternSpec(
        entity="MAC",
        pattern=re.compile(
            r"[0-9A-Fa-f](?<![A-Za-z0-9].)[0-9A-Fa-f]{3}(?:\.[0-9A-Fa-f]{4}){2}(?![A-Za-z0-9])"
        ),
        alone=0.8,
        anywhere=True,
    ),
)


def ip_addresses(view: View) -> Iterator[Span]:
    """Addresses that are somebody's: not the host's own, not masks, not versions."""
    for match in _IPV4.finditer(view.text):
        if _is_ipv4(match[0]) and not _VERSIONS.before(view.lowered, match.start(), within=12):
            yield Span(*match.span(), "IP", 0.95)
    if view.text.count(":") < 2:
        return
    for match in _IPV6.finditer(view.text):
        if _is_ipv6(match[0]):
            yield Span(*match.span(), "IP", 0.95)


def urls(view: View) -> Iterator[Span]:
    """Find URLs that hold a credential: a password before the host, or a key in the query."""
    for match in _URL.finditer(view.text):
        scheme = _SCHEME.search(view.text, max(0, match.start() - MAX_SCHEME_CHARS), match.start())
        tail = match[0].rstrip(_TRAILING)
        if scheme and (_USER_INFO.match(tail) or _PARAMETER.search(tail)):
            yield Span(scheme.start(), match.start() + len(tail), "URL", 1.0)


def _is_ipv4(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or text.startswith("255."))


def _is_ipv6(text: str) -> bool:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return False
    digits = sum(char.isalnum() for char in text)
    return digits >= 4 and any(map(str.isdigit, text)) and not address.is_loopback


FINDERS: Final[tuple[Finder, ...]] = (ip_addresses, urls)
