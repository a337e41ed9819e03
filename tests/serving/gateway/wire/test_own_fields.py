"""Repeated fields of ours in a body, and names that resemble them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.domain.errors import InvalidRequest
from serving.domain.privacy_class import CLASSES, PrivacyClass, strictest
from serving.gateway.admin.wire import KeyCreation
from serving.gateway.body import parse
from serving.gateway.wire.chat import ChatRequest, TokenizeBody
from serving.gateway.wire.own_fields import OWN_FIELDS, resembled
from serving.gateway.wire.vector_stores import (
    FileAttachment,
    FileChange,
    StoreCreation,
    StoreSearch,
)

CHAT = '"model":"m","messages":[{"role":"user","content":"privacy \\"privacy\\""}]'


def chat(fields: str) -> ChatRequest:
    return parse(f"{{{CHAT},{fields}}}".encode(), ChatRequest, max_depth=32)


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=5))
def test_class_of_a_body_is_the_strictest_that_it_says(classes: list[PrivacyClass]) -> None:
    wire = chat(",".join(f'"privacy":"{one}"' for one in classes))
    assert wire.privacy == strictest(*classes)


@pytest.mark.parametrize("last", ["fail", "continue"])
def test_repeated_on_failure_does_not_go_on(last: str) -> None:
    first = "continue" if last == "fail" else "fail"
    assert chat(f'"on_failure":"{first}","on_failure":"{last}"').on_failure == "fail"
    assert chat('"on_failure":"continue","on_failure":"continue"').on_failure == "continue"


def test_repeated_on_failure_that_is_none_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat('"on_failure":"go","on_failure":"fail"')
    assert refused.value.param == "on_failure"


def test_class_inside_of_another_value_does_not_count() -> None:
    schema = '{"type":"object","properties":{"privacy":{"type":"string"},"x":{"enum":["privacy"]}}}'
    tools = f'[{{"type":"function","function":{{"name":"f","parameters":{schema}}}}}]'
    assert chat(f'"privacy":"scrubbed","tools":{tools},"metadata":{{"privacy":"no"}}').privacy == (
        "scrubbed"
    )


def test_long_numbers_do_not_hinder_the_search_for_repetition() -> None:
    digits = "9" * 300
    wire = chat(f'"privacy":"local_only","unknown":-{digits}.0,"privacy":"open"')
    assert wire.privacy == "local_only"


@pytest.mark.parametrize(
    ("kind", "body"),
    [(FileChange, "{}"), (StoreSearch, '{"query":"q"}'),
     (TokenizeBody, '{"model":"m","prompt":"p"}'), (KeyCreation, '{"tenant":"t","name":"n"}')],
)  # fmt: skip
def test_every_body_with_a_class_has_the_strictest(kind: type, body: str) -> None:
    rest = f",{body[1:-1]}" if len(body) > 2 else ""
    raw = f'{{"privacy":"scrubbed","privacy":"open"{rest}}}'.encode()
    assert parse(raw, kind, max_depth=8).privacy == "scrubbed"


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(FileChange, "access", '["tenant"]'), (StoreCreation, "access", '["tenant"]'),
     (KeyCreation, "role", '"admin"'), (KeyCreation, "groups", '["a"]'),
     (KeyCreation, "allowed_models", "null"), (KeyCreation, "user", '"ann"')],
)  # fmt: skip
def test_repeated_right_is_refused_by_its_name(kind: type, field: str, value: str) -> None:
    raw = f'{{"tenant":"t","name":"n","{field}":{value},"{field}":{value}}}'.encode()
    with pytest.raises(InvalidRequest) as refused:
        parse(raw, kind, max_depth=8)
    assert refused.value.param == field


@pytest.mark.parametrize(
    ("kind", "name"),
    [(StoreCreation, "privacy"), (FileAttachment, "privacy"), (FileAttachment, "Privacy"),
     (FileChange, "Access"), (FileChange, "acess"), (ChatRequest, "onFailure"),
     (ChatRequest, "on-failure")],
)  # fmt: skip
def test_name_that_would_be_ignored_is_refused(kind: type, name: str) -> None:
    raw = f'{{"file_id":"f","{name}":"local_only",{CHAT}}}'.encode()
    with pytest.raises(InvalidRequest) as refused:
        parse(raw, kind, max_depth=8)
    assert refused.value.param == name


def test_long_name_is_not_repeated_in_the_error() -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(f'"the privacy of {"Jane Roe " * 9}":"open"')
    assert "Jane" not in refused.value.message + str(refused.value.param)


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_every_single_slip_of_the_pen_resembles_the_field(name: str) -> None:
    doubled = [name[:at] + name[at] + name[at:] for at in range(len(name))]
    swapped = [name[:at] + name[at + 1] + name[at] + name[at + 2 :] for at in range(len(name) - 1)]
    for slip in [*doubled, *swapped, name.upper(), name.title(), f" {name}"]:
        assert resembled(slip) == name


@pytest.mark.parametrize("name", [*sorted(ChatRequest.model_fields), "private", "primary", "store"])
def test_other_fields_resemble_none(name: str) -> None:
    assert resembled(name) in (None, name)
