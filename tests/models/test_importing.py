from __future__ import annotations

import gc

import pytest

from models.importing import without_collection


def test_collection_is_paused_within_the_scope_only() -> None:
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collection_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError), without_collection():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
