"""Runs Ringfence's detection of personal data over pipes: JSON lines in, JSON lines out.

In: `{"parts": "all" | "patterns", "texts": [...]}`. Out: `{"found": [[[start, end], ...], ...],
"s": ...}`, the time without the pipe. This separate process loads the backend by name, so that the
benchmarks import nothing of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from time import perf_counter
from typing import Any

Detect = Callable[[Sequence[str]], list[list[Any]]]


def detectors() -> dict[str, Detect]:
    """Return the detectors by name."""
    patterns = import_module("serving.privacy.patterns.patterns")
    everything = import_module("serving.privacy.detector.personal_data").PersonalData()
    return {
        "all": everything.detect,
        "patterns": lambda texts: [patterns.find(text) for text in texts],
    }


def answer(line: str, known: dict[str, Detect]) -> str:
    """Answer one line."""
    asked = json.loads(line)
    began = perf_counter()
    spans = known[asked["parts"]](asked["texts"])
    took_s = perf_counter() - began
    found = [[[span.start, span.end] for span in of_text] for of_text in spans]
    return json.dumps({"found": found, "s": took_s})


def main() -> None:
    """Report that it is ready, then answer until the input ends."""
    known = detectors()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(answer(line, known) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
