"""Fields of an upload's form, and the file object that is returned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args
from urllib.parse import quote

import orjson
from pydantic import TypeAdapter, ValidationError

from serving.domain.errors import InvalidRequest
from serving.domain.privacy_class import CLASSES, PrivacyClass
from serving.gateway.wire.vector_stores import Access

Purpose = Literal["user_data", "assistants", "batch"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000
BATCH_EXPIRY_S = MAX_EXPIRY_S
"""How long a file for a batch is kept, as at OpenAI. Other files stay until they are deleted."""

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = frozenset({"purpose", "access", "privacy", _ANCHOR, _SECONDS})

_ACCESS: TypeAdapter[list[str]] = TypeAdapter(Access)
_UNSAFE = re.compile(r'[^ -~]|["\\%]')


@dataclass(frozen=True, slots=True)
class FileFields:
    """The fields of an upload. Without `access`, the narrowest list with the uploader on it."""

    purpose: Purpose
    privacy: PrivacyClass
    access: list[str] | None
    expires_after_s: int | None

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> FileFields:
        """The fields of a form.

        Raises:
            InvalidRequest: one is missing or cannot be meant; `param` names it.
        """
        purpose = _one_of(fields, "purpose", PURPOSES)
        if purpose is None:
            raise InvalidRequest(
                f"purpose: is required, one of {', '.join(PURPOSES)}", param="purpose"
            )
        privacy = _one_of(fields, "privacy", CLASSES) or "local_only"
        return cls(
            purpose=cast("Purpose", purpose),
            privacy=cast("PrivacyClass", privacy),
            access=_access(fields.get("access")),
            expires_after_s=_expiry(fields, BATCH_EXPIRY_S if purpose == "batch" else None),
        )


def attachment(filename: str) -> str:
    """A `content-disposition` that saves a file under its name (RFC 6266)."""
    plain = _UNSAFE.sub("_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def _one_of(fields: Mapping[str, str], name: str, known: tuple[str, ...]) -> str | None:
    value = fields.get(name)
    if value is not None and value not in known:
        raise InvalidRequest(f"{name}: must be one of {', '.join(known)}", param=name)
    return value


def _access(value: str | None) -> list[str] | None:
    if value is None:
        return None
    try:
        return _ACCESS.validate_python(orjson.loads(value))
    except (orjson.JSONDecodeError, ValidationError):
        raise InvalidRequest(
            'access: must be a JSON array such as ["tenant"], ["group:<name>"] or ["user:<name>"]',
            param="access",
        ) from None


def _expiry(fields: Mapping[str, str], default: int | None) -> int | None:
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return default
    if anchor != "created_at":
        raise InvalidRequest(f"{_ANCHOR}: must be created_at", param=_ANCHOR)
    digits = seconds or ""
    whole = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 9 else 0
    if not MIN_EXPIRY_S <= whole <= MAX_EXPIRY_S:
        raise InvalidRequest(
            f"{_SECONDS}: must be {MIN_EXPIRY_S} to {MAX_EXPIRY_S}", param=_SECONDS
        )
    return whole
