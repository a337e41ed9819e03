"""`python -m benchmarks.pii`: measures recall, precision and cost of personal-data detection.

Needs the sentences of presidio-evaluator: `make .bench/pii`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from benchmarks.pii import generated_identifiers
from benchmarks.pii.corpus import ENVIRONMENT, Sentence, blocks, generate
from benchmarks.pii.cover import cover
from benchmarks.pii.detection import Detection, Parts, detecting
from benchmarks.pii.report import HalfResult, IdentifierResult, PiiRun, markdown, write_json
from benchmarks.reporting.statistics import Summary, summarise
from benchmarks.running.command import REPOSITORY, Finished, carry_out, progress
from benchmarks.running.machine import describe
from benchmarks.running.pinning import two_cores

SENTENCES = 3_000
IDENTIFIERS = 10_000
SEED = 42
AT_ONCE = 100
BLOCK_CHARACTERS = 1_000
BLOCKS = 100
WARM_UP = 10


@dataclass(frozen=True, slots=True)
class PiiOptions:
    """The parameters of a run.

    Attributes:
        sentences: Number of corpus sentences, both halves together.
        identifiers: Number of generated values, each in four forms.
        seed: Seed of both.
        out: Directory for the JSON.
        command: The command line.
        environment: Environment that generates the sentences.
    """

    sentences: int
    identifiers: int
    seed: int
    out: Path
    command: tuple[str, ...]
    environment: Path = ENVIRONMENT


def run(options: PiiOptions) -> Finished:
    """Generate the texts, run detection on them, and write the result.

    Raises:
        NotSetUp: The corpus cannot be generated.
        ServerError: Detection does not start or does not answer.
        TooFewCores: There is only one core.
    """
    began, start_s = datetime.now(UTC), monotonic()
    cores = two_cores()
    sentences = generate(options.sentences, seed=options.seed, environment=options.environment)
    progress(f"{len(sentences)} sentences made")
    with detecting(core=cores.gateway) as detection:
        times = {parts: _times(detection, sentences, parts) for parts in ("patterns", "all")}
        progress("timed")
        halves = [_half(detection, sentences, half) for half in ("tuned", "held out")]
        identifiers = _identifiers(detection, options.identifiers, seed=options.seed)
        result = PiiRun(
            began=began,
            took_s=monotonic() - start_s,
            command=options.command,
            machine=describe(REPOSITORY),
            halves=halves,
            identifiers=identifiers,
            times=times,
            pss_bytes=detection.pss_bytes,
        )
    return Finished(began=began, tables=markdown(result), path=write_json(result, options.out))


def _times(detection: Detection, sentences: Sequence[Sentence], parts: Parts) -> Summary:
    """Measure the seconds per thousand characters of the corpus, one text after another."""
    texts = blocks(sentences, characters=BLOCK_CHARACTERS)[: WARM_UP + BLOCKS]
    return summarise([detection.ask([text], parts=parts).s for text in texts][WARM_UP:])


def _half(detection: Detection, sentences: Iterable[Sentence], half: str) -> HalfResult:
    chosen = [sentence for sentence in sentences if sentence.half == half]
    found = _found(detection, [sentence.text for sentence in chosen])
    progress(f"{half}: {len(chosen)} sentences looked at")
    return HalfResult(half, len(chosen), cover(chosen, found))


def _identifiers(detection: Detection, count: int, *, seed: int) -> IdentifierResult:
    """Count the generated identifiers that the patterns alone find, plain and disguised."""
    samples = list(generated_identifiers.samples(count, seed=seed))
    found = _found(detection, [sample.text for sample in samples], parts="patterns")
    missed = [
        sample for sample, spans in zip(samples, found, strict=True) if not sample.covered(spans)
    ]
    progress(f"{len(samples)} identifiers looked at")
    return IdentifierResult(len(samples), tuple(f"{one.kind}, {one.form}" for one in missed))


def _found(
    detection: Detection, texts: Sequence[str], *, parts: Parts = "all"
) -> list[list[tuple[int, int]]]:
    return [
        spans
        for start in range(0, len(texts), AT_ONCE)
        for spans in detection.ask(texts[start : start + AT_ONCE], parts=parts).found
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the evaluation, and print and log the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pii", description=__doc__)
    parser.add_argument("--sentences", type=int, default=SENTENCES)
    parser.add_argument("--identifiers", type=int, default=IDENTIFIERS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results")
    parser.add_argument("--log", metavar="TITLE", help="append the tables to benchmarks/LOG.md")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    options = PiiOptions(
        sentences=chosen.sentences,
        identifiers=chosen.identifiers,
        seed=chosen.seed,
        out=chosen.out,
        command=("python", "-m", "benchmarks.pii", *given),
    )
    return carry_out("benchmarks.pii", lambda: run(options), log=chosen.log)
