"""Errors of retrieval as the API returns them."""

from __future__ import annotations

import pytest

from rag.errors import EmbedderMismatch, IndexUnavailable, NotThere, RagError, Refused, TooMany
from serving.domain.errors import RingfenceError, outcome
from serving.retrieval.errors import errors_told
from serving.storage.errors import DatabaseUnavailable


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotThere("a", param="p"), 404),
        (Refused("a", param="p"), 400),
        (TooMany("a", param="p"), 400),
        (EmbedderMismatch("a", param="p"), 409),
        (IndexUnavailable("a", param="p"), 503),
    ],
)
def test_error_is_told_with_its_message_and_field(error: RagError, status: int) -> None:
    with pytest.raises(RingfenceError) as caught, errors_told():
        raise error
    shown = caught.value
    assert (outcome(shown).status, shown.message, shown.param) == (status, "a", "p")


def test_database_that_is_away_is_told_without_its_words() -> None:
    with pytest.raises(RingfenceError, match="does not answer now") as caught, errors_told():
        raise DatabaseUnavailable("host and port")
    assert outcome(caught.value).status == 503
