"""Heavy libraries appear uninstalled, inside the block only."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from serving.privacy.names import without_torch as module
from serving.privacy.names.without_torch import without_torch


def test_library_that_is_not_loaded_is_absent_inside_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAVY", ("this", "json"))
    sys.modules.pop("this", None)
    with without_torch():
        assert find_spec("this") is None
        with pytest.raises(ModuleNotFoundError):
            import_module("this")
        assert import_module("json")
    assert find_spec("this") is not None


def test_absence_ends_when_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAVY", ("this",))
    sys.modules.pop("this", None)
    with pytest.raises(RuntimeError), without_torch():
        raise RuntimeError
    assert "this" not in sys.modules
