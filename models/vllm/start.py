"""Why an engine did not start, in one sentence.

vLLM starts processes of its own. What goes wrong in one is in its log only, and the error that its
parent raises says no more than "see root cause above". So a handler in their loggers, added by
vLLM's own variable for it, writes the error of a failed start to a file.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.vllm.compat import START_RECORDS

_CONFIG_VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
_HANDLER = "ringfence_start"

_WORDLESS = (AssertionError, AttributeError, LookupError, NameError, NotImplementedError, TypeError)
"""Errors whose text says little without their type."""


_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Of engines that run, until this process ends: a process that one starts later reads its logging
configuration there."""


class EngineStartFailed(Exception):
    """An engine did not start. The message is one sentence, for the operator."""


class StartErrorHandler(logging.Handler):
    """Appends the reason of a process's failed start to a file, a line each."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.ERROR)
        self._path = Path(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the error of a start; other records are for other handlers."""
        error = record.exc_info and record.exc_info[1]
        if isinstance(error, Exception) and record.getMessage() in START_RECORDS:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{reason(error)}\n")


@contextmanager
def explained_start() -> Iterator[None]:
    """Turn whatever ends the start of an engine within this scope into `EngineStartFailed`.

    Raises:
        EngineStartFailed: with the reason of the process that failed first.
    """
    place = tempfile.TemporaryDirectory(prefix="ringfence-start-")
    reasons = Path(place.name) / "reasons"
    with _logging_config(Path(place.name) / "logging.json", reasons):
        try:
            yield
        except Exception as error:
            told = reasons.read_text("utf-8").splitlines() if reasons.exists() else []
            place.cleanup()
            raise EngineStartFailed((told or [reason(error)])[0]) from error
    _kept.append(place)


@contextmanager
def _logging_config(path: Path, reasons: Path) -> Iterator[None]:
    """Have the processes that vLLM starts within this scope log with our handler as well."""
    # Imported late: vLLM imports this module when it sets its loggers up, half imported itself.
    from vllm.logger import DEFAULT_LOGGING_CONFIG  # noqa: PLC0415

    own = os.environ.get(_CONFIG_VARIABLE)
    config: dict[str, Any] = (
        json.loads(Path(own).read_bytes()) if own else copy.deepcopy(DEFAULT_LOGGING_CONFIG)
    )
    handler = f"{StartErrorHandler.__module__}.{StartErrorHandler.__qualname__}"
    config.setdefault("handlers", {})[_HANDLER] = {"()": handler, "path": str(reasons)}
    logger = config.setdefault("loggers", {}).setdefault("vllm", {})
    logger["handlers"] = [*logger.get("handlers", ()), _HANDLER]
    path.write_text(json.dumps(config), "utf-8")
    os.environ[_CONFIG_VARIABLE] = str(path)
    try:
        yield
    finally:
        if own is None:
            del os.environ[_CONFIG_VARIABLE]
        else:
            os.environ[_CONFIG_VARIABLE] = own


def reason(error: Exception) -> str:
    """The first sentence of an error that says what is wrong."""
    if isinstance(error, EngineStartFailed):
        return str(error)
    text = _without_frame(str(error))
    if not text:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" at {last[0].filename}:{last[0].lineno}" if last else ""
        return f"{type(error).__name__}{place}"
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)[0]
    return f"{type(error).__name__}: {sentence}" if isinstance(error, _WORDLESS) else sentence


def _without_frame(text: str) -> str:
    """An error's text in one line, without what Ray, pydantic and vLLM put around the reason."""
    if ended := re.search(r"core proc\(s\): \{(?:[^}]*?: (-?\d+))?", text):
        return _exit(ended[1])
    if "WorkerProc initialization failed" in text:
        return "a worker process of the engine ended without a word; memory may have run out"
    text = text.removeprefix("Failed to create vLLM engine config: ")
    if found := re.match(r"\d+ validation errors? for \w+\n(?P<where>\S.*\n)?(?P<what>.*)", text):
        where = (found["where"] or "").strip()
        what = re.sub(r" \[type=.*$", "", found["what"].strip()).removeprefix("Value error, ")
        text = f"{where}: {what}" if where else what
    return " ".join(text.split())


def _exit(code: str | None) -> str:
    if code is None:
        return "the engine's process ended without a word"
    if int(code) >= 0:
        return f"the engine's process ended with status {code}"
    name = signal.Signals(-int(code)).name
    return f"the engine's process was killed ({name}); memory may have run out"
