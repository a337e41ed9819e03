"""The form of streamed tool calls: opened once, with their names and no arguments."""

from __future__ import annotations

from models.vllm.tool_calls import ToolCallPiece, ToolCalls


def opening(index: int, call_id: str, name: str) -> dict[str, object]:
    function = {"name": name, "arguments": ""}
    return {"index": index, "id": call_id, "type": "function", "function": function}


def arguments(index: int, text: str) -> dict[str, object]:
    return {"index": index, "function": {"arguments": text}}


def test_call_opens_once_and_then_has_arguments_only() -> None:
    calls = ToolCalls()
    assert calls.grow([ToolCallPiece(0, "a", "f", '{"x"')]) == [
        opening(0, "a", "f"),
        arguments(0, '{"x"'),
    ]
    assert calls.grow([ToolCallPiece(0, "a", "f", ": 1}")]) == [arguments(0, ": 1}")]
    assert calls.whole


def test_call_without_a_name_is_not_told() -> None:
    calls = ToolCalls()
    assert calls.grow([ToolCallPiece(0, "a")]) == []
    assert not calls.begun
    assert calls.grow([ToolCallPiece(0, name="f")]) == [opening(0, "a", "f")]
    assert calls.begun


def test_calls_are_numbered_as_they_come() -> None:
    calls = ToolCalls()
    grown = calls.grow([ToolCallPiece(3, "a", "f", "{}"), ToolCallPiece(7, "b", "g")])
    assert grown == [opening(0, "a", "f"), arguments(0, "{}"), opening(1, "b", "g")]


def test_call_without_an_id_is_given_one() -> None:
    first, second = ToolCalls().grow([ToolCallPiece(0, name="f"), ToolCallPiece(1, name="f")])[::2]
    assert first["id"]
    assert first["id"] != second["id"]


def test_earlier_call_without_arguments_has_an_empty_object() -> None:
    calls = ToolCalls()
    calls.grow([ToolCallPiece(0, "a", "f")])
    assert calls.grow([ToolCallPiece(1, "b", "g")]) == [arguments(0, "{}"), opening(1, "b", "g")]


def test_last_call_without_arguments_is_not_whole() -> None:
    calls = ToolCalls()
    calls.grow([ToolCallPiece(0, "a", "f", "{}"), ToolCallPiece(1, "b", "g")])
    assert calls.begun
    assert not calls.whole


def test_arguments_that_are_no_object_are_not_whole() -> None:
    calls = ToolCalls()
    calls.grow([ToolCallPiece(0, "a", "f", "1")])
    assert not calls.whole


def test_whole_text_completes_what_was_not_told() -> None:
    calls = ToolCalls()
    calls.grow([ToolCallPiece(0, "a", "f", '{"x": 1}'), ToolCallPiece(1, "b", "g")])
    found = [ToolCallPiece(0, name="f", arguments='{"y": 2}'), ToolCallPiece(1, "c", "g", "{}")]
    assert calls.complete(found) == [arguments(1, "{}")]


def test_whole_text_with_other_calls_completes_nothing() -> None:
    calls = ToolCalls()
    calls.grow([ToolCallPiece(0, "a", "f")])
    assert calls.complete([ToolCallPiece(0, "b", "other", "{}")]) == []
    assert not calls.whole


def test_whole_text_adds_the_end_of_arguments_and_takes_nothing_back() -> None:
    calls = ToolCalls()
    calls.grow([ToolCallPiece(0, "a", "f", '{"x": '), ToolCallPiece(1, "b", "g", '{"z"')])
    found = [ToolCallPiece(0, "c", "f", '{"x": 1}'), ToolCallPiece(1, "d", "g", '{"y": 2}')]
    assert calls.complete(found) == [arguments(0, "1}")]


def test_calls_of_the_whole_text_are_told_where_none_was() -> None:
    calls = ToolCalls()
    assert calls.complete([ToolCallPiece(0, "a", "f", "{}")]) == [
        opening(0, "a", "f"),
        arguments(0, "{}"),
    ]


def test_only_the_first_call_where_no_more_are_wanted() -> None:
    calls = ToolCalls(only_first=True)
    grown = calls.grow([ToolCallPiece(0, "a", "f", "{}"), ToolCallPiece(1, "b", "g", "{}")])
    assert grown == [opening(0, "a", "f"), arguments(0, "{}")]
