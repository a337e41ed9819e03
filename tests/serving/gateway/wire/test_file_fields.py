"""The fields of an upload."""

from __future__ import annotations

import pytest

from serving.domain.errors import InvalidRequest
from serving.gateway.wire.file_fields import MAX_EXPIRY_S, MIN_EXPIRY_S, FileFields, attachment

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"


def read(**fields: str) -> FileFields:
    named = {name.replace("__", "[") + "]" * ("__" in name): text for name, text in fields.items()}
    return FileFields.read({"purpose": "user_data"} | named)


def test_file_is_private_to_this_place_and_stays_unless_said_otherwise() -> None:
    assert read() == FileFields("user_data", "local_only", None, None)


def test_file_of_a_batch_goes_after_thirty_days() -> None:
    assert read(purpose="batch").expires_after_s == 30 * 86_400


def test_fields_are_taken_as_they_are_sent() -> None:
    fields = read(
        purpose="assistants",
        privacy="scrubbed",
        access='["group:legal", "user:eva"]',
        expires_after__anchor="created_at",
        expires_after__seconds="7200",
    )
    assert fields == FileFields("assistants", "scrubbed", ["group:legal", "user:eva"], 7200)


def test_missing_purpose_is_told_with_those_allowed() -> None:
    with pytest.raises(InvalidRequest, match="user_data, assistants, batch") as refused:
        FileFields.read({})
    assert refused.value.param == "purpose"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("purpose", "fine-tune"),
        ("privacy", "public"),
        ("access", "tenant"),
        ("access", "[]"),
        ("access", "{}"),
        ("access", '["everybody"]'),
        ("access", '["group:"]'),
        ("access", "[1]"),
        ("access", '["tenant"'),
    ],
)
def test_value_that_cannot_be_meant_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(**{name: value})
    assert refused.value.param == name


@pytest.mark.parametrize("seconds", [MIN_EXPIRY_S, MAX_EXPIRY_S])
def test_expiry_may_be_at_its_bounds(seconds: int) -> None:
    fields = {"purpose": "user_data", ANCHOR: "created_at", SECONDS: str(seconds)}
    assert FileFields.read(fields).expires_after_s == seconds


@pytest.mark.parametrize(
    ("anchor", "seconds", "param"),
    [
        ("last_active_at", "7200", ANCHOR),
        (None, "7200", ANCHOR),
        ("created_at", None, SECONDS),
        ("created_at", str(MIN_EXPIRY_S - 1), SECONDS),
        ("created_at", str(MAX_EXPIRY_S + 1), SECONDS),
        ("created_at", "7200.5", SECONDS),
        ("created_at", "9" * 5000, SECONDS),
        ("created_at", "\u0663\u0666\u0660\u0660", SECONDS),
    ],
)
def test_expiry_that_cannot_be_meant_is_refused(
    anchor: str | None, seconds: str | None, param: str
) -> None:
    sent = {"purpose": "user_data", ANCHOR: anchor, SECONDS: seconds}
    with pytest.raises(InvalidRequest) as refused:
        FileFields.read({name: text for name, text in sent.items() if text is not None})
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("a.txt", "attachment; filename=\"a.txt\"; filename*=UTF-8''a.txt"),
        ('a"\\;.txt', "attachment; filename=\"a__;.txt\"; filename*=UTF-8''a%22%5C%3B.txt"),
        ("\u6587.pdf", "attachment; filename=\"_.pdf\"; filename*=UTF-8''%E6%96%87.pdf"),
        ("a\r\nb", "attachment; filename=\"a__b\"; filename*=UTF-8''a%0D%0Ab"),
    ],
)
def test_attachment_is_named_safely(filename: str, header: str) -> None:
    assert attachment(filename) == header
