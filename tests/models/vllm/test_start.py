"""Why an engine did not start, in one sentence."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from logging.config import dictConfig
from pathlib import Path

import pytest

from models.vllm.start import EngineStartFailed, explained_start, reason

VARIABLE = "VLLM_LOGGING_CONFIG_PATH"


class ValidationError(Exception):
    """Stands for pydantic's, which only its own core can make."""


WRAPPED = """Failed to create vLLM engine config: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (9000) is greater than the derived one (2048). \
To allow overriding this maximum, set the env var \
[type=value_error, input_value=ArgsKwargs((), {'model': '/m'}), input_type=ArgsKwargs]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error"""

FIELD = """2 validation errors for CacheConfig
cache_dtype
  Input should be 'auto' or 'fp8' [type=literal_error, input_value='fp9', input_type=str]
    For further information visit https://errors.pydantic.dev/2.14/v/literal_error
block_size
  Input should be a valid integer [type=int_parsing, input_value='x', input_type=str]"""

TOKENIZER = """Couldn't instantiate the tokenizer from one of:
(1) a file,
(2) a slow tokenizer.
You need to have sentencepiece installed."""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("No room. Decrease x."), "No room."),
        (ValueError("Cannot read v1.5 of a.b. It is old."), "Cannot read v1.5 of a.b."),
        (
            RuntimeError(WRAPPED),
            "User-specified max_model_len (9000) is greater than the derived one (2048).",
        ),
        (ValidationError(FIELD), "cache_dtype: Input should be 'auto' or 'fp8'"),
        (
            ValueError(TOKENIZER),
            "Couldn't instantiate the tokenizer from one of: (1) a file, (2) a slow tokenizer.",
        ),
        (KeyError("lm_head"), "KeyError: 'lm_head'"),
        (AssertionError(), "AssertionError"),
        (
            RuntimeError("Engine core initialization failed. Failed core proc(s): {'Core': -9}"),
            "the engine's process was killed (SIGKILL); memory may have run out",
        ),
        (
            RuntimeError("Engine core initialization failed. Failed core proc(s): {'Core': 1}"),
            "the engine's process ended with status 1",
        ),
        (
            RuntimeError("Engine core initialization failed. Failed core proc(s): {}"),
            "the engine's process ended without a word",
        ),
        (
            Exception("WorkerProc initialization failed due to an exception in a background"),
            "a worker process of the engine ended without a word; memory may have run out",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_reason_is_the_first_sentence_that_says_what_is_wrong(
    error: Exception, sentence: str
) -> None:
    assert reason(error) == sentence


def test_error_without_a_text_is_told_by_its_place() -> None:
    with pytest.raises(AssertionError) as caught:
        fail(AssertionError())
    assert reason(caught.value).startswith(f"AssertionError at {__file__}:")


def fail(error: Exception) -> None:
    raise error


def start(error: Exception, *records: tuple[str, Exception]) -> None:
    """Start an engine whose processes log and whose parent raises; each logs as it was told to."""
    with explained_start():
        dictConfig(json.loads(Path(os.environ[VARIABLE]).read_bytes()))
        for message, logged in records:
            try:
                fail(logged)
            except type(logged):
                logging.getLogger("vllm.v1").exception(message)
        raise error


@pytest.fixture(autouse=True)
def _own_loggers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loggers of vLLM stay as they are, and no configuration comes from outside."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(logging.getLogger("vllm"), "handlers", [])


def test_first_reason_of_vllms_processes_is_told() -> None:
    with pytest.raises(EngineStartFailed) as caught:
        start(
            RuntimeError("See root cause above."),
            ("WorkerProc failed to start.", OSError("The disk is gone.")),
            ("EngineCore failed to start.", RuntimeError("See the worker.")),
        )
    assert str(caught.value) == "The disk is gone."


def test_records_that_are_not_of_a_start_are_not_told() -> None:
    with pytest.raises(EngineStartFailed, match="the parent's own"):
        start(
            RuntimeError("the parent's own"),
            ("EngineCore encountered a fatal error.", ValueError("canary")),
        )


def test_logging_of_later_processes_is_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with explained_start():
        assert VARIABLE in os.environ
    assert VARIABLE not in os.environ
    own = tmp_path / "logging.json"
    own.write_text(json.dumps({"version": 1, "loggers": {"vllm": {"level": "DEBUG"}}}))
    monkeypatch.setenv(VARIABLE, str(own))
    with explained_start():
        config = json.loads(Path(os.environ[VARIABLE]).read_bytes())
    assert os.environ[VARIABLE] == str(own)
    assert config["loggers"]["vllm"] == {"level": "DEBUG", "handlers": ["ringfence_start"]}


def test_process_that_an_engine_starts_later_still_finds_its_configuration() -> None:
    with explained_start():
        inherited = dict(os.environ)
    assert Path(inherited[VARIABLE]).exists()


def test_process_whose_first_import_is_ours_sets_its_loggers_up() -> None:
    """As a process does that vLLM spawns from a script that imports this module."""
    with explained_start():
        subprocess.run([sys.executable, "-c", "import models.vllm.start, vllm.logger"], check=True)
