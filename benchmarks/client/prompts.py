"""Prompts for benchmarks: distinct plain English of a chosen length, derived from a seed.

Each prompt begins with a unique number of fixed width, so that no prefix cache helps. SmolLM2
tokenises digits one by one, so prompts that differ only in the number have the same number of
tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice

# Bounds of about 50 and 200 tokens.
SHORTEST_WORDS = 30
LONGEST_WORDS = 130
MOST_NUMBERS = 1_000_000_000
# The beginning of every prompt, which makes prompts recognisable in texts that must not quote them.
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
    """Return `count` prompts that depend on the arguments only.

    Args:
        count: Number of prompts, at most 1,000.
        seed: Seed of the text, which is the same in any series.
        series: Number at the start of each prompt, below 1,000,000. A run must not reuse one.

    Raises:
        ValueError: `count` or `series` is out of bounds.
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
    """Yield a prompt for each of `numbers`, lazily.

    Args:
        numbers: Numbers at the start of the prompts, modulo 1,000,000,000.
        seed: Seed of the text, which is the same under any numbers.
        shortest_words: Minimum of the drawn length. The last sentence may exceed the drawn length.
        longest_words: Maximum of the drawn length.
    """
    # Random text needs no cryptographic randomness.
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
