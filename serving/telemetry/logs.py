"""Logs: they go to the standard output of each process, which Ray keeps in its session folder."""

from __future__ import annotations

import logging
import sys


def configure_logs() -> None:
    """Send the `ringfence` loggers to standard output, one line a record.

    To the file itself: Ray puts a stream in the place of `sys.stdout` that walks the call stack
    for each line, which took a tenth of the gateway's CPU for a short request.
    """
    handler = logging.StreamHandler(sys.__stdout__)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("ringfence")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
