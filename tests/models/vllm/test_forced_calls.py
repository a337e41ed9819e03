"""Forced calls in plain JSON are read however their text is split and laid out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.vllm.forced_calls import NamedCall, RequiredCalls
from models.vllm.tool_calls import ToolCallPiece

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["f", "name", "parameters", 'q"\\uote'])
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(st.text(), VALUES, max_size=3)), min_size=1)


def read(reader: RequiredCalls | NamedCall, *texts: str) -> list[tuple[str, str]]:
    calls: dict[int, tuple[str, str]] = {}
    for text in texts:
        for piece in reader.read(text):
            name, arguments = calls.get(piece.number, ("", ""))
            calls[piece.number] = (piece.name or name, arguments + piece.arguments)
    return [calls[number] for number in sorted(calls)]


def written(calls: list[tuple[str, Any]], **layout: Any) -> str:
    return json.dumps([{"name": name, "parameters": given} for name, given in calls], **layout)


@given(CALLS, st.sampled_from([None, 0, 3]), st.booleans(), st.data())
def test_required_calls_are_read_from_any_layout_in_any_pieces(
    calls: list[tuple[str, Any]], indent: int | None, ascii_only: bool, data: st.DataObject
) -> None:
    text = written(calls, indent=indent, ensure_ascii=ascii_only)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    told = read(RequiredCalls(), *pieces)
    assert [(name, json.loads(arguments)) for name, arguments in told] == calls
    assert told == read(RequiredCalls(), text)
    assert told == read(RequiredCalls(), *text)


@given(CALLS, st.integers(0, 60))
def test_required_calls_that_are_cut_are_as_far_as_they_were_written(
    calls: list[tuple[str, Any]], at: int
) -> None:
    text = written(calls)
    whole, cut = read(RequiredCalls(), text), read(RequiredCalls(), text[:at])
    for (name, arguments), (whole_name, whole_arguments) in zip(cut, whole, strict=False):
        assert name == whole_name
        assert whole_arguments.startswith(arguments)
    assert cut[:-1] == whole[: len(cut[:-1])]


def test_white_space_around_arguments_is_left_out() -> None:
    text = '\n[ {\t"name" : "f" ,\r "parameters" :\t {\n"a": 1} \n}\t]'
    assert read(RequiredCalls(), *text) == [("f", '{\n"a": 1}')]


@pytest.mark.parametrize("texts", [('\n{"a": 1}',), ("\n", "{", '"a": 1}')])
def test_named_call_is_all_that_is_written(texts: tuple[str, ...]) -> None:
    assert read(NamedCall("f"), *texts) == [("f", '{"a": 1}')]


def test_named_call_begins_with_its_first_character() -> None:
    reader = NamedCall("f")
    assert list(reader.read(" \n")) == []
    assert list(reader.read("{")) == [ToolCallPiece(0, name="f", arguments="{")]
