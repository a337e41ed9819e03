import pytest

from benchmarks.prompts import LONGEST_WORDS, SHORTEST_WORDS, prompts


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
