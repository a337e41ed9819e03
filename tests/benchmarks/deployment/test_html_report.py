from __future__ import annotations

from datetime import UTC, datetime

import pytest

from benchmarks.client.records import RequestRecord
from benchmarks.deployment.html_report import page, write_html
from benchmarks.deployment.plan import BenchPlan
from benchmarks.deployment.plots import plots
from benchmarks.deployment.result import Result, notes, this_machine, write_json
from benchmarks.deployment.step import figures

PLAN = BenchPlan(max_tokens=2)


def step(*, failed=0, tokens=2, e2e_s=1.0, cpu_s=0.1, **load):
    records = [
        RequestRecord(0.0, (0.1, e2e_s), e2e_s, 200, tokens, "<b>busy</b>" if n < failed else None)
        for n in range(3)
    ]
    return figures(records, max_tokens=2, limits=PLAN.limits, client_cpu_s=cpu_s, **load)


def result(*steps, ended=None, simulated=False):
    return Result(
        began=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        took_s=9.0,
        command=("ringfence", "bench"),
        url="http://host:80/v1",
        model="m & n",
        simulated=simulated,
        plan=PLAN,
        client=this_machine(),
        ended=ended,
        steps=steps,
    )


@pytest.fixture
def whole():
    return result(step(streams=1), step(streams=2), step(rate_per_s=0.5), step(rate_per_s=1.0))


def test_a_run_has_a_plot_for_each_question(whole):
    assert [plot.title for plot in plots(whole)] == [
        "Throughput over streams",
        "Time to first token over streams",
        "Time between tokens over streams",
        "Latency over throughput, open loop",
        "Throughput over arrivals",
    ]


def test_a_plot_takes_its_colours_from_the_page(whole):
    for plot in plots(whole):
        assert "#0102" not in plot.svg
        assert "currentColor" in plot.svg
        assert "var(--series-1)" in plot.svg


def test_a_run_without_an_open_loop_has_its_plots():
    assert len(plots(result(step(streams=1)))) == 3


def test_a_page_without_a_closed_loop_has_no_knee():
    assert "no closed loop was run" in page(result(step(rate_per_s=1.0)))


def test_what_the_server_says_is_escaped():
    text = page(result(step(streams=1, failed=1)))
    assert "&lt;b&gt;busy&lt;/b&gt;" in text
    assert "m &amp; n" in text


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (result(step(streams=1), ended="interrupted"), "ended early: interrupted"),
        (result(step(streams=1), simulated=True), "The model is simulated"),
        (result(step(streams=4, failed=2)), "At 4 streams, 2 of 3 requests failed"),
        (result(step(rate_per_s=2.5, failed=1)), "At 2.5 requests/s, 1 of 3"),
        (result(step(streams=1, tokens=1)), "3 answers are not 2 tokens long"),
        (result(step(streams=1, cpu_s=0.9)), "client itself was the limit at 1 stream"),
        (result(step(streams=1, e2e_s=6.0)), "Throughput is too low at 1 stream"),
    ],
)
def test_what_a_reader_must_know_is_a_note(found, note):
    (told,) = notes(found)
    assert note in told
    assert note in page(found)


def test_a_quiet_run_has_no_notes(whole):
    assert notes(whole) == []


def test_files_have_the_time_in_their_names(whole, tmp_path):
    paths = [write_json(whole, tmp_path / "new"), write_html(whole, tmp_path / "new")]
    assert [path.name for path in paths] == [
        "2026-01-02T030405-bench.json",
        "2026-01-02T030405-bench.html",
    ]
