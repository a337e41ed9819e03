"""Windows cover every text, and a value no longer than their overlap is whole in one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.detector.windows import OVERLAP, WINDOW, TextWindow, windows_of
from serving.privacy.spans import Span

texts = st.lists(
    st.sampled_from(["word ", "a", "\n", "longer-than-most ", "x" * 300]), max_size=900
)


@given(texts)
def test_windows_are_bounded_and_of_their_text(pieces: list[str]) -> None:
    text = "".join(pieces)
    for window in windows_of([text]):
        assert len(window.text) <= WINDOW
        assert text[window.start : window.start + len(window.text)] == window.text


@given(texts, st.data())
def test_what_is_short_is_whole_in_some_window(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces) + "end"
    start = data.draw(st.integers(0, len(text) - 1))
    end = min(len(text), start + OVERLAP // 2)
    if text[start:end].strip():
        assert any(
            window.start <= start and end <= window.start + len(window.text)
            for window in windows_of([text])
        )


def test_number_of_windows_is_linear() -> None:
    assert len(windows_of(["word " * 20_000])) < 100_000 / (WINDOW - 2 * OVERLAP)
    assert len(windows_of(["x" * 100_000])) < 100_000 / (WINDOW - 2 * OVERLAP)


def test_texts_keep_their_index_and_empty_ones_have_none() -> None:
    assert windows_of(["one", "", " \n", "two"]) == [
        TextWindow(0, 0, "one"),
        TextWindow(3, 0, "two"),
    ]


def test_spans_of_a_window_lie_in_the_text() -> None:
    assert list(TextWindow(0, 10, "abc").in_text([Span(1, 2, "PERSON")])) == [
        Span(11, 12, "PERSON")
    ]
