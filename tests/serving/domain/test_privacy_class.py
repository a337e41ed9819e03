"""A request's class is the strictest that applies, and only ever rises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.domain.privacy_class import CLASSES, PrivacyClass, strictest

SAID: st.SearchStrategy[PrivacyClass | None] = st.sampled_from([*CLASSES, None])


def rank(privacy: PrivacyClass) -> int:
    return CLASSES.index(privacy)


@given(st.lists(SAID), SAID)
def test_class_never_falls_whatever_else_is_said(
    said: list[PrivacyClass | None], more: PrivacyClass | None
) -> None:
    if any(said):
        assert rank(strictest(*said, more)) >= rank(strictest(*said))


@given(st.permutations([*CLASSES, None, "open"]))
def test_class_does_not_depend_on_who_spoke_first(said: list[PrivacyClass | None]) -> None:
    assert strictest(*said) == "local_only"


@given(st.lists(SAID))
def test_class_is_one_that_was_said_and_none_of_them_is_stricter(
    said: list[PrivacyClass | None],
) -> None:
    spoken = [one for one in said if one is not None]
    if spoken:
        assert rank(strictest(*said)) == max(map(rank, spoken))


def test_nothing_leaves_where_nobody_said_that_it_may() -> None:
    assert strictest() == strictest(None) == "local_only"
