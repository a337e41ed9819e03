import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from serving.privacy.pseudonyms import Pseudonyms, conversation_id, conversation_key
from serving.privacy.scrubbing.pseudonym_variants import LOOK_ALIKE
from serving.privacy.spans import ENTITY_TYPES, EntityType

SECRET = SecretStr("s" * 64)
KEY = conversation_key(SECRET, "acme", "c1")

entities = st.sampled_from(ENTITY_TYPES)


@given(st.text(min_size=1), entities)
def test_pseudonym_is_made_of_capitals_digits_and_underscores(
    value: str, entity: EntityType
) -> None:
    assert re.fullmatch(r"[A-Z_]+_[0-9A-HJKMNP-TV-Z]{8}", Pseudonyms(KEY).of(value, entity))


@given(st.text(min_size=1), entities)
def test_pseudonym_has_the_form_that_look_alikes_are_known_by(
    value: str, entity: EntityType
) -> None:
    pseudonym = Pseudonyms(KEY).of(value, entity)

    found = LOOK_ALIKE.fullmatch(pseudonym)

    assert found is not None
    assert found[1] == entity


@given(st.lists(st.tuples(st.text(min_size=1), entities), min_size=1))
def test_pseudonym_does_not_depend_on_what_was_issued_before(
    values: list[tuple[str, EntityType]],
) -> None:
    together = Pseudonyms(KEY)
    for value, entity in values:
        assert together.of(value, entity) == Pseudonyms(KEY).of(value, entity)


def test_pseudonym_of_one_value_differs_between_tenants_and_conversations():
    keys = [
        KEY,
        conversation_key(SECRET, "globex", "c1"),
        conversation_key(SECRET, "acme", "c2"),
        conversation_key(SecretStr("t" * 64), "acme", "c1"),
    ]

    assert len({Pseudonyms(key).of("John Smith", "PERSON") for key in keys}) == len(keys)


def test_conversation_key_keeps_tenant_and_conversation_apart():
    assert conversation_key(SECRET, "a:b", "c") != conversation_key(SECRET, "a", "b:c")


@pytest.mark.parametrize(
    ("entity", "one", "other"),
    [
        ("PERSON", "John Smith", "JOHN  smith"),
        ("PERSON", "John Smith", "Jo\u200bhn\nSmith"),
        ("EMAIL", "John@Example.com", "john@example.com"),
        ("ADDRESS", "1 Main\nStreet", "1 Main Street"),
        ("ORGANISATION", "\uff21\uff23\uff2d\uff25", "Acme"),
    ],
)
def test_pseudonym_is_shared_by_spellings_of_one_value(
    entity: EntityType, one: str, other: str
) -> None:
    pseudonyms = Pseudonyms(KEY)

    assert pseudonyms.of(one, entity) == pseudonyms.of(other, entity)
    assert list(pseudonyms.values.values()) == [one]


@pytest.mark.parametrize(
    ("entity", "one", "other"),
    [
        ("SECRET", "sk-AAAA", "sk-aaaa"),
        ("CARD", "4111 1111 1111 1111", "4111111111111111"),
    ],
)
def test_pseudonym_restores_other_values_as_each_was_written(
    entity: EntityType, one: str, other: str
) -> None:
    pseudonyms = Pseudonyms(KEY)

    assert pseudonyms.values[pseudonyms.of(one, entity)] == one
    assert pseudonyms.values[pseudonyms.of(other, entity)] == other


def test_pseudonyms_of_one_value_differ_by_type():
    pseudonyms = Pseudonyms(KEY)

    assert pseudonyms.of("Paris", "PERSON")[-8:] != pseudonyms.of("Paris", "PLACE")[-8:]


def test_pseudonym_that_is_never_restored_has_no_value():
    pseudonyms = Pseudonyms(KEY, never_restored={"SECRET"})

    kept = pseudonyms.of("hunter2", "SECRET")

    assert not pseudonyms.values
    assert pseudonyms.issued == {kept}
    assert kept in pseudonyms


def test_look_alike_gets_a_pseudonym_of_its_own_that_means_itself():
    pseudonyms = Pseudonyms(KEY)
    forged = pseudonyms.of("John Smith", "PERSON")

    stand_in = pseudonyms.of_look_alike(forged, "PERSON")

    assert stand_in != forged
    assert pseudonyms.values[stand_in] == forged


def test_look_alike_stands_for_itself_if_it_is_a_kept_pseudonym_of_this_request():
    pseudonyms = Pseudonyms(KEY, never_restored={"SECRET"})
    kept = pseudonyms.of("hunter2", "SECRET")

    assert pseudonyms.of_look_alike(kept, "SECRET") == kept


def test_pseudonyms_do_not_print_what_they_stand_for():
    pseudonyms = Pseudonyms(KEY)
    pseudonyms.of("John Smith", "PERSON")

    assert repr(pseudonyms) == "Pseudonyms(1)"


def test_conversation_id_stays_when_the_history_grows():
    first = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]}
    later = {"messages": [*first["messages"], {"role": "assistant", "content": "Hello"}]}

    assert conversation_id(SECRET, "acme", first) == conversation_id(SECRET, "acme", later)


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [{"role": "user", "content": "Ho"}]},
        {"messages": [{"role": "user", "content": "Hi"}], "user": "u2"},
        {"prompt": "Hi"},
        {"input": "Hi"},
    ],
)
def test_conversation_id_differs_by_the_beginning(other: dict[str, Any]) -> None:
    one = {"messages": [{"role": "user", "content": "Hi"}]}

    assert conversation_id(SECRET, "acme", one) != conversation_id(SECRET, "acme", other)


def test_conversation_id_differs_between_tenants():
    body = {"prompt": "Hi"}

    assert conversation_id(SECRET, "acme", body) != conversation_id(SECRET, "globex", body)
