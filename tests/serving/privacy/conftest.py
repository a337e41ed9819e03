"""For tests of privacy."""

from __future__ import annotations

import pytest

from serving.privacy.languages.unread_text import load_identifier


@pytest.fixture(scope="session", autouse=True)
def identifier() -> None:
    """Load the models before any test has a deadline."""
    load_identifier()
