import pytest

from benchmarks.client.prompts import LONGEST_WORDS, OPENING, SHORTEST_WORDS, prompts, texts


def opening(text):
    return text.partition(". ")[0]


def test_prompts_are_the_same_for_the_same_arguments():
    assert prompts(20, seed=3, series=1) == prompts(20, seed=3, series=1)


def test_prompts_of_a_run_share_no_opening():
    texts = prompts(50, seed=3, series=103) + prompts(50, seed=3, series=100_103)
    assert len(texts) == len({opening(text) for text in texts})


def test_prompts_of_two_series_differ_in_nothing_but_their_opening():
    here, there = prompts(20, seed=3, series=1), prompts(20, seed=3, series=2)
    assert [text.partition(". ")[2] for text in here] == [text.partition(". ")[2] for text in there]
    assert {len(opening(text)) for text in here} == {len(opening(text)) for text in there}


def test_prompts_are_of_the_stated_length():
    words = [len(text.split()) for text in prompts(500, seed=3, series=1)]
    longest_sentence_words = 25
    assert min(words) >= SHORTEST_WORDS
    assert max(words) <= LONGEST_WORDS + longest_sentence_words


@pytest.mark.parametrize(("count", "series"), [(1_001, 0), (1, 1_000_000), (1, -1)])
def test_prompts_that_would_repeat_an_opening_are_refused(count, series):
    with pytest.raises(ValueError, match="series"):
        prompts(count, seed=0, series=series)


def test_texts_are_made_one_by_one_and_are_the_same_prompts():
    numbers = iter(range(1_000, 1_020))
    made = texts(numbers, seed=3)
    assert [next(made) for _ in range(5)] == prompts(5, seed=3, series=1)
    assert next(numbers) == 1_005


def test_texts_are_as_long_as_asked_for():
    made = texts(range(20), seed=3, shortest_words=500, longest_words=500)
    assert all(500 <= len(text.split()) < 530 for text in made)


def test_every_prompt_has_the_opening_that_is_looked_for():
    numbers = [0, 999_999_999, 1_000_000_000]
    openings = [OPENING.match(text) for text in texts(numbers, seed=3)]
    found = [opening and opening[0] for opening in openings]
    assert found == ["000000-000. ", "999999-999. ", "000000-000. "]
