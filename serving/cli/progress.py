"""Progress of a long command: its phases and their times. Animated on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

console = Console(stderr=True, highlight=False)


class Phases:
    """Shows one line a phase with its elapsed seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Show `title` and its running time while the scope lasts, then its total."""
        began = time.monotonic()
        try:
            if sys.stderr.isatty():
                with Live(
                    get_renderable=lambda: _line("...", title, began),
                    console=console,
                    refresh_per_second=4,
                    transient=True,
                ):
                    yield
            else:
                console.print(f"... {title}")
                yield
        except BaseException:
            console.print(_line("no ", title, began))
            raise
        console.print(_line("ok ", title, began))

    def elapsed_s(self) -> float:
        """Seconds since the first phase."""
        return time.monotonic() - self._began


def _line(mark: str, title: str, began: float) -> Text:
    return Text(f"{mark} {title:<44} {time.monotonic() - began:6.1f} s")
