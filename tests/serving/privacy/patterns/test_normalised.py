"""Views: disguised text is plain in one of them, and maps back to its original."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.privacy.patterns.normalised import View, folded, views, with_plain_letters
from serving.privacy.spans import Span

MARKS = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u0301\u20e3"


def seen(text: str, value: str) -> str | None:
    """Return the part of the original in which the last view shows that value."""
    for view in reversed(views(text)):
        if (start := view.text.find(value)) >= 0:
            span = view.in_original(Span(start, start + len(value), "CUSTOM"))
            return text[span.start : span.end]
    return None


@pytest.mark.parametrize(
    "written",
    [
        "4111",
        "\uff14\uff11\uff11\uff11",
        "\u0664\u0661\u0661\u0661",
        "4\u200b1\u200d1\ufeff1",
        "\U0001d7d2\U0001d7cf\U0001d7cf\U0001d7cf",
        "4\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e3",
    ],
)
def test_view_shows_plain_digits_however_they_are_written(written: str) -> None:
    assert written == seen(f"it is {written}", "4111")


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("\uff4a\uff20\uff42\uff0e\uff43\uff4f", "j@b.co"),
        ("\u0430\u0440\u0440\u04bb", "apph"),
        ("\u0391\u0392\u039f", "ABO"),
        ("\ufb01ne", "fine"),
        ("1\u20132\u20143\u22124", "1-2-3-4"),
        ("a\u00a0b\u3000c", "a b c"),
        ("stra\u00dfe \u00e9", "stra\u00dfe \u00e9"),
    ],
)
def test_folding_makes_look_alikes_plain_and_leaves_letters_of_words(
    written: str, plain: str
) -> None:
    assert plain == folded(written)


def test_view_puts_letters_that_stand_apart_together_and_keeps_their_spaces() -> None:
    assert views("see D E 8 9   3 7 0 4, thanks")[-1].text == "see DE89 3704, thanks"


def test_view_keeps_line_breaks_between_letters_that_stand_apart() -> None:
    assert views("- - B E \n M I I")[-1].text == "--BE\nMII"


def test_view_leaves_prose_with_single_letters_as_it_is() -> None:
    text = "I had a plan B and a plan C; x + y is 3."
    assert [text] == [view.text for view in views(text)]


def test_view_tells_an_article_from_the_value_behind_it() -> None:
    texts = [view.text for view in views("it is a 4 1 1 1 1 1")]
    assert texts == ["it is a 4 1 1 1 1 1", "it is a411111", "it is a 411111"]


def test_escaped_line_breaks_are_blanks_in_a_view_of_their_own() -> None:
    assert [view.text for view in views(r"a\n4111")] == [r"a\n4111", "a  4111"]


def test_plain_text_is_looked_at_as_it_is() -> None:
    text = "Nothing to see, at 12 o'clock."
    (view,) = views(text)
    assert (view.text, view.origins) == (text, None)


def test_view_gives_marks_behind_a_value_to_the_value() -> None:
    assert seen("ab1\u0301\u200bc", "ab1") == "ab1\u0301\u200b"


@given(st.text(alphabet=st.sampled_from("a1 @.\uff11\u200b\u0664\ufb01\u0130\u00df\u0301\n\u0431")))
def test_view_leads_each_code_point_back_to_what_it_came_from(text: str) -> None:
    for view in views(text):
        starts = [view.in_original(Span(at, at + 1, "CUSTOM")) for at in range(len(view.text))]
        assert all(0 <= span.start < span.end <= len(text) for span in starts)
        assert all(
            folded(text[span.start : span.end]).count(char) > 0
            for span, char in zip(starts, view.text, strict=True)
        )


@given(st.text())
def test_lower_case_of_a_view_keeps_every_offset(text: str) -> None:
    assert all(len(view.text) == len(view.lowered) for view in views(text))


@given(st.text(alphabet="ab12 @.-", min_size=1), st.lists(st.sampled_from(MARKS), max_size=12))
def test_marks_without_width_change_nothing_that_is_seen(text: str, marks: list[str]) -> None:
    marked = "".join(map("".join, zip(text, [*marks, *[""] * len(text)], strict=False)))
    assert views(text)[0].text == views(marked)[0].text


@given(st.text(alphabet="a1 \uff11\u0664x,"))
def test_digit_regions_hold_every_digit(text: str) -> None:
    for view in views(text):
        inside = {at for start, end in view.digit_regions for at in range(start, end)}
        assert all(at in inside for at, char in enumerate(view.text) if char.isdigit())
        assert in_order(view)


def in_order(view: View) -> bool:
    flat = [at for region in view.digit_regions for at in region]
    return flat == sorted(flat)


@pytest.mark.parametrize(
    "written",
    [
        "\uff2a\uff4f\uff48\uff4e",
        "\U0001d409\U0001d428\U0001d421\U0001d427",
        "\u24bf\u24de\u24d7\u24dd",
        "J\u200bo\u200bh\u200bn",
        "J\u0301ohn",
        "\u0408\u043ehn",
        "".join(chr(0xE0000 + ord(char)) for char in "John"),
    ],
)
def test_models_see_plain_letters_and_lead_back_to_the_disguise(written: str) -> None:
    folded = with_plain_letters(f"\u2014 {written}\u2026")
    assert folded.text == "\u2014 John\u2026"
    span = folded.in_original(Span(2, 6, "PERSON"))
    assert folded.original[span.start : span.end] == written


@pytest.mark.parametrize("written", ["\U0001f159\U0001f15e\U0001f157\U0001f15d", "ᴊᴏʜɴ"])
def test_models_see_styled_capitals_as_capitals(written: str) -> None:
    assert with_plain_letters(written).text == "JOHN"


@given(st.text())
def test_plain_letters_lead_back_into_the_text(text: str) -> None:
    folded = with_plain_letters(text)
    for at in range(len(folded.text)):
        span = folded.in_original(Span(at, at + 1, "PERSON"))
        assert 0 <= span.start < span.end <= len(text)
