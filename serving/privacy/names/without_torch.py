"""Imports of libraries that would take torch along for nothing.

spaCy's packages import torch and transformers when they are installed: seconds and hundreds of
megabytes for code that the detector never runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

HEAVY = ("torch", "transformers", "sentence_transformers", "cupy", "h5py")


@contextmanager
def without_torch() -> Iterator[None]:
    """Inside the block the heavy libraries are as if not installed, but for those loaded already.

    Holds for the whole process (`None` in `sys.modules` is Python's own way to say so), so use it
    where nothing else imports at the same time.
    """
    absent = [name for name in HEAVY if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
