from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks.gateways.command import STUDIES, compare, main
from benchmarks.gateways.report import markdown, write_json
from benchmarks.gateways.studies.unary import UNARY_LATENCY, latency

NOWHERE = Path("no/such/bin/command")


@pytest.fixture(scope="module")
def run():
    """Run a whole comparison of the mock with itself."""
    return compare(["direct"], [UNARY_LATENCY], rounds=2, litellm=NOWHERE, router=NOWHERE)


def test_without_ringfence_the_upstream_is_measured_twice(run):
    (result,) = run.results
    assert [row.label for row in result.rows] == ["direct", "direct again"]
    assert [row.failure for row in result.rows] == [None, None]
    assert len(result.samples) == 4


def test_a_result_says_what_was_done_and_with_what(run, tmp_path):
    document = orjson.loads(write_json(run, tmp_path).read_bytes())
    (study,) = document["studies"]
    assert study["procedure"] == UNARY_LATENCY.procedure
    assert {s["round_number"] for s in study["samples"]} == {0, 1}
    assert study["samples"][0]["values"]["p50_ms"] > 0
    assert document["foreign_versions"] == {"litellm": None, "vllm-router": None}


def test_the_tables_have_a_row_for_each_gateway(run):
    text = markdown(run)
    assert UNARY_LATENCY.procedure in text
    rows = [line for line in text.splitlines() if line.startswith("| direct")]
    assert len(rows) == 2


def refuse(_contender):
    raise ConnectionRefusedError("nobody there")


def test_a_gateway_that_does_not_answer_does_not_end_the_run():
    def run(contender):
        return latency(contender) if contender.label == "direct" else refuse(contender)

    study = replace(UNARY_LATENCY, run=run)
    found = compare(["direct"], [study], rounds=1, litellm=NOWHERE, router=NOWHERE)
    served, refused = found.results[0].rows
    assert served.failure is None
    assert refused.failure == "ConnectionRefusedError: nobody there"
    assert "direct again failed in every round" in markdown(found)


def test_every_study_says_what_it_does_and_compares_something_or_is_memory():
    for name, study in STUDIES.items():
        assert study.procedure
        assert name == "memory" or any(column.compared for column in study.columns)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--studies", "speed"], "unknown: speed"),
        (["--arms", "ringfence"], "direct must be included"),
    ],
)
def test_a_wrong_option_is_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert reason in capsys.readouterr().err


def test_a_missing_gateway_is_named_before_anything_starts(tmp_path, capsys):
    missing = str(tmp_path / "bin" / "litellm")
    assert main(["--arms", "direct,litellm", "--litellm", missing]) == 2
    assert "make .bench/litellm" in capsys.readouterr().err
