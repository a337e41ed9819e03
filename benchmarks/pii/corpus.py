"""Sentences with known personal data, in two halves that share no template.

They are made by presidio-evaluator in an environment of its own: `make .bench/pii`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.running.command import REPOSITORY, NotSetUp

ENVIRONMENT = REPOSITORY / ".bench" / "pii"
DEADLINE_S = 300

Half = Literal["tuned", "held out"]


@dataclass(frozen=True, slots=True)
class Entity:
    """`text[start:end]` is personal data of that type, as the corpus calls it."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and all that is known to be in it.

    Attributes:
        template: Number of what it was made from.
    """

    text: str
    template: int
    entities: tuple[Entity, ...]

    @property
    def half(self) -> Half:
        """Rules were written with the templates of even number in sight, never with the others."""
        return "held out" if self.template % 2 else "tuned"


def generate(count: int, *, seed: int, environment: Path = ENVIRONMENT) -> list[Sentence]:
    """Make `count` sentences; the same for the same seed.

    Raises:
        NotSetUp: If the environment is not there, or does not make them.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        raise NotSetUp(f"{environment} is missing: run make .bench/pii")
    # Our own module in our own environment; both arguments are numbers.
    made = subprocess.run(  # noqa: S603
        [python, "-m", "benchmarks.pii.sentences", str(count), str(seed)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    if made.returncode:
        raise NotSetUp(f"no sentences were made: {made.stderr.strip().splitlines()[-1]}")
    return parsed(made.stdout.splitlines())


def parsed(lines: Iterable[str]) -> list[Sentence]:
    """Sentences from JSON lines."""
    return [
        Sentence(
            text=row["text"],
            template=row["template"],
            entities=tuple(Entity(**entity) for entity in row["entities"]),
        )
        for row in map(json.loads, lines)
    ]


def blocks(sentences: Sequence[Sentence], *, characters: int) -> list[str]:
    """The sentences one after the other, cut into texts of so many characters."""
    text = " ".join(sentence.text for sentence in sentences)
    return [text[i : i + characters] for i in range(0, len(text) - characters + 1, characters)]
