"""Prompts for a benchmark: plain English of a chosen length, no two alike, made from a seed.

Each opens with a number of its own and of fixed width: no prefix of it was seen before, so a
prefix cache helps no arm, and SmolLM2 splits digits, so that prompts which differ only in their
number have the same length in tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice

# About 50 to 200 tokens.
SHORTEST_WORDS = 30
LONGEST_WORDS = 130
MOST_NUMBERS = 1_000_000_000
# How every prompt begins: what to look for where no prompt may be.
OPENING = re.compile(r"\d{6}-\d{3}\. ")

_SUBJECTS = (
    "the harbour master", "a retired teacher", "our night-shift nurse", "the village council",
    "a young engineer", "the museum's curator", "her older brother", "the delivery driver",
)  # fmt: skip
_VERBS = (
    "explained", "wrote down", "questioned", "remembered", "compared", "carefully checked",
    "refused to believe", "finally understood",
)  # fmt: skip
_OBJECTS = (
    "the price of winter wheat", "an old map of the river", "three letters from abroad",
    "the rules of the new timetable", "a recipe with seven spices", "the report on clean water",
    "how the bridge was repaired", "the last chapter of the novel",
)  # fmt: skip
_CIRCUMSTANCES = (
    "before the first train left", "while the rain kept falling", "in front of a small crowd",
    "without telling anybody else", "after a long and quiet lunch", "because the lights had failed",
    "on the second day of the market", "although nobody had asked for it",
)  # fmt: skip
_TASKS = (
    "Summarise these notes in plain words", "Continue this story", "Say what happened first",
    "Write a short letter about this", "List the people and what they did",
)  # fmt: skip


def prompts(count: int, *, seed: int, series: int) -> list[str]:
    """`count` prompts that depend on nothing but the arguments.

    Args:
        count: How many, at most 1,000.
        seed: Of the text: the same seed gives the same text in any series.
        series: Opens each prompt, with its index. A run must not use one twice. Below 1,000,000.

    Raises:
        ValueError: If `count` or `series` is out of bounds.
    """
    if not (0 <= count <= 1_000 and 0 <= series < 1_000_000):
        raise ValueError(f"{count} prompts of series {series}")
    return list(islice(texts(range(series * 1_000, (series + 1) * 1_000), seed=seed), count))


def texts(
    numbers: Iterable[int],
    *,
    seed: int,
    shortest_words: int = SHORTEST_WORDS,
    longest_words: int = LONGEST_WORDS,
) -> Iterator[str]:
    """A prompt for each of `numbers`, made when it is asked for.

    Args:
        numbers: Open the prompts, modulo 1,000,000,000.
        seed: Of the text: the same seed gives the same text under any numbers.
        shortest_words: Bound of the drawn length; the last sentence may go beyond.
        longest_words: The other bound.
    """
    # Text, not a secret.
    source = random.Random(seed)  # noqa: S311
    for number in numbers:
        series, index = divmod(number % MOST_NUMBERS, 1_000)
        yield f"{series:06d}-{index:03d}. {_text(source, shortest_words, longest_words)}"


def _text(source: random.Random, shortest_words: int, longest_words: int) -> str:
    missing_words = source.randint(shortest_words, longest_words)
    sentences = [f"{source.choice(_TASKS)}."]
    missing_words -= len(sentences[0].split())
    while missing_words > 0:
        parts = (_SUBJECTS, _VERBS, _OBJECTS, _CIRCUMSTANCES)
        sentence = " ".join(source.choice(part) for part in parts)
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
        missing_words -= len(sentence.split())
    return " ".join(sentences)
