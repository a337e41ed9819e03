"""`ringfence bench` against a fake deployment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.deployment.fake_deployment import FakeDeployment, deployed
from tests.serving.cli.conftest import Run

Write = Callable[[str], str]
KEY = "sk-rf-secret"
SHORT = ("--streams", "1,2", "--max-tokens", "3", "--duration-s", "0.2", "--warm-up", "1")
NO_RATES = (*SHORT, "--rates", "none")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def arguments(fake: FakeDeployment, out: Path, *more: str) -> list[str]:
    return ["bench", "--url", fake.url, "--out", str(out), *more]


def document(out: Path) -> Any:
    (path,) = out.glob("*-bench.json")
    return json.loads(path.read_text())


def test_figures_are_shown_and_written(run: Run, out: Path) -> None:
    with deployed(first_delta_s=0.02, gap_s=0.01) as fake:
        limits = ("--goodput", "ttft:500ms,tpot:500ms", "--goodput", "e2e:5s")
        shown = run(*arguments(fake, out, *SHORT, *limits)).stdout
    written = document(out)
    assert [step["streams"] for step in written["steps"]] == [1, 2, None, None, None, None]
    assert [step["failed"] for step in written["steps"]] == [0] * 6
    assert written["steps"][0]["goodput_per_s"] == written["steps"][0]["requests_per_s"] > 0
    assert written["plan"]["limits"] == {"ttft_s": 0.5, "tpot_s": 0.5, "e2e_s": 5.0}
    assert written["ended"] is None
    rows = [line.split() for line in shown.splitlines()]
    assert rows[0][:4] == ["load", "sent", "failed", "requests/s"]
    assert [row[1] for row in rows[1:3]] == ["stream", "streams"]
    assert f"Knee: {written['knee']['streams']} stream" in shown
    assert all(str(path) in shown for path in out.iterdir())


def test_result_says_what_it_must_be_read_with(run: Run, out: Path) -> None:
    with deployed(key=KEY) as fake:
        run(*arguments(fake, out, *NO_RATES, "--api-key", KEY, "--seed", "7"))
    written = document(out)
    command = written["command"]
    assert command[:2] == ["ringfence", "bench"]
    assert command[command.index("--api-key") + 1] == "REDACTED"
    assert command[command.index("--seed") + 1] == "7"
    assert command[command.index("--url") + 1] == f"{fake.url}/v1"
    assert {"cpu_model", "commit", "versions", "load_average"} <= written["client"].keys()
    assert {"TTFT", "ITL", "TPOT", "E2E", "knee"} <= written["meanings"].keys()


def test_no_key_and_no_prompt_is_in_any_output(run: Run, out: Path) -> None:
    echo = f"{KEY} sent 000000-000. Continue this story."
    with deployed(key=KEY, first_delta_s=0.01, refuse={2: (500, echo)}) as fake:
        shown = run(*arguments(fake, out, *NO_RATES, "--api-key", KEY))
    texts = [shown.output, *(path.read_text() for path in out.iterdir())]
    assert len(texts) == 3
    prompt = fake.chats[0]["messages"][0]["content"]
    for text in texts:
        assert "1 of" in text
        assert KEY not in text
        assert "Continue this story" not in text
        assert prompt.split(". ")[1] not in text


def test_page_needs_nothing_from_anywhere(run: Run, out: Path) -> None:
    name = "<script>alert('m')</script>"
    with deployed(models=({"id": name},)) as fake:
        run(*arguments(fake, out, *SHORT))
    (path,) = out.glob("*.html")
    page = path.read_text()
    assert page.count("<svg") == 5
    assert name not in page
    assert "&lt;script&gt;" in page
    for outside in ("<script", "<link", "src=", "@import", "url(http", 'href="http'):
        assert outside not in page


def test_command_of_a_result_repeats_the_run(run: Run, out: Path) -> None:
    with deployed() as fake:
        run(*arguments(fake, out, *NO_RATES, "--goodput", "ttft:1s"))
        first = document(out)
        again = first["command"][1:]
        (out / "again").mkdir()
        again[again.index("--out") + 1] = str(out / "again")
        run(*again)
    second = document(out / "again")
    same = {"first_number": 0}
    assert first["plan"] | same == second["plan"] | same
    assert first["plan"]["first_number"] != second["plan"]["first_number"]


def test_server_that_stops_early_is_reported(run: Run, out: Path) -> None:
    with deployed(tokens=2) as fake:
        shown = run(*arguments(fake, out, *NO_RATES)).stdout
    assert "the server does not heed ignore_eos or max_tokens" in shown


def test_simulated_model_is_said_to_be_one(run: Run, out: Path) -> None:
    with deployed(models=({"id": "s", "simulated": True},)) as fake:
        assert "simulated: the figures" in run(*arguments(fake, out, *NO_RATES)).stdout


@pytest.fixture
def kept_key(home: Path) -> str:
    home.mkdir()
    (home / "first-key").write_text(KEY + "\n")
    return KEY


def test_key_of_the_first_start_and_the_configured_port_are_used(
    run: Run, out: Path, config_file: Write, kept_key: str
) -> None:
    with deployed(key=kept_key) as fake:
        file = config_file(f"server: {{port: {fake.port}}}\nmodels: [simulated]")
        run("bench", "-c", file, "--out", str(out), *NO_RATES)
    assert len(fake.chats) > 2


def test_key_of_the_first_start_goes_to_this_machine_only(home: Path, kept_key: str) -> None:
    from serving.cli.commands.bench import _target
    from serving.config import Settings

    settings = Settings(home=home)
    keys = [
        _target(settings, url=url, api_key=None).api_key
        for url in (None, "http://localhost:1", "http://host.example", "http://127.0.0.1.example")
    ]
    assert keys == [kept_key, kept_key, "", ""]


@pytest.mark.parametrize(
    ("fields", "more", "told"),
    [
        ({"key": KEY}, (), "the server rejects the key: status 401"),
        ({"models": ()}, (), "lists no generating model"),
        (
            {"refuse_all": (404, "No model 'nope'.")},
            ("--model", "nope"),
            "every request failed, the first with: status 404",
        ),
    ],
    ids=["wrong_key", "no_model", "unknown_model"],
)
def test_failure_is_told_in_one_line(
    run: Run, out: Path, fields: Any, more: tuple[str, ...], told: str
) -> None:
    with deployed(**fields) as fake:
        result = run(*arguments(fake, out, *NO_RATES, "--api-key", "sk-wrong", *more), code=1)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ringfence: ")]
    assert told in line
    assert list(out.glob("*")) == []


def test_server_that_is_not_there_is_told(run: Run, out: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["bench", "--url", f"http://127.0.0.1:{port}", "--out", str(out)]
    assert f"no server answers at http://127.0.0.1:{port}/v1" in run(*command, code=1).stderr
    assert not out.exists()


def test_place_that_cannot_be_written_is_told_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with deployed() as fake:
        told = run(*arguments(fake, tmp_path / "file" / "out", *NO_RATES), code=1).stderr
    assert "Not a directory" in told
    assert fake.chats == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--streams", "1,x"), ("--streams", "1.5"), ("--streams", "0"), ("--streams", "nan"),
        ("--rates", "-1"), ("--rates", ""), ("--rates", "inf"), ("--prompt-words", "9-3"),
        ("--prompt-words", "many"), ("--goodput", "itl:5ms"), ("--url", "ftp://host"),
        ("--url", "http://u:p@host"), ("--api-key", "ключ"), ("--max-tokens", "0"),
    ],
)  # fmt: skip
def test_wrong_option_is_told(run: Run, option: str, value: str) -> None:
    assert "Invalid value" in run("bench", option, value, code=2).stderr


@pytest.mark.parametrize(("gap_s", "files"), [(60.0, 0), (0.0, 2)], ids=["warm_up", "later"])
def test_ctrl_c_keeps_what_was_measured(home: Path, out: Path, gap_s: float, files: int) -> None:
    with deployed(gap_s=gap_s) as fake:
        command = arguments(fake, out, "--streams", "1,2", "--max-tokens", "3", "--warm-up", "1")
        bench = subprocess.Popen(
            [sys.executable, "-m", "serving.cli", *command, "--duration-s", "0.5", "--rates", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"RINGFENCE_HOME": str(home)},
        )
        assert bench.stderr is not None
        awaited = "requests/s, open loop" if files else "Warming up"
        before = ""
        while awaited not in before:
            before += bench.stderr.readline()
        bench.send_signal(signal.SIGINT)
        shown, told = bench.communicate(timeout=120)
    assert bench.returncode == 130
    assert told.splitlines()[-1] == "ringfence: interrupted"
    assert "Traceback" not in told + shown
    assert len(list(out.glob("*"))) == files
    assert ("The run ended early: interrupted" in shown) == bool(files)
