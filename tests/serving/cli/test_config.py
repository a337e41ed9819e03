"""`ringfence config`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from serving.config import json_schema
from tests.serving.cli.conftest import Run

ROOT = Path(__file__).parents[3]
Write = Callable[[str], str]


def test_check_takes_the_built_in_configuration(run: Run) -> None:
    told = run("config", "check").stdout
    assert told == (
        "the built-in configuration is valid. It serves smollm2-135m-instruct, all-minilm-l6-v2.\n"
    )


def test_check_names_the_file_it_read(run: Run, config_file: Write) -> None:
    file = config_file("models: [simulated]")
    assert run("config", "check", "-c", file).stdout == f"{file} is valid. It serves simulated.\n"


def test_check_reads_the_file_of_the_environment(
    run: Run, config_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGFENCE_CONFIG", config_file("models: [simulated]"))
    assert "It serves simulated." in run("config", "check").stdout


def test_check_tells_every_problem_on_a_line_and_fails(run: Run, config_file: Write) -> None:
    file = config_file("sever: {}\nlimits: {max_choices: 0}")
    result = run("config", "check", "-c", file, code=1)
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "ringfence: limits.max_choices: Input should be greater than or equal to 1",
        "ringfence: sever: unknown key; did you mean 'server'?",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server: {port: [}", "is not YAML"),
        ("- a", "must hold a mapping"),
        ("access: {secret: '${NOPE}'}", "the environment variable NOPE is not set"),
        ("access: text", "must hold a mapping"),
    ],
)
def test_check_tells_what_cannot_be_read(
    run: Run, config_file: Write, text: str, problem: str
) -> None:
    assert problem in run("config", "check", "-c", config_file(text), code=1).stderr


def test_check_tells_of_a_missing_file(run: Run) -> None:
    told = run("config", "check", "-c", "/nowhere.yaml", code=1).stderr
    assert told == "ringfence: cannot read '/nowhere.yaml': No such file or directory\n"


@pytest.mark.parametrize(
    ("text", "code", "answer"),
    [
        ("models: [simulated]", 0, {"valid": True, "problems": []}),
        ("sever: {}", 1, {"valid": False,
                          "problems": ["sever: unknown key; did you mean 'server'?"]}),
    ],
)  # fmt: skip
def test_check_answers_a_script_in_json(
    run: Run, config_file: Write, text: str, code: int, answer: object
) -> None:
    result = run("config", "check", "--json", "-c", config_file(text), code=code)
    assert json.loads(result.stdout) == answer


GPU = "models: [{base: simulated, device: gpu, tensor_parallel_size: 64}]"
ABSENT = "models: [{id: m, source: /no/such/place}]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GPU, "device: gpu: GPUs needed: 64; this machine has"),
        (ABSENT, "m: '/no/such/place' is not a directory."),
    ],
)
def test_check_looks_at_this_machine_unless_told_otherwise(
    run: Run, config_file: Write, text: str, problem: str
) -> None:
    file = config_file(text)
    assert problem in run("config", "check", "-c", file, code=1).stderr
    assert "is valid" in run("config", "check", "--elsewhere", "-c", file).stdout


def test_check_of_the_built_in_configuration_imports_no_model_library(home: Path) -> None:
    script = (
        "import sys; from serving.cli.root import app\n"
        "try: app(['config', 'check'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'vllm', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=True, env={"RINGFENCE_HOME": str(home), "PATH": ""},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_schema_is_printed(run: Run) -> None:
    schema = json.loads(run("config", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == json_schema()


def test_wrong_configuration_of_any_command_is_one_line_and_no_traceback(
    home: Path, config_file: Write
) -> None:
    command = [
        sys.executable,
        "-m",
        "serving.cli",
        "models",
        "list",
        "-c",
        config_file("sever: {}"),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={"RINGFENCE_HOME": str(home), "PATH": ""},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ringfence: sever: unknown key; did you mean 'server'?\n"
