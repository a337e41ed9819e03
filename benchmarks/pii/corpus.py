"""Sentences with annotated personal data, in two halves that share no template.

presidio-evaluator generates them in its own environment: `make .bench/pii`.
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
    """`text[start:end]` is personal data; `type` is the corpus's name for its kind."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and its annotations.

    Attributes:
        template: Number of the template of the sentence.
    """

    text: str
    template: int
    entities: tuple[Entity, ...]

    @property
    def half(self) -> Half:
        """The half. The rules were tuned on the even-numbered templates and never on the others."""
        return "held out" if self.template % 2 else "tuned"


def generate(count: int, *, seed: int, environment: Path = ENVIRONMENT) -> list[Sentence]:
    """Generate `count` sentences, the same ones for the same seed.

    Raises:
        NotSetUp: The environment does not exist, or generates nothing.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        raise NotSetUp(f"{environment} is missing: run make .bench/pii")
    # A fixed command with numeric arguments.
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
    """Parse sentences from JSON lines."""
    return [
        Sentence(
            text=row["text"],
            template=row["template"],
            entities=tuple(Entity(**entity) for entity in row["entities"]),
        )
        for row in map(json.loads, lines)
    ]


def blocks(sentences: Sequence[Sentence], *, characters: int) -> list[str]:
    """Join the sentences, and cut them into texts of `characters` each."""
    text = " ".join(sentence.text for sentence in sentences)
    return [text[i : i + characters] for i in range(0, len(text) - characters + 1, characters)]
