"""Where our log lines go: standard output of the process, which Ray keeps in its session folder."""

from __future__ import annotations

import logging
import sys


def configure_logs() -> None:
    """Send the `ringfence` loggers to standard output, one line a record."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("ringfence")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
