"""Prompts for a benchmark: plain English of about 50 to 200 tokens, no two alike, made from a seed.

Each opens with a number of its own and of fixed width: no prefix of it was seen before, so a
prefix cache helps no arm, and SmolLM2 splits digits, so that prompts which differ only in their
number have the same length in tokens.
"""

from __future__ import annotations

import random

SHORTEST_WORDS = 30
LONGEST_WORDS = 130

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
    # Text, not a secret.
    source = random.Random(seed)  # noqa: S311
    return [f"{series:06d}-{index:03d}. {_text(source)}" for index in range(count)]


def _text(source: random.Random) -> str:
    length_words = source.randint(SHORTEST_WORDS, LONGEST_WORDS)
    sentences = [f"{source.choice(_TASKS)}."]
    while sum(len(sentence.split()) for sentence in sentences) < length_words:
        parts = (_SUBJECTS, _VERBS, _OBJECTS, _CIRCUMSTANCES)
        sentence = " ".join(source.choice(part) for part in parts)
        sentences.append(sentence[0].upper() + sentence[1:] + ".")
    return " ".join(sentences)
