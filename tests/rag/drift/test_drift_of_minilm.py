"""Drift with a real embedder: questions on aeronautics, and everyday sentences."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.catalog import builtin
from models.embedding.embedder import SentenceEmbedder
from models.prepare import prepare
from rag.drift.report import DriftReport, DriftThresholds, Observed, Staleness, report
from rag.drift.sums import Baseline, Sums

SPEC = builtin()["all-minilm-l6-v2"]
DATA = Path(__file__).parents[4] / "shared" / "data"
Vectors = NDArray[np.float32]


def questions() -> list[str]:
    text = (DATA / "cranfield" / "cran.qry").read_text("latin-1")
    return [" ".join(part.split()) for part in re.split(r"\.I \d+\s+\.W", text)[1:]]


def titles() -> list[str]:
    text = (DATA / "cranfield" / "cran.all.1400").read_text("latin-1")
    return [" ".join(one.split()) for one in re.findall(r"\.T\n(.*?)\.A\n", text, re.DOTALL)][:300]


def sentences() -> list[str]:
    with (DATA / "stsbenchmark" / "sts-dev.tsv").open(encoding="utf-8") as opened:
        rows = list(csv.reader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row[5] for row in rows[::6]]


def reported(documents: Vectors, earlier: Vectors, recent: Vectors) -> DriftReport:
    baseline = Baseline.of("gen_1", documents)
    before, now = (_sums(vectors, baseline) for vectors in (earlier, recent))
    observed = Observed(baseline, now, before, {}, Staleness(1, 1.0, 0.0), 1.0)
    return report(
        observed, store_id="vs_1", generation="gen_1", now=0, thresholds=DriftThresholds()
    )


def _sums(vectors: Vectors, baseline: Baseline) -> Sums:
    sums = Sums.zero(vectors.shape[1])
    for vector in vectors:
        sums.add(vector, baseline, 0.6)
    return sums


@pytest.mark.full
@pytest.mark.skipif(not DATA.is_dir(), reason="the collections are not on this machine")
async def test_another_topic_is_caught_and_another_half_of_the_same_is_not(tmp_path: Path) -> None:
    embedder = SentenceEmbedder(SPEC, prepare(SPEC, tmp_path), threads=2)
    documents, asked, other = [
        (await embedder.embed(texts)).vectors for texts in (titles(), questions(), sentences())
    ]
    embedder.close()
    alarms = 0
    for seed in range(200):
        order = np.random.default_rng(seed).permutation(len(asked))
        one, two = asked[order[:112]], asked[order[112:]]
        alarms += bool(reported(documents, one, two).alerts)
        if seed < 10:
            some = np.random.default_rng(seed).permutation(len(other))[:112]
            changed = reported(documents, one, other[some])
            assert changed.psi is not None
            assert changed.psi > 0.1
            assert "centroid_shift" in changed.alerts
    assert alarms < 2
