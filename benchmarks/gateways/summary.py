"""Summarises the samples of a study: medians, and ratios per round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gateways.studies.study import Sample, Study
from benchmarks.reporting.statistics import Ratio, percentile, ratio, round_ratios
from benchmarks.reporting.summary import counted_rounds

_BOOTSTRAP_SEED = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One gateway in one study.

    Attributes:
        medians: Medians over the counted rounds, by figure.
        ratios: Ratios by figure and by reference.
        rounds: Number of counted rounds.
        disturbed: Whether rounds on a disturbed machine had to be used.
        failure: Reason why there are no figures, or None.
    """

    label: str
    medians: Mapping[str, float]
    ratios: Mapping[str, Mapping[str, Ratio]]
    rounds: int
    disturbed: bool
    failure: str | None


def summarise_study(
    study: Study, samples: Sequence[Sample], *, labels: Sequence[str], references: Sequence[str]
) -> list[Row]:
    """Return rows in the order of `labels`.

    A gateway that fails in every round gets no figures; the others keep theirs.

    Args:
        study: The study, which defines the figures.
        samples: The study's samples of all rounds.
        labels: Labels of all gateways.
        references: Labels of the gateways that the others are divided by.
    """
    broken = _broken(samples, labels)
    served = study.derive([s for s in samples if s.label not in broken])
    rounds, disturbed = counted_rounds(served) if served else (set(), False)
    values = _by_label(s for s in served if s.round_number in rounds)
    rows = []
    for label in labels:
        own = values.get(label, {})
        rows.append(
            Row(
                label=label,
                medians={name: percentile(list(v.values()), 50) for name, v in own.items()},
                ratios={
                    column.value: _ratios(column.value, own, values, references)
                    for column in study.columns
                    if column.compared
                },
                rounds=len(rounds) if own else 0,
                disturbed=disturbed,
                failure=broken.get(label),
            )
        )
    return rows


def _broken(samples: Sequence[Sample], labels: Sequence[str]) -> dict[str, str]:
    """Return the gateways that failed in every round, with their last failure."""
    broken = {}
    for label in labels:
        failures = [s.failure for s in samples if s.label == label]
        if all(failures) and failures[-1] is not None:
            broken[label] = failures[-1]
    return broken


_Values = dict[str, dict[int, float]]


def _by_label(samples: Iterable[Sample]) -> dict[str, _Values]:
    """Group figures by label, name and round."""
    values: dict[str, _Values] = {}
    for sample in samples:
        own = values.setdefault(sample.label, {})
        for name, value in sample.outcome.values.items():
            own.setdefault(name, {})[sample.round_number] = value
    return values


def _ratios(
    name: str, own: _Values, values: Mapping[str, _Values], references: Sequence[str]
) -> dict[str, Ratio]:
    found = {}
    above = own.get(name, {})
    for reference in references:
        below = values.get(reference, {}).get(name, {})
        if above.keys() & below.keys() and min(*above.values(), *below.values()) > 0:
            found[reference] = ratio(round_ratios(above, below), seed=_BOOTSTRAP_SEED)
    return found
