from pathlib import Path

import orjson
import pytest

from benchmarks.compare.command import compare, main
from benchmarks.gateways.arms import token_stream
from benchmarks.reporting.report import append_log, markdown, write_json
from benchmarks.running.arms import BUILDERS, ENGINE_ARGUMENTS, built
from benchmarks.running.parts import EVERY_PART, PARTS, parts_of, write_configuration
from benchmarks.running.ports import free_port
from benchmarks.servers.steps import Pace
from serving import config


@pytest.fixture(scope="module")
def run():
    """Run a whole comparison of two real servers with simulated tokens."""
    arms = [token_stream(Pace(), port=free_port(), name=name) for name in ("other", "base")]
    return compare(arms, baseline="base", streams=[2], rounds=1)


@pytest.mark.full
def test_every_arm_is_measured_and_the_baseline_twice(run):
    assert [line.label for line in run.lines] == ["base", "base again", "other"]
    assert {m.failure for m in run.measurements} == {None}
    assert {m.output_tokens for m in run.measurements} == {12 * 64}


@pytest.mark.full
def test_every_server_has_a_footprint(run):
    assert {f.arm for f in run.footprints} == {"base", "other"}
    assert all(f.pss_bytes > 2**20 for f in run.footprints)
    assert all(f.idle_cpu_share < 0.5 for f in run.footprints)


@pytest.mark.full
def test_a_result_says_what_it_must_be_read_with(run, tmp_path):
    document = orjson.loads(write_json(run, tmp_path / "results").read_bytes())
    assert {"began", "command", "machine", "drop_rule", "measurements", "lines"} <= document.keys()
    assert {"commit", "versions", "cpu_model", "load_average"} <= document["machine"].keys()
    first = document["measurements"][0]
    assert first["tokens_per_s"] > 0
    assert first["itl_s"]["count"] == 12 * 63


@pytest.mark.full
def test_the_tables_have_a_row_for_each_line_and_server(run):
    rows = [row for row in markdown(run).splitlines() if row.startswith("| ")]
    assert len(rows) == 2 + len(run.lines) + 2 + len(run.footprints)
    assert len({row.count("|") for row in rows[: 2 + len(run.lines)]}) == 1


@pytest.mark.full
def test_the_log_grows_by_dated_sections(run, tmp_path):
    log = tmp_path / "LOG.md"
    log.write_text("# Log\n")
    append_log(log, date=run.began, title="First", body="text\n")
    assert log.read_text() == f"# Log\n\n## {run.began:%Y-%m-%d} First\n\ntext\n"


@pytest.mark.parametrize(
    ("arms", "reason"),
    [
        ("bare-vllm,nobody", "unknown: nobody"),
        ("bare-vllm,ringfence+nothing", "unknown: ringfence+nothing"),
        ("bare-vllm+embedder", "unknown: bare-vllm+embedder"),
        ("ringfence", "bare-vllm must be included"),
    ],
)
def test_an_unknown_arm_or_none_to_compare_with_is_refused(arms, reason, capsys):
    with pytest.raises(SystemExit):
        main(["--arms", arms])
    assert reason in capsys.readouterr().err


def test_missing_weights_are_named_before_anything_starts(tmp_path, capsys):
    assert main(["--arms", "bare-vllm", "--model-dir", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_bare_vllm_is_given_the_shared_engine_arguments(tmp_path):
    command = BUILDERS["bare-vllm"](tmp_path).command
    assert "--enforce-eager" in command
    assert command[command.index("--max-model-len") + 1] == str(ENGINE_ARGUMENTS["max_model_len"])
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_ringfence_is_compared_with_the_parts_in_its_name(tmp_path):
    plain, more = built("ringfence", tmp_path), built("ringfence+embedder", tmp_path)
    assert (plain.name, more.name) == ("ringfence", "ringfence+embedder")
    models = [config.parse(config.read(Path(arm.command[-1]))).models for arm in (plain, more)]
    assert [[spec.id for spec in served] for served in models] == [
        ["smollm2-135m-instruct"],
        ["smollm2-135m-instruct", "all-minilm-l6-v2"],
    ]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_something_that_can_be_configured(part, tmp_path):
    path = write_configuration(tmp_path / "ringfence.yaml", {"models": ["simulated"]}, [part])
    assert config.parse(config.read(path)) != config.parse({"models": ["simulated"]})


def written(tmp_path, plain, parts):
    return config.read(write_configuration(tmp_path / "ringfence.yaml", plain, parts))


def test_a_part_adds_to_the_lists_and_groups_that_are_there(tmp_path):
    plain = {"models": ["simulated"], "admission": {"max_request_s": 5}, "server": {"port": 1}}
    before = repr(plain)
    document = written(tmp_path, plain, ["embedder", "admission"])
    assert document["models"] == ["simulated", "all-minilm-l6-v2"]
    assert document["admission"] == {"max_request_s": 5, **PARTS["admission"]["admission"]}
    assert document["server"] == {"port": 1}
    assert repr(plain) == before


def test_a_part_is_added_where_there_was_nothing(tmp_path):
    document = written(tmp_path, {}, ["admission"])
    assert document == PARTS["admission"]
    assert written(tmp_path, {}, []) == {}


def test_admission_s_part_limits_everything_and_forbids_nothing_seen_in_a_comparison(tmp_path):
    admission = config.parse(written(tmp_path, {"models": ["simulated"]}, ["admission"])).admission
    assert None not in {admission.per_key.budget_day, admission.per_tenant.budget_total}
    groups = (admission.per_key, admission.per_tenant, admission.per_model)
    bounds = [bound for group in groups for _, bound in group if bound is not None]
    assert min(bound.value for bound in bounds) >= 100_000


def test_the_arm_with_everything_on_has_every_part():
    assert parts_of(EVERY_PART) == list(PARTS)
    assert parts_of("ringfence") == []
    with pytest.raises(KeyError):
        parts_of("ringfence+admissions")
